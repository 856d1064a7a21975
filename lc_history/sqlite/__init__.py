"""A SQLite file that several parts of the library keep their tables in."""

from lc_history.sqlite.file import SQLiteFile, Synchronous
from lc_history.sqlite.schema import APPLICATION_ID, MIGRATIONS

__all__ = ["APPLICATION_ID", "MIGRATIONS", "SQLiteFile", "Synchronous"]
