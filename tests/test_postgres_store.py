"""The contract on PostgreSQL 18 and 15, and what a server does: broken connections, restarts, migrations, races."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from lc_history.bridge import drive
from lc_history.errors import ConflictError
from lc_history.model import LANES, MESSAGES, Appended, Entry, Expiry, SessionKey
from lc_history.postgres import escaped
from lc_history.stores.postgres import PostgresStore, sql
from lc_history.stores.postgres.sql import LANE_NUMBERS
from lc_history.stores.postgres.turn import Turn
from lc_history.testing import StoreContract, StoreOpener
from lc_history.testing.proxy import Proxy
from lc_history.testing.races import crowd


def new_schema(url: str, **options: bool) -> StoreOpener:
    """Return what opens a store in a schema of its own, migrated."""
    opener = partial(PostgresStore.from_url, url, schema=f"test {uuid4().hex}", **options)
    store = opener()
    drive(store.migrate())
    drive(store.close())
    return opener


class Beneath:
    """Looks beneath a store with a connection of its own."""

    def __init__(self, url: str, schema: str) -> None:
        self.connection = psycopg.connect(
            url, autocommit=True, options="-c search_path=" + f'"{schema}"'.replace(" ", "\\ ")
        )

    def stream(self, key: SessionKey) -> int:
        names = (escaped(key.user_id), escaped(key.session_id))
        row = self.connection.execute(
            "SELECT id * 16 FROM lc_history_sessions WHERE user_id = %s AND session_id = %s", names
        ).fetchone()
        return row[0] if row else -16

    def raw_records(self, key: SessionKey) -> list[bytes]:
        begin = self.stream(key)
        rows = self.connection.execute(
            "SELECT body, convert_to(id, 'UTF8') FROM lc_history_records WHERE stream BETWEEN %s AND %s",
            (begin, begin + 15),
        ).fetchall()
        description = self.connection.execute(
            "SELECT description FROM lc_history_sessions WHERE id = %s", (begin // 16,)
        )
        return [value for row in [*rows, *description.fetchall()] for value in row]

    def corrupt(self, key: SessionKey, seq: int, *, lane: str = MESSAGES) -> None:
        self.connection.execute(
            "UPDATE lc_history_records SET body = 'rubbish' WHERE stream = %s AND seq = %s",
            (self.stream(key) + LANE_NUMBERS[lane], seq),
        )


@pytest.fixture(scope="module")
def open_18(postgres_url):
    return new_schema(postgres_url)


@pytest.fixture(scope="module")
def open_15(postgres15_url):
    return new_schema(postgres15_url)


class PostgresContract(StoreContract):
    @pytest.fixture
    def side_door(self, open_store):
        beneath = Beneath(open_store.args[0], open_store.keywords["schema"])
        yield beneath
        beneath.connection.close()


class TestPostgres18(PostgresContract):
    @pytest.fixture
    def open_store(self, open_18):
        return open_18


class TestPostgres15(PostgresContract):
    """The same SQL on the oldest server: what comes through the other door, and more random histories, 18 has seen."""

    examples = 5

    @pytest.fixture(params=["blocking"])
    def colour(self, request):
        return request.param

    @pytest.fixture
    def open_store(self, open_15):
        return open_15


@pytest.fixture
def store(open_18):
    store = open_18()
    yield store
    drive(store.close())


@pytest.fixture
def beneath(open_18):
    beneath = Beneath(open_18.args[0], open_18.keywords["schema"])
    yield beneath
    beneath.connection.close()


@pytest.fixture
def key():
    return SessionKey(f"user-{uuid4().hex}", "s1")


def entries(*names):
    return [Entry(name, f"said {name}".encode()) for name in names]


@pytest.fixture
def proxy(open_18):
    with Proxy(urlsplit(open_18.args[0]).port) as proxy:
        yield proxy


@pytest.fixture
def near(open_18, proxy):
    """Return a store behind the proxy."""
    url = open_18.args[0]
    near = PostgresStore.from_url(url.replace(str(urlsplit(url).port), str(proxy.port)), **open_18.keywords)
    yield near
    drive(near.close())


def test_one_statement_each(near, proxy, key):
    sliding = Expiry(timedelta(hours=1), sliding=True)
    verbs = (
        (2, lambda key: near.append(key, entries("a", "b"))),  # a session begins: some that have ended are swept
        (1, lambda key: near.append(key, entries("c", "d"))),
        (1, lambda key: near.append(key, entries("e", "f"), expiry=sliding, expected_seq=4, not_erased_since=4)),
        (1, lambda key: near.append(key, entries("c", "d"))),  # a retry
        (1, lambda key: near.append(key, entries("x"), lane="audit", create=False)),
        (1, lambda key: near.append(key, entries(*map(str, range(32))))),
        (1, near.read),
        (1, lambda key: near.read(key, last=20)),
        (1, lambda key: near.read(key, after=2, before=9, first=3)),
        (1, lambda key: near.replace(key, 1, b"new", expected=b"said a")),
        (1, near.describe),
        (1, lambda key: near.sessions(key.user_id)),
        (1, lambda key: near.sessions(key.user_id, archived=False, limit=1)),
        (1, lambda _: near.scan(limit=3)),
    )
    for _, verb in verbs:  # a statement is prepared when it is first used on a connection
        drive(verb(SessionKey(key.user_id, "earlier")))
    for trips, verb in verbs:
        before = proxy.round_trips
        drive(verb(key))
        assert proxy.round_trips - before == trips
    assert proxy.connections == 1


def waiting_for_a_lock(beneath, count):
    text = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    deadline = time.monotonic() + 5
    while beneath.connection.execute(text).fetchone()[0] < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_same_ids_while_waiting_for_the_lock(store, beneath, key):
    """What another writer commits while a statement waits is not in its snapshot: no number may be given twice."""
    drive(store.append(key, entries("begin")))
    with ThreadPoolExecutor(4) as threads:
        with beneath.connection.transaction():
            beneath.connection.execute(
                "SELECT 1 FROM lc_history_sessions WHERE user_id = %s FOR UPDATE", (key.user_id,)
            )
            turns = [entries("a", "b"), entries("a", "b"), entries("b", "c"), entries("x", "a")]
            writing = [threads.submit(drive, store.append(key, turn)) for turn in turns]
            waiting_for_a_lock(beneath, 4)
        appended = [each.result() for each in writing]
    records = drive(store.read(key)).records
    numbers = {record.id: record.seq for record in records}
    assert sorted(numbers) == ["a", "b", "begin", "c", "x"]
    assert [record.seq for record in records] == [1, 2, 3, 4, 5]
    for turn, told in zip(turns, appended, strict=True):
        assert told.seqs == tuple(numbers[entry.id] for entry in turn)
    assert sum(new for told in appended for new in told.new) == 4
    info = drive(store.describe(key))
    assert (info.count, info.last_seq) == (5, 5)


def test_first_turns_with_the_same_ids(store, key):
    for round_ in range(10):
        one = SessionKey(key.user_id, f"s{round_}")
        appended = drive(crowd(8, lambda number, one=one: store.append(one, entries("a", f"{number % 2}"))))
        records = drive(store.read(one)).records
        assert [record.seq for record in records] == [1, 2, 3]
        assert sum(told.created for told in appended) == 1
        assert sum(new for told in appended for new in told.new) == 3


def test_terminated_while_it_appends(store, beneath, key):
    drive(store.append(key, entries("begin")))
    with ThreadPoolExecutor(1) as threads:
        with beneath.connection.transaction():
            beneath.connection.execute(
                "SELECT 1 FROM lc_history_sessions WHERE user_id = %s FOR UPDATE", (key.user_id,)
            )
            writing = threads.submit(drive, store.append(key, entries("a", "b")))
            waiting_for_a_lock(beneath, 1)
            beneath.connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
        assert writing.result().seqs == (2, 3)
    assert [record.id for record in drive(store.read(key)).records] == ["begin", "a", "b"]


def test_a_lost_reply_doubles_nothing(near, proxy, key):
    drive(near.append(key, entries("a", "b")))
    drive(near.append(key, entries("c", "d")))
    proxy.swallow_next_reply()
    assert drive(near.append(key, entries("e", "f"))) == Appended((5, 6), (False, False))
    assert [record.id for record in drive(near.read(key)).records] == list("abcdef")


def test_the_server_restarts_in_mid_conversation(own_postgres, key):
    server = own_postgres()
    store = PostgresStore.from_url(server.url)
    drive(store.migrate())
    drive(store.append(key, entries("a", "b")))
    server.restart()
    assert drive(store.append(key, entries("b", "c"))).seqs == (2, 3)
    server.restart()
    assert [record.id for record in drive(store.read(key)).records] == ["a", "b", "c"]
    drive(store.close())


def test_nothing_stays_in_a_transaction(store, beneath, key):
    drive(store.append(key, entries("a")))
    with pytest.raises(ConflictError):
        drive(store.append(key, entries("b"), expected_seq=7))
    drive(store.delete(key, through=1))
    drive(store.delete(key))
    states = beneath.connection.execute(
        "SELECT DISTINCT state FROM pg_stat_activity WHERE application_name = 'lc-history'"
    ).fetchall()
    assert states == [("idle",)]


def touched(beneath):
    """Return how many blocks of our tables and indexes were ever touched."""
    beneath.connection.execute("SELECT pg_stat_force_next_flush()")
    return beneath.connection.execute(
        """
        SELECT sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read)::int
        FROM pg_statio_user_tables WHERE schemaname = current_schema()
        """
    ).fetchone()[0]


def fill(beneath, user, sessions, records):
    beneath.connection.execute(
        """
        WITH s AS (
            INSERT INTO lc_history_sessions
                (user_id, session_id, alive, archived, messages, count, created_at, updated_at)
            SELECT %(user)s, n::text, true, n %% 2 = 0, %(records)s, %(records)s, now(), now() + n * interval '1 ms'
            FROM generate_series(1, %(sessions)s) AS n RETURNING id
        )
        INSERT INTO lc_history_records (stream, seq, created_at, id, body)
        SELECT s.id * 16, n, now(), 'm' || n, 'said' FROM s, generate_series(1, %(records)s) AS n
        """,
        {"user": user, "sessions": sessions, "records": records},
    )


@pytest.fixture
def young(postgres_url):
    """Return a look beneath a database that is too young for statistics, with 20,000 of everything."""
    opener = new_schema(postgres_url)
    beneath = Beneath(postgres_url, opener.keywords["schema"])
    beneath.connection.execute("ALTER TABLE lc_history_sessions SET (autovacuum_enabled = off)")
    beneath.connection.execute("ALTER TABLE lc_history_records SET (autovacuum_enabled = off)")
    yield beneath
    beneath.connection.execute(f'DROP SCHEMA "{opener.keywords["schema"]}" CASCADE')
    beneath.connection.close()


@pytest.mark.parametrize("planned", ["when all was empty", "when all was there", "with statistics"])
def test_no_statement_grows(young, planned):
    """A plan that reads a whole session is never taken, however little the planner knows."""

    def run(text, parameters):
        young.connection.execute(text.replace("{schema}", ""), parameters, prepare=True)

    def turn(user):
        return Turn(
            SessionKey(user, "1"), entries("new", "newer"), "messages", None, None, None, create=True
        ).statement()

    window = {"user": "long", "session": "1", "after": 0, "before": None}
    page = {"user": "many", "limit": 51, "time": datetime.now(UTC) + timedelta(hours=1), "id": 0, "idle": None}
    statements = {
        "last": (sql.read("messages", backwards=True, before=False, limit=20), window),
        "first": (sql.read("messages", backwards=False, before=False, limit=20), window),
        "sessions": (sql.listing(None, after=False), page),
        "scan": (sql.scan(idle=False, after=False), page),
    }
    if planned == "with statistics":  # without them, a page of the archived ones is found by sorting all of them
        statements["archived"] = (sql.listing(True, after=True), page)
    young.connection.execute("SET plan_cache_mode = force_generic_plan")
    if planned == "when all was empty":
        for text, parameters in (turn("short"), *statements.values()):
            run(text, parameters)
    fill(young, "many", 20_000, 1)
    fill(young, "long", 1, 20_000)
    if planned == "with statistics":
        young.connection.execute("ANALYZE")
    for name, (text, parameters) in {"append": turn("long"), **statements}.items():
        begin = touched(young)
        run(text, parameters)
        assert touched(young) - begin < 150, name


def test_ended_sessions_are_swept_a_few_at_a_time(store, beneath, key):
    count = "SELECT count(*) FROM lc_history_sessions WHERE user_id = %s"
    for number in range(12):
        one = SessionKey(key.user_id, f"ended {number}")
        drive(store.append(one, entries("a"), expiry=Expiry(timedelta(hours=1))))
        if number % 2:
            drive(store.delete(one))
    beneath.connection.execute(
        "UPDATE lc_history_sessions SET expires_at = now() - interval '1 hour' WHERE user_id = %s", (key.user_id,)
    )
    streams = beneath.connection.execute("SELECT id * 16 FROM lc_history_sessions WHERE user_id = %s", (key.user_id,))
    streams = [stream for (stream,) in streams]
    left = []
    for number in range(2):
        drive(store.append(SessionKey("another", f"{key} {number}"), entries("a")))
        left.append(beneath.connection.execute(count, (key.user_id,)).fetchone()[0])
    assert left == [4, 0]
    records = beneath.connection.execute("SELECT count(*) FROM lc_history_records WHERE stream = ANY(%s)", (streams,))
    assert records.fetchone() == (0,)


def test_names_too_long_for_an_index(store, beneath):
    long = "\U0001f600" * 512
    keys = [SessionKey(long, long[:-1] + last) for last in "ab"]
    for one in keys:
        drive(store.append(one, [Entry("x" * 5000 + "1", b"1"), Entry("x" * 5000 + "2", b"2")]))
        assert drive(store.append(one, [Entry("x" * 5000 + "2", b"2")])).seqs == (2,)
    assert [record.id[-1] for record in drive(store.read(keys[0])).records] == ["1", "2"]
    assert {info.key for info in drive(store.sessions(long)).items} == set(keys)


def test_a_store_on_an_embedded_server(embedded_path):
    store = PostgresStore.from_url(f"postgresql+embedded://{embedded_path / 'data'}")
    drive(store.migrate())
    assert drive(store.append(SessionKey("ann", "s1"), entries("a"))).created
    drive(store.close())


def test_every_lane_has_a_number():
    assert sorted(LANE_NUMBERS) == sorted(LANES)
    assert len(set(LANE_NUMBERS.values())) == len(LANES)


def test_a_loop_ends_although_its_store_was_left_open(open_18):
    async def read_many():
        store = open_18()
        await asyncio.gather(*(store.read(SessionKey("ann", str(number))) for number in range(20)))

    def run():
        for _ in range(3):
            asyncio.run(read_many())
            ended.append(True)

    ended: list[bool] = []
    thread = threading.Thread(target=run, daemon=True)  # a loop that waits for ever is left behind
    thread.start()
    thread.join(30)
    assert ended == [True] * 3
