"""What each operation may cost: round trips, statements, calls, capacity and bytes, counted and never timed.

A cost here is a promise. One that grows with the length of a conversation, or by one more round trip, is a regression.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import boto3
import psycopg
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from redis import Redis

from lc_history import AuditTrail, ChatHistories, SessionKey, with_history
from lc_history.agents.checkpoints.checkpointer import open_checkpointer
from lc_history.codec import Codec
from lc_history.middleware import HistoryMiddleware
from lc_history.model import DEFAULT_USER
from lc_history.offline import OfflineChatModel
from lc_history.stores.dynamodb import DynamoDBStore
from lc_history.stores.firestore import FirestoreStore
from lc_history.stores.postgres import sql
from lc_history.stores.tiered import Archiver, TieredStore
from lc_history.testing.meters import DynamoDBMeter, MeteredFirestore
from lc_history.testing.proxy import Proxy
from lc_history.testing.servers import RedisServer
from lc_history.transcript import Policy

SHORT, LONG = 20, 1000
WARMING = 4  # a pool of psycopg may begin with two connections, used in turn
LIFE = timedelta(hours=1)
OVERHEAD = 1.12  # bytes vary a little with pages and allocators


def said(count: int = 2) -> list[BaseMessage]:
    """Return messages of 500 characters."""
    return [(HumanMessage, AIMessage)[place % 2]("word " * 100, id=str(uuid4())) for place in range(count)]


def begun(histories: ChatHistories, length: int) -> str:
    session = uuid4().hex
    histories.session(session).add_messages(said(length))
    return session


class Counted:
    """Histories behind a proxy that counts."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._proxy = Proxy(parts.port or 0)
        port = self._proxy.__enter__().port
        account = f"{parts.username}@" if parts.username else ""
        self.url = urlunsplit(parts._replace(netloc=f"{account}127.0.0.1:{port}"))
        self.histories = ChatHistories.open(self.url)
        self.histories.migrate()

    def close(self) -> None:
        self.histories.close()
        self._proxy.__exit__()

    def trips(self, operation: Callable[[], Any]) -> int:
        before = self._proxy.round_trips
        operation()
        return self._proxy.round_trips - before

    @property
    def connections(self) -> int:
        return self._proxy.connections


@pytest.fixture(params=["redis_url", "postgres_url"])
def counted(request: pytest.FixtureRequest) -> Iterator[Counted]:
    with closing(Counted(request.getfixturevalue(request.param))) as counted:
        yield counted


def warm(counted: Counted, operation: Callable[[], Any]) -> int:
    """Return the round trips of an operation on connections that have prepared its statement and know its script."""
    for _ in range(WARMING):
        operation()
    before = counted.connections
    trips = counted.trips(operation)
    assert counted.connections == before
    return trips


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_one_round_trip_each_at_any_length(counted: Counted, length: int) -> None:
    histories, session = counted.histories, begun(counted.histories, length)
    again = said()
    costs = {
        "append": warm(counted, lambda: histories.session(session).add_messages(said())),
        "append again": warm(counted, lambda: histories.session(session).add_messages(again)),
        "read": warm(counted, lambda: histories.session(session).messages),
        "last": warm(counted, lambda: histories.session(session).last(20)),
        "page": warm(counted, lambda: histories.session(session).page(before=15, last=5)),
        "info": warm(counted, lambda: histories.session(session).info()),
    }
    assert costs == dict.fromkeys(costs, 1)


def test_a_request_is_one_read_and_one_write(counted: Counted) -> None:
    chat = with_history(RunnableLambda(lambda _: AIMessage("Hello.")), counted.histories)
    config: Any = {"configurable": {"session_id": begun(counted.histories, SHORT)}}
    assert warm(counted, lambda: chat.invoke("Hi.", config)) == 2


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_an_event_of_an_audit_trail_is_one_read_and_one_write_at_any_length(counted: Counted, length: int) -> None:
    options = {"key_prefix": "trail"} if counted.url.startswith("redis") else {"schema": "trail"}
    with AuditTrail.open(counted.url, **options) as trail:
        trail.migrate()
        histories = ChatHistories(counted.histories.store, policy=Policy(audit=trail))
        chat = with_history(RunnableLambda(lambda _: AIMessage("Hello.")), histories)
        session = begun(counted.histories, SHORT)
        for _ in range(length):
            trail.record(SessionKey(DEFAULT_USER, session), "read")
        config: Any = {"configurable": {"session_id": session}}
        assert warm(counted, lambda: chat.invoke("Hi.", config)) == 2 + 2 * 2
        assert warm(counted, lambda: trail.events(session, last=20)) == 1


@pytest.mark.filterwarnings("ignore::langchain_core._api.deprecation.LangChainDeprecationWarning")
def test_a_request_of_the_deprecated_runnable_too(counted: Counted) -> None:
    from langchain_core.runnables.history import RunnableWithMessageHistory

    model = RunnableLambda(lambda _: AIMessage("Hello."))
    chat = RunnableWithMessageHistory(model, counted.histories.get_session_history)
    config: Any = {"configurable": {"session_id": begun(counted.histories, SHORT)}}
    assert warm(counted, lambda: chat.invoke([HumanMessage("Hi.")], config)) == 2


