"""What everything on PostgreSQL stands on: connections of both colours that heal, migrations, names."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from lc_history.bridge import drive, entered, settle
from lc_history.errors import ColourError, StoreError, StoreUnavailableError, TooLargeError
from lc_history.postgres import Postgres, escaped, migration_script, unescaped
from lc_history.testing.proxy import Proxy
from lc_history.testing.races import crowd, in_processes

STEPS = ["CREATE TABLE {schema}things (name text)", "ALTER TABLE {schema}things ADD size integer"]


async def fetched(connection, text, *parameters):
    cursor = await settle(connection.execute(text, parameters))
    return await settle(cursor.fetchone())


async def backend(connection):
    return (await fetched(connection, "SELECT pg_backend_pid()"))[0]


async def slow(connection):
    return (await fetched(connection, "SELECT 1 FROM pg_sleep(0.2)"))[0]


@pytest.fixture(params=["blocking", "async"])
def door(request):
    if request.param == "blocking":
        yield drive
    else:
        with asyncio.Runner() as runner:
            yield runner.run


@pytest.fixture
def raw(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def opened(postgres_url, door):
    made = []

    def open_postgres(url=postgres_url, **options):
        made.append(Postgres.open(url, **options))
        return made[-1]

    yield open_postgres
    for postgres in made:
        door(postgres.close())


@pytest.fixture
def schema():
    return f"some schema {uuid4().hex[:8]}"


def kill(raw, *pids):
    for pid in pids:
        raw.execute("SELECT pg_terminate_backend(%s)", (pid,))
    wait_until(
        lambda: raw.execute("SELECT 1 FROM pg_stat_activity WHERE pid = ANY(%s)", (list(pids),)).fetchone() is None
    )


def wait_until(done):
    deadline = time.monotonic() + 5
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def named(raw, name):
    return [pid for (pid,) in raw.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", (name,))]


@contextmanager
def marked(url):
    """Return a URL whose connections can be told from others'."""
    name = f"t{uuid4().hex[:8]}"
    yield f"{url}?application_name={name}", name


def test_a_connection_that_was_closed_is_replaced(opened, door, raw):
    postgres = opened()
    first = door(postgres.run(backend))
    kill(raw, first)
    assert door(postgres.run(backend)) != first


def test_a_connection_that_is_closed_in_use_is_replaced(opened, door, raw, postgres_url):
    with marked(postgres_url) as (url, name):
        postgres = opened(url)
        door(postgres.run(backend))

        def strike():
            time.sleep(0.05)
            kill(raw, *named(raw, name))

        striker = threading.Thread(target=strike)
        striker.start()
        assert door(postgres.run(slow)) == 1
        striker.join()


async def several(postgres, count):
    return await crowd(count, lambda _: postgres.run(slow))


def test_many_broken_connections_at_once(opened, door, raw, postgres_url):
    with marked(postgres_url) as (url, name):
        postgres = opened(url)
        door(several(postgres, 5))
        broken = named(raw, name)
        assert len(broken) == 5
        kill(raw, *broken)
        assert door(several(postgres, 5)) == [1] * 5


def test_a_connection_for_what_cannot_be_done_twice_works(opened, door, raw):
    postgres = opened()

    async def work():
        async with postgres.connection() as connection:
            return await backend(connection)

    first = door(work())
    kill(raw, first)
    assert door(work()) != first


def test_bounded_and_waited_for(opened, door, raw, postgres_url):
    with marked(postgres_url) as (url, name):
        postgres, most, stop = opened(url, pool_size=2), [0], threading.Event()

        def watch():
            while not stop.is_set():
                most[0] = max(most[0], len(named(raw, name)))

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert door(several(postgres, 6)) == [1] * 6
        stop.set()
        watcher.join()
        assert most == [2]


def test_waiting_ends(opened, door, monkeypatch):
    monkeypatch.setattr("lc_history.postgres.pools.POOL_TIMEOUT", timedelta(seconds=0.05))
    postgres = opened(pool_size=1)

    async def second():
        async with postgres.connection():
            return await postgres.run(slow)

    with pytest.raises(StoreUnavailableError, match="pool_size"):
        door(second())
    assert door(postgres.run(slow)) == 1


