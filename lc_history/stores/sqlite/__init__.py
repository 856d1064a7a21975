"""A store in one SQLite file: `store` has the verbs, `rows` the tables."""

from lc_history.stores.sqlite.store import SQLiteStore

__all__ = ["SQLiteStore"]
