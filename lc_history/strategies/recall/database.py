"""The databases that hold an index: one SQL for SQLite and PostgreSQL, tied to the store's tables where they are there.

A trigger removes a conversation from the index in the very transaction that erases messages of it, or collects them
once expired. An index elsewhere is put right when a search meets what is gone.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from lc_history.bridge import drive, entered, settle
from lc_history.model import SessionKey
from lc_history.postgres import Postgres, escaped
from lc_history.sqlite import SQLiteFile
from lc_history.stores.postgres.session import indexed

T = TypeVar("T")
Row = tuple[Any, ...]


class Execute(Protocol):
    """Runs one statement, or, given rows, one for each of them."""

    async def __call__(self, text: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Row]:
        """Return the rows of the statement's answer; none for many."""
        ...


Work = Callable[[Execute], Awaitable[T]]


class IndexDatabase(ABC):
    """Where an index is kept."""

    @abstractmethod
    async def read(self, work: Work[T]) -> T:
        """Return what the work returns; it only reads."""

    @abstractmethod
    async def write(self, work: Work[T]) -> T:
        """Return what the work returns, in one transaction."""

    @abstractmethod
    async def migrate(self, kind: str, steps: Sequence[str]) -> None:
        """Run the steps that were not run yet, and tie the table ``<kind>_sessions`` to the store's.

        A step is one statement or more, with blank lines between them.
        """

    @abstractmethod
    def names(self, key: SessionKey) -> dict[str, Any]:
        """Return the names of a session as parameters, the way the store in this database writes them."""

    @abstractmethod
    async def close(self) -> None:
        """Release the connections."""


def open_index_database(url: str, *, schema: str | None = None) -> IndexDatabase:
    """Return the database behind ``sqlite:///path`` or ``postgresql://``; nothing is connected before the first use."""
    if url.startswith("sqlite:"):
        return SQLiteIndexDatabase(Path(unquote(urlsplit(url).path.removeprefix("/"))))
    if url.startswith("postgresql"):
        return PostgresIndexDatabase(Postgres.open(url, schema=schema))
    raise ValueError(f"an index is kept in SQLite or PostgreSQL, not in {urlsplit(url).scheme!r}")


_PARAMETER: Final = re.compile(r"%\((\w+)\)s")

_SQLITE_TYPES: Final = {"{schema}": "", "{identity}": "INTEGER PRIMARY KEY", "{name}": "BLOB"}
_SQLITE_TIE: Final = """
CREATE TRIGGER IF NOT EXISTS {kind}_erased AFTER DELETE ON records WHEN (OLD.place >> 30) & 15 = 0 BEGIN
    DELETE FROM {kind}_sessions WHERE (user_id, session_id) =
        (SELECT user_id, session_id FROM sessions WHERE id = OLD.place >> 34);
END
"""
_SQLITE_CASCADE: Final = """
CREATE TRIGGER IF NOT EXISTS {kind}_left AFTER DELETE ON {kind}_sessions BEGIN
    DELETE FROM {kind}_turns WHERE session = OLD.id;
    DELETE FROM {kind}_words WHERE session = OLD.id;
    DELETE FROM {kind}_spread WHERE session = OLD.id;
END
"""


