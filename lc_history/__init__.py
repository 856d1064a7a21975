"""Durable conversation state for LangChain and LangGraph."""
