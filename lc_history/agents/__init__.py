"""Agents that resume exactly where they stopped: checkpointer, leases, runs, threads, ledger and repair."""