def test_an_agent_reads_once_and_writes_before_and_after_the_model(counted: Counted) -> None:
    middleware: Any = HistoryMiddleware(counted.histories)
    agent = create_agent(OfflineChatModel(), tools=[], middleware=[middleware])
    config: Any = {"configurable": {"session_id": begun(counted.histories, SHORT)}}
    assert warm(counted, lambda: agent.invoke({"messages": [HumanMessage("Hi.")]}, config)) == 3


def test_a_listing_reads_no_body(counted: Counted) -> None:
    histories, user = counted.histories, uuid4().hex
    for _ in range(3):
        history = histories.session(uuid4().hex, user_id=user)
        history.add_messages([HumanMessage("x" * 100_000)])
    assert warm(counted, lambda: histories.sessions(user)) == (2 if counted.url.startswith("redis") else 1)


def test_a_listing_of_two_stores_asks_the_hot_one_once_for_all(redis_url: str, postgres_url: str) -> None:
    with closing(Counted(redis_url)) as hot, closing(Counted(postgres_url)) as cold:
        store = TieredStore(hot=hot.histories.store, cold=cold.histories.store)
        histories = ChatHistories(store)
        for count in (3, 20):  # redis-py sends more than 6,000 bytes in pieces, and the server may answer between them
            user = uuid4().hex
            for _ in range(count):
                histories.session(uuid4().hex, user_id=user).add_messages(said())
            assert Archiver(store, idle=timedelta(hours=-1)).run_once().moved >= count
            back = histories.sessions(user).items[0]
            assert back.archived
            histories.session(back.session_id, user_id=user).add_messages(said())
            page = warm(cold, lambda user=user: histories.sessions(user, limit=50))
            assert page == 1
            # The index and the heads of the sessions at home, and one question for all that were found in the cold one.
            assert hot.trips(lambda user=user: histories.sessions(user, limit=50)) == 3
            assert len(histories.sessions(user, limit=50).items) == count


def test_commands_of_redis(own_redis: Callable[..., RedisServer]) -> None:
    """A life that each turn renews costs two keys' new ends; the listings are told of it now and then."""
    server = own_redis()
    for options, commands in (({}, 6), ({"ttl": LIFE}, 7), ({"ttl": LIFE, "sliding": True}, 9)):
        with ChatHistories.open(server.url, **options) as histories, Redis.from_url(server.url) as client:
            history = histories.session(begun(histories, SHORT))
            history.add_messages(said())
            append, last = partial(history.add_messages, said()), partial(history.last, 20)
            for asked, most in ((append, commands), (last, 2)):
                client.config_resetstat()
                asked()
                stats: Any = client.info("commandstats")
                ours = {name for name in stats if name.split("_")[1] not in ("evalsha", "config|resetstat", "info")}
                assert sum(stats[name]["calls"] for name in ours) == most


def test_a_long_session_among_short_ones_is_not_read_whole(postgres_url: str) -> None:
    """The planner expects sessions to be as short as most are, and must not sort a long one for its last twenty."""
    schema = f"t{uuid4().hex[:8]}"
    with ChatHistories.open(postgres_url, schema=schema) as histories:
        histories.migrate()
        for _ in range(4):
            for short in range(200):
                histories.session(f"short {short}").add_messages(said(1))
            histories.session("long").add_messages(said(250))
    values = {"session": "long", "user": DEFAULT_USER, "after": 0}
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"ANALYZE {schema}.lc_history_records")
        for backwards in (True, False):
            text = sql.read("messages", backwards=backwards, before=False, limit=20).replace("{schema}", f"{schema}.")
            (plan,) = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", values).fetchone()[0]
            assert max(_rows_of(plan["Plan"])) == 20


def test_a_user_of_many_sessions_waits_for_none_of_them(postgres_url: str) -> None:
    """Without statistics, the planner takes the index of a user's listing for as good as the one of the names."""
    schema, user = f"t{uuid4().hex[:8]}", uuid4().hex
    with ChatHistories.open(postgres_url, schema=schema) as histories:
        histories.migrate()
        for session in range(100):
            histories.session(f"{session}", user_id=user).add_messages(said(2))
    ids = {f"id{place}": uuid4().hex for place in range(2)}
    values: dict[str, Any] = {"session": "7", "user": user, "after": 0, "body0": b"", "body1": b"", "seq": 1} | ids
    values |= {"expected": b"", "body": b""}
    conditions: Any = {"expiry": None, "shortens": True, "expected": False, "since": False}
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for text in (
            sql.append("messages", 2, create=True, **conditions),
            sql.append("messages", 2, create=False, **conditions),
            sql.read("messages", backwards=True, before=False, limit=20),
            sql.replace("messages"),
            sql.DESCRIBE,
        ):
            explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {text}".replace("{schema}", f"{schema}.")
            (plan,) = connection.execute(explained, values | ids).fetchone()[0]
            assert sum(_rows_of(plan["Plan"], "Rows Removed by Filter")) <= 1
            ids = {name: uuid4().hex for name in ids}


