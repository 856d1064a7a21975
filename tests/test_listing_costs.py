"""What a page of a listing costs: counted, at few sessions of a user and at many, at the beginning and further on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import boto3
import psycopg
import pytest
from redis import Redis

from lc_history.agents import open_checkpointer
from lc_history.agents.threads import index
from lc_history.bridge import drive
from lc_history.model import Entry, SessionKey
from lc_history.store import Store
from lc_history.stores.dynamodb import DynamoDBStore
from lc_history.stores.firestore import FirestoreStore
from lc_history.stores.memory import MemoryStore
from lc_history.stores.postgres import PostgresStore, sql
from lc_history.stores.redis import RedisStore
from lc_history.stores.sqlite import SQLiteStore
from lc_history.testing.meters import DynamoDBMeter, MeteredFirestore

LIMIT = 10
FEW, MANY = 30, 600


def begun(store: Store, count: int) -> str:
    """Return a user with so many sessions."""
    user = uuid4().hex
    with ThreadPoolExecutor(4) as threads:
        turns = (store.append(SessionKey(user, f"s{number}"), [Entry("a", b"hello")]) for number in range(count))
        list(threads.map(drive, turns))
    return user


def costs(
    store: Store, cost: Callable[[], Any], counts: tuple[int, ...] = (FEW, MANY), *, limit: int = LIMIT
) -> list[Any]:
    """Return what the first, second and third page cost, for each of the users."""
    drive(store.migrate())
    found = []
    for count in counts:
        user, cursor = begun(store, count), None
        drive(store.sessions(user, limit=limit))  # connections, scripts and prepared statements
        for _ in range(3):
            cost()
            page = drive(store.sessions(user, limit=limit, cursor=cursor))
            found.append(cost())
            assert len(page.items) == limit
            cursor = page.cursor
    return found


def difference(read: Callable[[], int], *, of_reading: int = 0) -> Callable[[], int]:
    """Return what tells how much a counter of the server has grown since it was last asked."""
    last = [0]

    def since() -> int:
        before, last[0] = last[0], read()
        return last[0] - before - of_reading

    return since


def test_sessions_looked_at_in_memory() -> None:
    class Counting(MemoryStore):
        looks = 0

        def _find(self, *args: Any) -> Any:
            self.looks += 1
            return super()._find(*args)

    store = Counting()
    assert set(costs(store, difference(lambda: store.looks))) == {LIMIT}
    before = store.looks
    assert len(drive(store.scan(limit=LIMIT)).items) == LIMIT
    assert store.looks - before == LIMIT


def test_steps_of_sqlite(tmp_path: Any) -> None:
    store = SQLiteStore(tmp_path / "chat.db", synchronous="normal")
    drive(store.migrate())
    (connection,) = store._file._idle
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(step, 10)
    found = costs(store, difference(lambda: steps))
    connection.set_progress_handler(None, 0)
    assert max(found) <= min(found) + 20  # tens of instructions: a page further on compares its place as well
    drive(store.close())


def test_commands_of_redis(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:

        def commands() -> int:
            told = client.info("commandstats").items()
            return sum(each["calls"] for name, each in told if name.removeprefix("cmdstat_") in COUNTED)

        store = RedisStore.from_url(redis_url, key_prefix=f"t{uuid4().hex[:8]}")
        first, second, third, *many = costs(store, difference(commands))
        assert many == [first, second, third]
        drive(store.close())


COUNTED = {"evalsha", "hmget", "hget", "llen", "zcount", "zrange", "zrevrange", "zscore", "time"}


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[PostgresStore]:
    store = PostgresStore.from_url(postgres_url, schema=f"t{uuid4().hex[:8]}")
    drive(store.migrate())
    yield store
    drive(store.close())


def test_rows_of_postgresql(postgres: PostgresStore, postgres_url: str) -> None:
    """Statistics say that one user has most sessions; those of another are newer than all of his."""
    users = {count: begun(postgres, count) for count in (FEW, MANY)}
    begun(postgres, 2 * FEW)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"ANALYZE {postgres.database.schema}.lc_history_sessions")
        for count, user in users.items():
            last = drive(postgres.sessions(user, limit=count // 2)).items[-1]
            place = {"time": last.updated_at, "id": 1 << 40}
            for archived in (None, False):
                for after in ({}, place):
                    text = postgres.database.qualified(sql.listing(archived, after=bool(after)))
                    values = {"user": user, "limit": LIMIT + 1, **after}
                    (plan,) = connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {text}", values).fetchone()[0]
                    assert max(touched(plan["Plan"])) <= FEW  # a user with as many is quickly sorted


def test_rows_of_a_page_of_threads(postgres_url: str) -> None:
    """Of users with few and many threads, each with the lease of a run that died."""
    with (
        open_checkpointer(postgres_url, schema=f"t{uuid4().hex[:8]}") as saver,
        psycopg.connect(postgres_url, autocommit=True) as connection,
    ):
        saver.setup()
        qualified = saver.database.postgres.qualified
        for count in (FEW, MANY):
            names = f"SELECT '{count} ' || n AS name FROM generate_series(1, {count}) AS n"
            for columns, values in (
                ("lch_threads (thread_id, user_id)", f"name, '{count}'"),
                ("lch_leases (thread_id, run_id, expires_at)", "name, name, clock_timestamp()"),
            ):
                connection.execute(
                    qualified(f"INSERT INTO {{schema}}{columns} SELECT {values} FROM ({names}) AS named")
                )
        connection.execute(qualified("ANALYZE {schema}lch_threads, {schema}lch_leases"))
        for count in (FEW, MANY):
            last = saver.threads.list(str(count), limit=count // 2).items[-1]
            for place in ({}, {"updated": last.updated_at, "thread": last.thread_id}):
                text = f"EXPLAIN (ANALYZE, FORMAT JSON) {qualified(index.page(filtered=False, after=bool(place)))}"
                values = {"user": str(count), "limit": LIMIT + 1, **place}
                (plan,) = connection.execute(text, values).fetchone()[0]
                assert max(touched(plan["Plan"])) <= FEW
        assert {one.status for one in saver.threads.list(str(MANY)).items} == {"failed"}


def touched(node: dict[str, Any]) -> Iterator[float]:
    """Return the rows that each step of a plan has come by, also those that it has dropped."""
    yield node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    for part in node.get("Plans", ()):
        yield from touched(part)


def test_documents_of_firestore(firestore_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", firestore_host)
    client = MeteredFirestore("test")
    store = FirestoreStore(client, prefix=f"t{uuid4().hex[:8]}")
    assert client._firestore_api
    found = costs(store, client.meter.bill, (10, 30), limit=3)  # more than the last page, which has no session after it
    assert found == [{"calls": 1, "reads": 3 + 1}] * 6
    client.close()


def test_read_units_of_dynamodb(dynamodb_endpoint: str) -> None:
    keys = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    client = boto3.client("dynamodb", endpoint_url=dynamodb_endpoint, region_name="us-east-1", **keys)
    store = DynamoDBStore(table=f"t{uuid4().hex[:8]}", client=client)
    meter = DynamoDBMeter(client)
    found = costs(store, meter.bill, (10, 30), limit=3)
    assert found == [{"calls": 1, "read units": 0.5}] * 6
    drive(store.close())
    client.close()
