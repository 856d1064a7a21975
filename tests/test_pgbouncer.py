"""PostgreSQL behind a real PgBouncer in transaction mode: the contract, the checkpointer, agents, and failures."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import psycopg
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.conformance import checkpointer_test, validate

from lc_history.agents import OfflineToolModel, ToolLedger, open_checkpointer, resumable
from lc_history.bridge import drive
from lc_history.errors import StoreError
from lc_history.model import Entry, SessionKey
from lc_history.stores.postgres import PostgresStore
from lc_history.testing import StoreContract
from tests.test_checkpointer import BlockingDoor
from tests.test_postgres_store import new_schema

KEY = SessionKey("ann", "s1")


def entries(*names):
    return [Entry(name, f"said {name}".encode()) for name in names]


class TestStoreBehindPgBouncer(StoreContract):
    examples = 5

    @pytest.fixture(scope="class")
    @classmethod
    def open_store(cls, pgbouncer_url):
        return new_schema(pgbouncer_url, pgbouncer=True)


@pytest.fixture
def schema():
    return f"pooled_{uuid4().hex[:8]}"


@pytest.mark.parametrize("door", ["async", "blocking"])
async def test_the_checkpointer_conforms_in_all_eight_capabilities(pgbouncer_url, schema, door):
    saver = open_checkpointer(pgbouncer_url, schema=schema, pgbouncer=True)
    await saver.asetup()

    @checkpointer_test(name=f"{door} door")
    async def ours():
        yield saver if door == "async" else BlockingDoor(saver)

    report = (await validate(ours)).to_dict()["results"]
    await asyncio.to_thread(saver.close)
    await saver.aclose()
    assert [name for name, result in report.items() if result["passed"] is not True] == []
    assert len(report) == 8


def test_agents_side_by_side(pgbouncer_url, schema):
    """Leases, the ledger and checkpoints of more threads than there are connections, each transaction on any one."""
    done = []

    @tool
    def pay(amount: int, to: str) -> str:
        """Pay an amount to somebody."""
        done.append((amount, to))
        return f"paid {amount} to {to}"

    with open_checkpointer(pgbouncer_url, schema=schema, pgbouncer=True) as saver:
        saver.setup()
        agent = resumable(create_agent(OfflineToolModel(), [pay], checkpointer=saver, middleware=[ToolLedger()]))

        def turn(number):
            config = {"configurable": {"thread_id": f"order {number}"}}
            return agent.invoke({"messages": f"pay {number} to Ann"}, config)["messages"][-1].text

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(turn, range(100, 112)))
    assert all(f"paid {number} to Ann" in answer for number, answer in enumerate(answers, 100))
    assert sorted(done) == [(number, "Ann") for number in range(100, 112)]


def test_without_the_option_the_error_names_it(own_pgbouncer):
    url = own_pgbouncer(pool_size=1).url
    opener = new_schema(url, pgbouncer=True)
    schema = opener.keywords["schema"]
    first, second = (PostgresStore.from_url(url, schema=schema, pool_size=size) for size in (1, 2))
    drive(first.append(KEY, entries("a")))
    with pytest.raises(StoreError, match="pgbouncer=True"):  # its statement has the name of the other one's
        drive(second.append(KEY, entries("b")))
    with pytest.raises(StoreError, match="pgbouncer=True"), open_checkpointer(url, schema=f"{schema}2") as saver:
        saver.setup()
    for store in (first, second):
        drive(store.close())


@pytest.mark.parametrize("trouble", ["the pooler restarts", "the server restarts", "the backends are killed"])
@pytest.mark.parametrize("door", ["async", "blocking"])
async def test_it_heals_in_mid_conversation(own_pgbouncer, door, trouble):
    server = own_pgbouncer()
    store = new_schema(server.url, pgbouncer=True)()

    async def call(verb, *args):
        return await (verb(*args) if door == "async" else asyncio.to_thread(drive, verb(*args)))

    def strike():
        if trouble == "the pooler restarts":
            server.restart()
        elif trouble == "the server restarts":
            server.behind.restart()
        else:
            with psycopg.connect(server.behind.url, autocommit=True) as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )

    for number in range(4):
        assert (await call(store.append, KEY, entries(f"{number}/q", f"{number}/a"))).seqs == (
            2 * number + 1,
            2 * number + 2,
        )
        strike()
    assert [record.seq for record in (await call(store.read, KEY)).records] == list(range(1, 9))
    await call(store.close)
    await store.close()