def _rows_of(node: dict[str, Any], what: str = "Actual Rows") -> Iterator[float]:
    yield node.get(what, 0)
    for part in node.get("Plans", ()):
        yield from _rows_of(part, what)


def test_statements_of_sqlite(tmp_path: Path) -> None:
    with ChatHistories.open(f"sqlite:///{tmp_path / 'chat.db'}") as histories:
        sessions = {length: begun(histories, length) for length in (SHORT, LONG)}
        (connection,) = histories.store._file._idle
        statements: list[str] = []
        connection.set_trace_callback(statements.append)

        def count(operation: Callable[[], Any]) -> int:
            statements.clear()
            operation()
            return len(statements)

        for session in sessions.values():
            history = histories.session(session)
            assert count(lambda history=history: history.last(20)) == 1
            assert count(lambda history=history: history.add_messages(said())) <= 10
            assert count(history.info) <= 4
        connection.set_trace_callback(None)


def test_what_a_message_takes_where_it_lies(
    redis_url: str, postgres_url: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """Stored bytes for each message, beyond its encoded body: its id, its number, its time, and two indexes."""
    body = sum(len(Codec().encode(message)) for message in said(2)) / 2
    for url, size, beyond in (
        (redis_url, _redis_bytes, 200),
        (postgres_url, _postgres_bytes, 260),
        (f"sqlite:///{tmp_path / 'chat.db'}", _sqlite_bytes, 200),
    ):
        with subtests.test(url.partition(":")[0]), ChatHistories.open(url) as histories:
            histories.migrate()
            begun(histories, 2)
            before = size(url)
            for _ in range(10):
                begun(histories, 200)
            assert body < (size(url) - before) / 2000 < (body + beyond) * OVERHEAD


def _redis_bytes(url: str) -> int:
    with Redis.from_url(url) as client:
        return sum(client.memory_usage(key) or 0 for key in client.scan_iter("lch:*", count=1000))


def _postgres_bytes(url: str) -> int:
    text = "SELECT pg_total_relation_size('lc_history_records') + pg_total_relation_size('lc_history_sessions')"
    with psycopg.connect(url, autocommit=True) as connection:
        return int(connection.execute(text).fetchone()[0])


def _sqlite_bytes(url: str) -> int:
    path = Path(url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def test_the_bill_of_firestore(firestore_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", firestore_host)
    client = MeteredFirestore("test")
    assert client._firestore_api
    histories = ChatHistories(FirestoreStore(client, prefix=f"t{uuid4().hex[:8]}"))
    for length in (SHORT, 100):
        history = histories.session(begun(histories, length))
        client.meter.bill()
        history.add_messages(said())
        assert client.meter.bill() == {"calls": 2, "reads": 1, "writes": 3}
        history.last(20)
        assert client.meter.bill() == {"calls": 1, "reads": 21}
        history.info()
        assert client.meter.bill() == {"calls": 1, "reads": 1}
    client.close()


def test_the_bill_of_dynamodb(dynamodb_endpoint: str) -> None:
    table, keys = f"t{uuid4().hex[:8]}", {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    client = boto3.client("dynamodb", endpoint_url=dynamodb_endpoint, region_name="us-east-1", **keys)
    with ChatHistories(DynamoDBStore(table=table, client=client)) as histories:
        histories.migrate()
        meter = DynamoDBMeter(client)
        for length in (8, 100):
            session = uuid4().hex
            for _ in range(length // 4):
                histories.session(session).add_messages(said(4))
            meter.bill()
            histories.session(session).add_messages(said())
            # Two messages below 1 KB and their markers, the head and its two indexes, all doubled by the transaction.
            assert meter.bill() == {"calls": 2, "read units": 1, "write units": 24}
            histories.session(session).last(8)
            assert meter.bill() == {"calls": 1, "read units": 2}
    client.close()


def test_a_step_of_a_checkpointed_agent(postgres_url: str) -> None:
    with closing(Counted(postgres_url)) as counted:
        schema = f"t{uuid4().hex[:8]}"
        with open_checkpointer(counted.url, schema=schema) as saver:
            saver.setup()
            agent = create_agent(OfflineChatModel(), tools=[], checkpointer=saver)

            def turn(thread: str) -> int:
                config: Any = {"configurable": {"thread_id": thread}}
                return counted.trips(lambda: agent.invoke({"messages": "Hi."}, config, durability="sync"))

            for _ in range(3):
                turn("warm")
            thread = uuid4().hex
            costs = [turn(thread) for _ in range(20)]
        # The server may answer the begin of a pipeline before its end is sent, which then counts twice: so the least.
        assert min(costs[1:9]) == min(costs[-8:]) <= 8
