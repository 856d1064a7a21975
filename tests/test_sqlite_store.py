"""The contract on SQLite, and what is SQLite's own: the file, its rights, its locks, its damage."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

import pytest

from lc_history.model import LANES, MESSAGES, Lane, SessionKey
from lc_history.stores.sqlite import SQLiteStore
from lc_history.testing import SideDoor, StoreContract, StoreOpener


class RawSQLite:
    """Reads and damages the rows of a file, with SQL of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def _sessions(self, key: SessionKey) -> list[tuple[int, bytes]]:
        names = (name.encode("utf-8", "surrogatepass") for name in (key.user_id, key.session_id))
        return self._execute("SELECT id, description FROM sessions WHERE user_id = ? AND session_id = ?", *names)

    def raw_records(self, key: SessionKey) -> list[bytes]:
        values = []
        for id_, description in self._sessions(key):
            values.append(description)
            for pair in self._execute("SELECT id, body FROM records WHERE place >> 34 = ?", id_):
                values += pair
        return values

    def corrupt(self, key: SessionKey, seq: int, *, lane: Lane = MESSAGES) -> None:
        ((id_, _),) = self._sessions(key)
        place = (id_ << 4 | LANES.index(lane)) << 30 | seq
        self._execute("UPDATE records SET body = CAST(x'00ff' || substr(body, 2) AS BLOB) WHERE place = ?", place)


class TestSQLiteStore(StoreContract):
    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("sqlite") / "chat.db"

    @pytest.fixture(scope="class")
    @classmethod
    def open_store(cls, path: Path) -> StoreOpener:
        return partial(SQLiteStore, path)

    @pytest.fixture(scope="class")
    @classmethod
    def side_door(cls, path: Path) -> SideDoor:
        return RawSQLite(path)
