"""The ways on PostgreSQL."""

from __future__ import annotations

from uuid import NAMESPACE_URL, uuid4, uuid5

import psycopg
import sqlalchemy
from langchain_community.chat_message_histories import SQLChatMessageHistory
from langchain_postgres import PostgresChatMessageHistory

from benchmarks.conversation import BODIES, FLOOR_BODIES, bare
from benchmarks.ways import AgentsPeer, LangChainPeer, LangChainPeerAsync, Ours, OursAsync, Way

TABLE = """
CREATE TABLE IF NOT EXISTS {} (
    session text NOT NULL, seq bigint GENERATED ALWAYS AS IDENTITY, id text NOT NULL, body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (session, seq)
)
"""
INSERT = "INSERT INTO raw (session, id, body) VALUES (%b, %b, %b), (%b, %b, %b) RETURNING seq"
READ = "SELECT seq, id, body, created_at FROM {} WHERE session = %b ORDER BY seq"
LAST = """
SELECT seq, id, body, created_at FROM {} WHERE (session, seq) > (%b, 0) AND (session, seq) < (%b, 9223372036854775807)
ORDER BY session DESC, seq DESC LIMIT 20
"""  # compared as one, lest the planner sorts the whole session


class Raw(Way):
    """psycopg, one prepared binary INSERT of the bytes that we store."""

    name, role, note = "psycopg, same bytes", "raw", "no dedupe, no listing, order is not commit order"
    table = "raw"
    bodies = BODIES

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(TABLE.format(self.table))

    def _rows(self, text, *values):
        return self._connection.execute(text, values, prepare=True, binary=True).fetchall()

    def append(self, session, messages):
        self._rows(INSERT, session, str(uuid4()), BODIES[0], session, str(uuid4()), BODIES[1])

    def fill(self, session, length):
        with self._connection.cursor().copy(f"COPY {self.table} (session, id, body) FROM STDIN (FORMAT BINARY)") as to:
            to.set_types(("text", "text", "bytea"))
            for place in range(length):
                to.write_row((session, str(uuid4()), self.bodies[place % 2]))

    def read(self, session):
        return self._rows(READ.format(self.table), session)

    def last(self, session):
        return self._rows(LAST.format(self.table), session, session)[::-1]

    def close(self):
        self._connection.close()


class Floor(Raw):
    """The same statement, a JSON parser, and objects filled by hand."""

    name, role, note = "floor: prepared statement, orjson, bare objects", "floor", "checks nothing"
    table = "floor"
    bodies = FLOOR_BODIES
    append = None

    def read(self, session):
        return bare([row[2] for row in super().read(session)])

    def last(self, session):
        return bare([row[2] for row in super().last(session)])


def _name(session: str) -> str:
    return str(uuid5(NAMESPACE_URL, session))  # langchain-postgres takes nothing but a UUID


def blocking(url: str) -> list[Way]:
    connection = psycopg.connect(url)
    PostgresChatMessageHistory.create_tables(connection, "peer_messages")
    own = LangChainPeer(
        lambda session: PostgresChatMessageHistory("peer_messages", _name(session), sync_connection=connection)
    )
    own.name, own.note = (
        "langchain-postgres",
        "JSONB; a connection held open; reads everything for the last 20",
    )
    own.close = connection.close
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    community = LangChainPeer(lambda session: SQLChatMessageHistory(session, connection=engine))
    community.name, community.note = "langchain-community SQL", "SQLAlchemy's objects; reads everything for the last 20"
    community.close = engine.dispose
    return [Ours(url), own, community, Raw(url), Floor(url)]


def waiting(url: str) -> list[Way]:
    from agents.extensions.memory.sqlalchemy_session import SQLAlchemySession
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    agents = AgentsPeer(lambda session: SQLAlchemySession(session, engine=engine, create_tables=True))
    agents.name = "openai-agents SQLAlchemySession"
    psycopg_engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    community = LangChainPeerAsync(lambda session: SQLChatMessageHistory(session, connection=psycopg_engine))
    community.name = "langchain-community SQL"
    return [OursAsync(url), community, agents]


async def waiting_with_connection(url: str) -> Way:
    """Return langchain-postgres on its async connection, which has to be made in the event loop."""
    connection = await psycopg.AsyncConnection.connect(url)
    peer = LangChainPeerAsync(
        lambda session: PostgresChatMessageHistory("peer_messages", _name(session), async_connection=connection)
    )
    peer.name, peer.note = "langchain-postgres", "one connection, so one task at a time"
    peer.aclose = connection.close
    return peer
