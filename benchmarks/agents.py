"""Agents beside plain LangGraph: a turn with one tool, and many reads at once over a network.

    python -m benchmarks.agents            two minutes; QUICK=1 for some seconds

What is compared runs in turn on one server. Bytes and times of long threads are the part `checkpoints` of
`python -m benchmarks`.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from benchmarks.measure import QUICK, per_second_with_tasks, per_second_with_threads, race
from lc_history.agents import OfflineToolModel, ToolLedger, open_checkpointer, resumable
from lc_history.testing.proxy import Proxy
from lc_history.testing.servers import PostgresServer

DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
POOL_SIZE = 16
ROUND_TRIP = timedelta(milliseconds=10)
TURN_SECONDS, READ_SECONDS = (0.5, 1.0) if QUICK else (8.0, 5.0)
POOLED: dict[str, Any] = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
"""What LangGraph's documentation gives a pool for its saver."""


def measure() -> dict[str, Any]:
    """Return the timing of a turn by what guards it, with and without a disk to wait for, and reads per second."""
    found: dict[str, Any] = {}
    for name, options in {"fsync on": DURABLE, "fsync off": {}}.items():
        with PostgresServer(options=options) as server:
            found[name] = turns(server.url)
    with PostgresServer() as server, Proxy(server.port) as near, Proxy(server.port, delay=ROUND_TRIP) as proxy:
        found["round trips"] = round_trips(near, server.url.replace(str(server.port), str(near.port)))
        url = server.url.replace(str(server.port), str(proxy.port))
        found["reads per second"] = reads(server.url, url) | asyncio.run(areads(url))
    return found


def turns(url: str) -> dict[str, dict[str, float]]:
    """Race turns that call one tool, each on a thread of its own."""
    with savers(url) as opened:
        return race(_kinds(*opened), given=lambda: uuid4().hex, seconds=TURN_SECONDS)


def round_trips(proxy: Proxy, url: str) -> dict[str, int]:
    """Count how often such a turn waits for the server."""
    found = {}
    with savers(url) as opened:
        for name, turn in _kinds(*opened).items():
            for _ in range(60):  # each connection prepares each statement after some
                turn(uuid4().hex)
            before = proxy.round_trips
            turn(uuid4().hex)
            found[name] = proxy.round_trips - before
    return found


def _kinds(theirs: PostgresSaver, ours: Any) -> dict[str, Callable[[str], Any]]:
    return {
        "PostgresSaver": _turn(theirs),
        "Checkpointer": _turn(ours),
        "Checkpointer, ToolLedger": _turn(ours, ToolLedger()),
        "Checkpointer, resumable": _turn(ours, wrap=resumable),
        "Checkpointer, ToolLedger, resumable": _turn(ours, ToolLedger(), wrap=resumable),
    }


@contextmanager
def savers(url: str) -> Iterator[tuple[PostgresSaver, Any]]:
    """Open LangGraph's saver and ours, each in a schema of its own, on pools of the same size."""
    with ExitStack() as stack:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE SCHEMA IF NOT EXISTS theirs")
        theirs = PostgresSaver(stack.enter_context(ConnectionPool(_theirs(url), max_size=POOL_SIZE, kwargs=POOLED)))
        ours = stack.enter_context(open_checkpointer(url, schema="ours", pool_size=POOL_SIZE))
        theirs.setup()
        ours.setup()
        yield theirs, ours


def _turn(saver: Any, *middleware: Any, wrap: Callable[[Any], Any] = lambda graph: graph) -> Callable[[str], Any]:
    @tool
    def note(what: str) -> str:
        """Note something."""
        return what

    agent = wrap(create_agent(OfflineToolModel(), [note], checkpointer=saver, middleware=list(middleware)))
    asked = HumanMessage("note that this is a turn with one tool")
    return lambda name: agent.invoke({"messages": [asked]}, {"configurable": {"thread_id": name}}, durability="sync")


def reads(url: str, far: str) -> dict[str, float]:
    """Return how many threads' states are read a second, by 16 threads of Python through a pool of 16."""
    with savers(url) as near:
        for saver in near:
            for number in range(POOL_SIZE):
                _turn(saver)(str(number))
    with savers(far) as (theirs, ours):
        return {
            name: per_second_with_threads(
                lambda number, saver=saver: saver.get_tuple(_at(number)), POOL_SIZE, seconds=READ_SECONDS
            )
            for name, saver in {"PostgresSaver": theirs, "Checkpointer": ours}.items()
        }


async def areads(far: str) -> dict[str, float]:
    """Return the same for 16 tasks of an event loop."""
    async with _their_async_saver(far) as theirs, open_checkpointer(far, schema="ours", pool_size=POOL_SIZE) as ours:
        return {
            name: await per_second_with_tasks(
                lambda number, saver=saver: saver.aget_tuple(_at(number)), POOL_SIZE, seconds=READ_SECONDS
            )
            for name, saver in {"AsyncPostgresSaver": theirs, "Checkpointer, async": ours}.items()
        }


@asynccontextmanager
async def _their_async_saver(url: str) -> Any:
    async with AsyncConnectionPool(_theirs(url), min_size=POOL_SIZE, max_size=POOL_SIZE, kwargs=POOLED) as pool:
        yield AsyncPostgresSaver(pool)


def _theirs(url: str) -> str:
    return f"{url}?options=-csearch_path%3Dtheirs"


def _at(number: int) -> Any:
    return {"configurable": {"thread_id": str(number), "checkpoint_ns": ""}}


def main() -> None:
    """Measure, and print what came of it."""
    warnings.simplefilter("ignore")
    found = measure()
    for name in ("fsync on", "fsync off"):
        base = found[name]["PostgresSaver"]["median"]
        print(f"\nA turn with one tool, durability sync, {name}:")
        for kind, timing in found[name].items():
            spread = f"[{timing['low'] / 1e3:.1f} .. {timing['high'] / 1e3:.1f}]"
            print(f"  {kind:38}{timing['median'] / 1e3:7.1f} ms {spread:17}{timing['median'] / base:6.2f} times")
    print("\nIts round trips:")
    for kind, count in found["round trips"].items():
        print(f"  {kind:38}{count:7}")
    print(
        f"\nReads a second, {POOL_SIZE} at once through a pool of {POOL_SIZE}, {ROUND_TRIP} added to each round trip:"
    )
    for kind, rate in found["reads per second"].items():
        print(f"  {kind:38}{rate:7.0f}")


if __name__ == "__main__":
    main()