class SQLiteIndexDatabase(IndexDatabase):
    """An index in a SQLite file: the store's own, or one for itself."""

    def __init__(self, path: Path) -> None:
        self._file = SQLiteFile(path, busy_timeout=timedelta(seconds=10), synchronous="normal")

    @override
    async def read(self, work: Work[T]) -> T:
        return await self._file.read(lambda db: _driven(db, work))

    @override
    async def write(self, work: Work[T]) -> T:
        return await self._file.write(lambda db: _driven(db, work))

    @override
    async def migrate(self, kind: str, steps: Sequence[str]) -> None:
        def work(db: Connection) -> None:
            db.execute("CREATE TABLE IF NOT EXISTS index_versions (name TEXT PRIMARY KEY, version INTEGER NOT NULL)")
            found = db.execute("SELECT version FROM index_versions WHERE name = ?", (kind,)).fetchone()
            for step in steps[found[0] if found else 0 :]:
                for statement in _replaced(step, _SQLITE_TYPES).split("\n\n"):
                    db.execute(statement)
            db.execute("INSERT OR REPLACE INTO index_versions VALUES (?, ?)", (kind, len(steps)))
            for trigger in (_SQLITE_TIE, _SQLITE_CASCADE):
                db.execute(trigger.replace("{kind}", kind))

        await self._file.write(work)

    @override
    def names(self, key: SessionKey) -> dict[str, Any]:
        user, session = (name.encode("utf-8", "surrogatepass") for name in (key.user_id, key.session_id))
        return {"user": user, "session": session, "name": json.dumps(key.session_id)}

    @override
    async def close(self) -> None:
        await self._file.close()


@lru_cache(maxsize=100)
def _for_sqlite(text: str) -> str:
    return _PARAMETER.sub(r":\1", text.replace("{schema}", ""))


def _driven(db: Connection, work: Work[T]) -> T:
    async def execute(text: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Row]:
        statement = _for_sqlite(text)
        if isinstance(parameters, Mapping):
            return db.execute(statement, parameters).fetchall()
        db.executemany(statement, parameters)
        return []

    async def done() -> T:
        return await work(execute)

    return drive(done())


def _replaced(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


_POSTGRES_TYPES: Final = {"{identity}": "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "{name}": 'text COLLATE "C"'}
_POSTGRES_TIE: Final = """
DO $tie$ BEGIN
    IF to_regclass('{schema}lc_history_records') IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION {schema}{kind}_erased() RETURNS trigger LANGUAGE plpgsql AS $erased$ BEGIN
            DELETE FROM {schema}{kind}_sessions AS i USING {schema}lc_history_sessions AS s
            WHERE s.id IN (SELECT stream >> 4 FROM gone WHERE stream & 15 = 0)
                AND i.user_id = s.user_id AND i.session_id = s.session_id;
            RETURN NULL;
        END $erased$;
        CREATE OR REPLACE TRIGGER {kind}_erased AFTER DELETE ON {schema}lc_history_records
            REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION {schema}{kind}_erased();
    END IF;
END $tie$
"""


class PostgresIndexDatabase(IndexDatabase):
    """An index in a PostgreSQL database: the store's own, or another."""

    def __init__(self, database: Postgres) -> None:
        self.database = database

    @override
    async def read(self, work: Work[T]) -> T:
        return await self.database.run(lambda connection: self._working(connection, work))

    @override
    async def write(self, work: Work[T]) -> T:
        async def in_transaction(connection: Any) -> T:
            async with entered(connection.transaction()):
                return await self._working(connection, work)

        return await self.database.run(in_transaction)

    async def _working(self, connection: Any, work: Work[T]) -> T:
        async def execute(text: str, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Row]:
            if isinstance(parameters, Mapping):
                cursor = await self.database.execute(connection, text, parameters)
                return await settle(cursor.fetchall()) if cursor.description else []
            await settle(connection.cursor().executemany(self.database.qualified(text), parameters))
            return []

        return await work(execute)

    @override
    async def migrate(self, kind: str, steps: Sequence[str]) -> None:
        statements = [_replaced(step, _POSTGRES_TYPES).replace("\n\n", ";\n") for step in steps]
        await self.database.migrate(kind, statements)
        tie = self.database.qualified(_POSTGRES_TIE).replace("{kind}", kind)

        async def work(connection: Any) -> None:
            await settle(connection.execute(tie))

        await self.database.run(work)

    @override
    def names(self, key: SessionKey) -> dict[str, Any]:
        user, session = (indexed(escaped(name))[0] for name in (key.user_id, key.session_id))
        return {"user": user, "session": session, "name": json.dumps(key.session_id)}

    @override
    async def close(self) -> None:
        await self.database.close()
