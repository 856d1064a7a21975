"""PostgreSQL stores in trouble: connections that are killed, used up, cancelled or strict; on both versions."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from uuid import uuid4

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import make_conninfo

from lc_history.bridge import drive
from lc_history.errors import StoreError, StoreUnavailableError
from lc_history.model import Entry, SessionKey
from lc_history.postgres import Postgres
from lc_history.stores.postgres import PostgresStore
from lc_history.testing.contract.setting import Setting
from lc_history.testing.contract.views import entries, ids, known, whole
from lc_history.testing.races import crowd

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND pid <> pg_backend_pid()"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND wait_event_type = 'Lock'"
IN_TRANSACTION = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s AND xact_start IS NOT NULL"


class Trouble(Setting):
    @pytest.fixture
    def schema(self):
        return f"trouble {uuid4().hex}"

    @pytest.fixture
    def url(self, server_url):
        # Its connections can be told from all others.
        return make_conninfo(server_url, application_name=f"lch-{uuid4().hex[:12]}")

    @pytest.fixture
    def open_store(self, url, schema):
        store = PostgresStore.from_url(url, schema=schema, pool_size=4)
        drive(store.migrate())
        drive(store.close())
        return partial(PostgresStore.from_url, url, schema=schema, pool_size=4)

    @pytest.fixture
    def admin(self, server_url):
        with psycopg.connect(server_url, autocommit=True) as connection:
            yield connection

    @pytest.fixture
    def application(self, url):
        return psycopg.conninfo.conninfo_to_dict(url)["application_name"]

    async def test_killed_connections_are_replaced_before_every_verb(self, store, key, admin, application):
        await store.append(key, entries("a", "b"))
        copy = await whole(store, key)
        other = SessionKey(key.user_id, "s2")
        calls = (
            lambda: store.append(key, entries("c", "d")),
            lambda: store.append(key, entries("c", "d")),
            lambda: store.append(key, [Entry(f"m{number}", b"body") for number in range(40)]),
            lambda: store.read(key, last=3),
            lambda: store.replace(key, 1, b"new", expected=b"said a"),
            lambda: store.describe(key, description=b"title"),
            lambda: store.sessions(key.user_id),
            lambda: store.scan(limit=1),
            lambda: store.delete(key, through=1),
            lambda: store.delete(key),
            lambda: store.load(copy, over_version=None),
            lambda: store.append(other, entries("a")),
            store.migrate,
        )
        for call in calls[:-3]:
            assert admin.execute(KILL, (application,)).fetchall()
            await call()
        for call in calls[-2:]:
            admin.execute(KILL, (application,))
            await call()
        assert ids(await store.read(key)) == []
        assert ids(await store.read(other)) == ["a"]

    async def test_connections_killed_all_the_time(self, store, key, server_url, application):
        done = threading.Event()

        def kill():
            with psycopg.connect(server_url, autocommit=True) as connection:
                while not done.wait(0.02):
                    connection.execute(KILL, (application,))

        async def work(number):
            for turn in range(12):
                while True:
                    with suppress(StoreUnavailableError):
                        await store.append(key, entries(f"{number}.{turn}/q", f"{number}.{turn}/a"))
                        break

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            await crowd(4, work)
        finally:
            done.set()
            killer.join()
        stored = await store.read(key)
        assert [record.seq for record in stored.records] == list(range(1, 97))
        assert len(set(ids(stored))) == 96
        assert all(one[:-1] == two[:-1] for one, two in zip(ids(stored)[::2], ids(stored)[1::2], strict=True))

    async def test_more_callers_than_connections(self, store, user):
        async def work(number):
            own = SessionKey(user, str(number))
            for turn in range(3):
                await store.append(own, entries(f"q{turn}", f"a{turn}"))
            return ids(await store.read(own))

        assert await crowd(64, work) == [["q0", "a0", "q1", "a1", "q2", "a2"]] * 64

    async def test_a_role_whose_transactions_are_serializable(self, server_url, schema, open_store, key):
        role = f"strict_{uuid4().hex[:8]}"
        with psycopg.connect(server_url, autocommit=True) as admin:
            admin.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
            admin.execute(f"ALTER ROLE {role} SET default_transaction_isolation = 'serializable'")
        store = PostgresStore.from_url(make_conninfo(server_url, user=role), schema=schema)

        async def work(number):
            for turn in range(5):
                await store.append(key, entries(f"{number}.{turn}"))
            await store.append(key, [Entry(f"{number}/{part}", b"body") for part in range(40)])

        try:
            await crowd(8, work)
            assert (await known(store, key)).count == 8 * 45
        finally:
            await store.close()


class Async:
    """A store of its own for a test on the event loop, and what looks at its connections."""

    def __init__(self, server_url):
        self.schema, self.application, self.key = f"t{uuid4().hex}", f"lch-{uuid4().hex[:12]}", SessionKey("ann", "s1")
        url = make_conninfo(server_url, application_name=self.application)
        self.store = PostgresStore.from_url(url, schema=self.schema, pool_size=4)
        self.admin, self.other = (psycopg.connect(server_url, autocommit=True) for _ in range(2))

    def count(self, query):
        return self.admin.execute(query, (self.application,)).fetchone()[0]


@pytest.fixture
async def lone(server_url):
    lone = Async(server_url)
    await lone.store.migrate()
    yield lone
    await lone.store.close()
    lone.admin.close()
    lone.other.close()


async def test_a_turn_that_is_cancelled_leaves_no_transaction(lone):
    store, key = lone.store, lone.key
    await store.append(key, entries("a"))
    turns = (entries("b", "c"), [Entry(f"m{number}", b"body") for number in range(40)])
    lock = f"SELECT FROM {lone.schema}.lc_history_sessions FOR UPDATE"
    for _ in range(4):  # as many as there are connections
        with lone.other.transaction():
            lone.other.execute(lock)
            tasks = [asyncio.ensure_future(store.append(key, turn)) for turn in turns]
            while lone.count(WAITING) < 2:  # noqa: ASYNC110 - nobody tells when the server has come so far
                await asyncio.sleep(0.005)
            for task in tasks:
                task.cancel()
            for task in tasks:
                with pytest.raises(asyncio.CancelledError):
                    await task
    assert ids(await store.read(key)) == ["a"]
    assert lone.count(IN_TRANSACTION) == 0
    assert (await store.append(key, turns[1])).seqs == tuple(range(2, 42))


def test_a_given_pool_that_begins_transactions_of_its_own(server_url):
    schema = f"t{uuid4().hex}"
    with psycopg_pool.ConnectionPool(server_url, min_size=1, max_size=2) as pool:
        database = Postgres(pool, schema=schema)
        drive(PostgresStore(database).migrate())

        async def write():
            async with database.connection() as connection:
                connection.execute(f"CREATE TABLE {schema}.kept ()")

        drive(write())
    with psycopg.connect(server_url) as connection:
        assert connection.execute("SELECT to_regclass(%s)", (f"{schema}.kept",)).fetchone() != (None,)


def test_a_pooler_that_was_not_named(server_url):
    store = PostgresStore.from_url(server_url)

    async def prepared(connection):
        connection.execute("SELECT 1", prepare=True)

    async def gone(connection):
        # Unseen by the driver, as when a pooler gives it another connection.
        connection.execute("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
        connection.execute("SELECT 1", prepare=True)

    drive(store.database.run(prepared))
    with pytest.raises(StoreError, match="pgbouncer=True"):
        drive(store.database.run(gone))
    drive(store.close())


async def test_both_doors_at_once(lone):
    store, key = lone.store, lone.key

    def blocking(number):
        for turn in range(5):
            drive(store.append(key, entries(f"t{number}.{turn}/q", f"t{number}.{turn}/a")))

    async def waiting(number):
        for turn in range(5):
            await store.append(key, entries(f"a{number}.{turn}/q", f"a{number}.{turn}/a"))

    threads = (asyncio.to_thread(blocking, number) for number in range(4))
    await asyncio.gather(*threads, *(waiting(number) for number in range(4)))
    stored = await store.read(key)
    assert [record.seq for record in stored.records] == list(range(1, 81))
    assert all(one[:-1] == two[:-1] for one, two in zip(ids(stored)[::2], ids(stored)[1::2], strict=True))


class TestTrouble18(Trouble):
    @pytest.fixture
    def server_url(self, postgres_url):
        return postgres_url


class TestTrouble15(Trouble):
    @pytest.fixture
    def server_url(self, postgres15_url):
        return postgres15_url
