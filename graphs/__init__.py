"""Agents as they are meant to be built on lc-history: short enough to be read, whole enough to be deployed."""