async def test_a_cancelled_call_leaves_a_working_pool(postgres_url):
    postgres = Postgres.open(postgres_url, pool_size=2)
    for _ in range(6):
        tasks = [asyncio.create_task(postgres.run(slow)) for _ in range(4)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert await several(postgres, 2) == [1, 1]
    await postgres.close()


def test_one_pool_per_url(opened, door):
    one, other = opened(), opened()
    pid = door(one.run(backend))
    assert door(other.run(backend)) == pid
    door(one.close())
    door(one.close())
    assert door(other.run(backend)) == pid


def test_closed_means_closed(door, raw, postgres_url):
    with marked(postgres_url) as (url, name):
        postgres = Postgres.open(url)
        door(several(postgres, 3))
        door(postgres.close())
        wait_until(lambda: named(raw, name) == [])


def test_event_loops_leave_nothing_behind(raw, postgres_url):
    with marked(postgres_url) as (url, name):
        postgres = Postgres.open(url)
        for _ in range(4):
            assert asyncio.run(several(postgres, 3)) == [1] * 3
        gc.collect()
        wait_until(lambda: len(named(raw, name)) <= 3)
        del postgres
        gc.collect()


def test_a_forked_process_has_its_own_connections(postgres_url):
    postgres = Postgres.open(postgres_url)
    pid = drive(postgres.run(backend))
    child = os.fork()
    if child == 0:
        os._exit(0 if drive(postgres.run(backend)) != pid else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert drive(postgres.run(backend)) == pid
    drive(postgres.close())


def test_unreachable(opened, door):
    postgres = opened("postgresql://ann:secret@127.0.0.1:1/chat")
    begin = time.monotonic()
    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:1/chat") as refused:
        door(postgres.run(backend))
    assert time.monotonic() - begin < 2
    assert "secret" not in str(refused.value)
    assert isinstance(refused.value.__cause__, psycopg.OperationalError)


TOO_LONG = "SELECT to_tsvector('simple', string_agg(md5(n::text), ' ')) FROM generate_series(1, 60000) n"
SORTED = "SELECT count(*) FROM (SELECT n FROM generate_series(1, 1000000) n ORDER BY md5(n::text) LIMIT 900000) x"
REFUSALS = {
    "too large": ((), TOO_LONG, TooLargeError, "tsvector.*nothing was written: keep large content elsewhere"),
    "a replica": (["transaction_read_only=on"], "CREATE TABLE t (i int)", StoreUnavailableError, "read-write"),
    "too long": (["statement_timeout=50"], "SELECT pg_sleep(60)", StoreUnavailableError, "raise statement_timeout"),
    "no room": (
        ["temp_file_limit=64", "work_mem=64"],
        SORTED,
        StoreUnavailableError,
        "temp_file_limit.*raise the limit",
    ),
    "no rights": (["role=pg_monitor"], "SELECT * FROM pg_authid", StoreError, "grant this role"),
    "no function": ((), "SELECT lch_no_function()", StoreError, "lc-history migrate"),
}


@pytest.mark.parametrize(("settings", "statement", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_what_to_do(opened, door, settings, statement, kind, words):
    async def refused(connection):
        async with entered(connection.transaction()):
            for setting in settings:
                name, value = setting.split("=")
                await settle(connection.execute("SELECT set_config(%s, %s, true)", (name, value)))
            await settle(connection.execute(statement))

    with pytest.raises(StoreError, match=words) as told:
        door(opened().run(refused))
    assert type(told.value) is kind


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("53100", StoreUnavailableError, "make room on its disk"),
        ("53200", StoreUnavailableError, "is not available"),
        ("53300", StoreUnavailableError, "pool_size"),
        ("54001", TooLargeError, "nothing was written"),
        ("55P03", StoreUnavailableError, "lock_timeout"),
        ("57014", StoreUnavailableError, "statement_timeout"),
        ("58030", StoreUnavailableError, "its disk"),
        ("40P01", StoreUnavailableError, "is not available"),
        ("22021", StoreError, "refused"),
        ("22P05", StoreError, "UTF8"),
        ("23514", StoreError, "refused"),
        ("42501", StoreError, "grant"),
        ("XX001", StoreError, "restore a backup"),
    ],
)
def test_each_class_of_refusals_is_told_as_what_it_is(opened, state, kind, words):
    async def refused(connection):
        await settle(connection.execute(f"DO $$ BEGIN RAISE 'as the server says' USING ERRCODE = '{state}'; END $$"))

    with pytest.raises(StoreError, match=f"as the server says.*{words}|{words}.*as the server says") as told:
        drive(opened().run(refused))
    assert type(told.value) is kind
    assert told.value.__cause__.sqlstate == state


def test_a_refusal_names_what_is_missing(opened, door):
    async def read(connection):
        await settle(connection.execute("SELECT * FROM lc_history_nothing"))

    with pytest.raises(StoreError, match="lc-history migrate"):
        door(opened().run(read))


def test_a_server_that_restarts(own_postgres, door):
    server = own_postgres()
    postgres = Postgres.open(server.url)
    door(several(postgres, 3))
    server.kill()
    with pytest.raises(StoreUnavailableError):
        door(postgres.run(backend))
    server.start()
    assert door(several(postgres, 3)) == [1] * 3
    door(postgres.close())


async def test_given_pools(postgres_url, raw, schema):
    async def count(connection):
        return (await fetched(connection, f'SELECT count(*) FROM "{schema}".things'))[0]

    pool = ConnectionPool(postgres_url, open=True, min_size=1, max_size=2)
    async_pool = AsyncConnectionPool(postgres_url, open=False, min_size=1, max_size=2)
    await async_pool.open()
    postgres = Postgres(pool, async_pool, schema=schema)
    await postgres.migrate("things", STEPS)
    kill(raw, await postgres.run(backend), drive(postgres.run(backend)))
    assert (await postgres.run(count), drive(postgres.run(count))) == (0, 0)
    await postgres.close()
    assert not pool.closed
    await async_pool.close()
    pool.close()


def test_a_given_pool_of_one_colour(postgres_url):
    with ConnectionPool(postgres_url, open=True, min_size=1, max_size=2) as pool:
        postgres = Postgres(pool)
        pid = drive(postgres.run(backend))
        with psycopg.connect(postgres_url, autocommit=True) as raw:
            kill(raw, pid)
        assert drive(postgres.run(backend)) != pid
        with pytest.raises(ColourError):
            asyncio.run(postgres.run(backend))
    with pytest.raises(ValueError, match="ConnectionPool"):
        Postgres()


def migrated(_, url, schema):
    postgres = Postgres.open(url, schema=schema)
    version = drive(postgres.migrate("things", STEPS))
    drive(postgres.close())
    return version


def test_eight_processes_migrate_at_once(postgres_url, raw, schema):
    assert [done.result() for done in in_processes(8, migrated, postgres_url, schema)] == [2] * 8
    steps = raw.execute(f'SELECT name, version FROM "{schema}".lc_history_migrations ORDER BY version').fetchall()
    assert steps == [("things", 1), ("things", 2)]


def test_migrations_go_on_where_they_were(opened, door, raw, schema):
    postgres = opened(schema=schema)
    assert door(postgres.migrate("things", STEPS[:1])) == 1
    raw.execute(f"INSERT INTO \"{schema}\".things VALUES ('kept')")
    assert door(postgres.migrate("things", STEPS)) == 2
    assert raw.execute(f'SELECT name, size FROM "{schema}".things').fetchall() == [("kept", None)]
    with pytest.raises(StoreError, match="upgrade lc-history"):
        door(postgres.migrate("things", STEPS[:1]))


def test_a_step_that_fails_leaves_nothing(opened, door, raw, schema):
    postgres = opened(schema=schema)
    with pytest.raises(StoreError):
        door(postgres.migrate("things", [*STEPS, "nonsense"]))
    assert raw.execute("SELECT to_regnamespace(%s)", (f'"{schema}"',)).fetchone() == (None,)
    assert door(postgres.migrate("things", STEPS)) == 2


def test_what_a_dba_runs_by_hand(opened, door, raw, schema):
    raw.execute(migration_script("things", STEPS, schema=schema))
    assert door(opened(schema=schema).migrate("things", STEPS)) == 2


def test_a_schema_that_one_may_not_make(opened, door, raw, schema, postgres_url):
    role = f"role{uuid4().hex[:8]}"
    raw.execute(f'CREATE ROLE {role} LOGIN; CREATE SCHEMA "{schema}"; GRANT ALL ON SCHEMA "{schema}" TO {role}')
    limited = opened(postgres_url.replace("postgres@", f"{role}@"), schema=schema)
    assert door(limited.migrate("things", STEPS)) == 2


def test_behind_a_pooler_nothing_is_prepared(opened, door):
    async def prepared(connection):
        return (await fetched(connection, "SELECT count(*) FROM pg_prepared_statements"))[0]

    for options, expected in (({}, 1), ({"pgbouncer": True}, 0)):
        postgres = opened(**options)

        async def work(connection, postgres=postgres):
            for _ in range(8):
                await postgres.execute(connection, "SELECT %(x)s::int", {"x": 1})
            return await prepared(connection)

        assert door(postgres.run(work)) == expected


def test_no_round_trip_but_the_work(opened, door, postgres_url):
    with Proxy(urlsplit(postgres_url).port) as proxy:
        postgres = opened(postgres_url.replace(str(urlsplit(postgres_url).port), str(proxy.port)))
        door(postgres.run(backend))
        before = proxy.round_trips
        for _ in range(3):
            door(postgres.run(backend))
        assert proxy.round_trips - before == 3
        assert proxy.connections == 1


def test_a_url_that_cannot_be_read():
    with pytest.raises(ValueError, match=r'address of PostgreSQL cannot be read: .* "schema"'):
        Postgres.open("postgresql://localhost/chat?schema=mine")


@pytest.mark.parametrize("wrong", ["", "a\0b", "x" * 64])
def test_a_schema_is_a_name(wrong, postgres_url):
    if wrong:
        with pytest.raises(ValueError, match="PostgreSQL"):
            Postgres.open(postgres_url, schema=wrong)


def test_texts_of_any_characters(raw):
    names = ["a\0b", "a\\0b", "\\", "\\\\0", "\ud83d", "\\ud83d", "\udc00\ud800", "C:\\temp\\u0000", "😀", "\\h"]
    texts = [escaped(name) for name in names]
    assert len(set(texts)) == len(names)
    assert [unescaped(text) for text in texts] == names
    for text in texts:
        assert raw.execute("SELECT %s::text", (text,)).fetchone() == (text,)
