"""The contract on PostgreSQL 18 and 15, and what a server does: broken connections, restarts, migrations, races."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from uuid import uuid4

import psycopg
import pytest

from lc_history.bridge import drive
from lc_history.model import LANES, MESSAGES, SessionKey
from lc_history.postgres import escaped
from lc_history.stores.postgres import PostgresStore
from lc_history.stores.postgres_sql import LANE_NUMBERS
from lc_history.testing import StoreContract, StoreOpener


def new_schema(url: str) -> StoreOpener:
    """Return what opens a store in a schema of its own, migrated."""
    opener = partial(PostgresStore.from_url, url, schema=f"test {uuid4().hex}")
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
    @pytest.fixture
    def open_store(self, open_15):
        return open_15


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
