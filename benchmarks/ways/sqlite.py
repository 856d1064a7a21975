"""The ways on SQLite, each in a file of its own; each waits for the disk (synchronous=full) unless it says so."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from uuid import uuid4

import sqlalchemy
from langchain_community.chat_message_histories import SQLChatMessageHistory

from benchmarks.conversation import BODIES, FLOOR_BODIES, bare
from benchmarks.ways import AgentsPeer, LangChainPeer, LangChainPeerAsync, Ours, OursAsync, Way

TABLE = "CREATE TABLE IF NOT EXISTS raw (seq INTEGER PRIMARY KEY, session TEXT, id TEXT, body BLOB)"


class Raw(Way):
    """Python's sqlite3 with a write-ahead log, one transaction of two INSERTs."""

    name, role, note = "sqlite3, same bytes", "raw", "no dedupe, no listing, one session"
    bodies = BODIES

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = full")
        self._connection.execute(TABLE)
        self._connection.execute("CREATE INDEX IF NOT EXISTS of_session ON raw (session, seq)")

    def append(self, session, messages):
        self._connection.execute("BEGIN IMMEDIATE")
        rows = [(session, str(uuid4()), body) for body in self.bodies]
        self._connection.executemany("INSERT INTO raw (session, id, body) VALUES (?, ?, ?)", rows)
        self._connection.execute("COMMIT")

    def fill(self, session, length):
        self._connection.execute("BEGIN IMMEDIATE")
        rows = [(session, str(uuid4()), self.bodies[place % 2]) for place in range(length)]
        self._connection.executemany("INSERT INTO raw (session, id, body) VALUES (?, ?, ?)", rows)
        self._connection.execute("COMMIT")

    def read(self, session):
        return self._connection.execute("SELECT body FROM raw WHERE session = ? ORDER BY seq", (session,)).fetchall()

    def last(self, session):
        text = "SELECT body FROM raw WHERE session = ? ORDER BY seq DESC LIMIT 20"
        return self._connection.execute(text, (session,)).fetchall()[::-1]

    def close(self):
        self._connection.close()


class Floor(Raw):
    """The same statement, a JSON parser, and objects filled by hand."""

    name, role, note = "floor: sqlite3, orjson, bare objects", "floor", "checks nothing"
    bodies = FLOOR_BODIES
    append = None

    def read(self, session):
        return bare([row[0] for row in super().read(session)])

    def last(self, session):
        return bare([row[0] for row in super().last(session)])


def blocking(directory: Path) -> list[Way]:
    engine = sqlalchemy.create_engine(f"sqlite:///{directory / 'community.db'}")
    community = LangChainPeer(lambda session: SQLChatMessageHistory(session, connection=engine))
    community.name = "langchain-community SQL"
    community.note = "rollback journal, SQLAlchemy's objects; reads everything for the last 20"
    community.close = engine.dispose
    normal = Ours(f"sqlite:///{directory / 'normal.db'}", synchronous="normal")
    normal.name, normal.role = f"{Ours.name}, `synchronous=normal`", "variant"
    normal.note = "a power cut may take the latest turns, whole ones; a crash of the process none"
    return [
        Ours(f"sqlite:///{directory / 'ours.db'}"),
        normal,
        community,
        Raw(directory / "raw.db"),
        Floor(directory / "floor.db"),
    ]


def waiting(directory: Path) -> list[Way]:
    from agents import SQLiteSession
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(f"sqlite+aiosqlite:///{directory / 'community.db'}")
    community = LangChainPeerAsync(lambda session: SQLChatMessageHistory(session, connection=engine))
    community.name, community.note = "langchain-community SQL", "rollback journal, SQLAlchemy's objects, aiosqlite"
    agents = AgentsPeer(lambda session: SQLiteSession(session, str(directory / "agents.db")))
    agents.name = "openai-agents SQLiteSession"
    return [OursAsync(f"sqlite:///{directory / 'ours.db'}"), community, agents]
