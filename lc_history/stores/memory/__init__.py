"""A store in this process: `store` has the verbs, `sessions` what is kept."""

from lc_history.stores.memory.store import MemoryStore

__all__ = ["MemoryStore"]
