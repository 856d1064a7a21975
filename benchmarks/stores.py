"""One server, every way to keep a conversation on it: writing, reading at any length, many at once, bytes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.conversation import talk, turn
from benchmarks.measure import QUICK, arace, per_second_with_tasks, per_second_with_threads, race
from benchmarks.ways import Way
from lc_history.testing.servers import PostgresServer, RedisServer

LENGTHS = (10, 100, 1000) if QUICK else (10, 100, 1000, 10_000)
LONGEST = 10_000 if QUICK else 100_000
AT_ONCE = (1, 8, 64)
BURST_SECONDS = 0.1 if QUICK else 0.5
BURSTS = 1 if QUICK else 3


@dataclass(frozen=True, slots=True)
class Place:
    """A server, and the ways to keep conversations on it."""

    version: str
    blocking: Callable[[], list[Way]]
    waiting: Callable[[], Any]
    stored_bytes: Callable[[], int]
    """How much the server keeps now."""
    renewing: Callable[[], list[Way]] = list
    """The ways again, where each turn renews the time that a conversation is kept."""


@contextmanager
def redis() -> Iterator[Place]:
    from redis import Redis

    from benchmarks.ways import redis as ways

    with RedisServer() as server, Redis.from_url(server.url) as client:
        yield Place(
            server.version,
            lambda: ways.blocking(server.url),
            lambda: ways.waiting(server.url),
            lambda: int(client.info("memory")["used_memory_dataset"]),
            lambda: ways.renewing(server.url),
        )


@contextmanager
def postgres() -> Iterator[Place]:
    import psycopg

    from benchmarks.ways import postgres as ways

    # Without waiting for the disk, which would be the same for all of them and hide what each adds.
    with (
        PostgresServer(options={"shared_buffers": "256MB"}) as server,
        psycopg.connect(server.url, autocommit=True) as connection,
    ):

        def stored() -> int:
            connection.execute("CHECKPOINT")
            return connection.execute("SELECT pg_database_size(current_database())").fetchone()[0]

        async def waiting() -> list[Way]:
            return [*ways.waiting(server.url), await ways.waiting_with_connection(server.url)]

        yield Place(server.version, lambda: ways.blocking(server.url), waiting, stored)


@contextmanager
def sqlite() -> Iterator[Place]:
    import sqlite3

    from benchmarks.ways import sqlite as ways

    with TemporaryDirectory(prefix="lc-history-bench-") as name:
        directory = Path(name)

        def stored() -> int:
            for path in directory.glob("*.db"):
                with sqlite3.connect(path) as connection:
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.close()
            return sum(path.stat().st_size for path in directory.glob("*.db"))

        version = f"SQLite {sqlite3.sqlite_version}"
        yield Place(version, lambda: ways.blocking(directory), lambda: ways.waiting(directory), stored)


PLACES = {"Redis": redis, "PostgreSQL": postgres, "SQLite": sqlite}


def measure(place: Place) -> dict[str, Any]:
    """Return everything that is measured on one server."""
    with ExitStack() as stack:
        ways = place.blocking()
        for way in ways:
            stack.callback(way.close)
            _fill(way, "warm", 10)
        found = {
            "version": place.version,
            "ways": {way.name: {"role": way.role, "note": way.note} for way in ways},
            "bytes": {way.name: _bytes(place, way) for way in ways if way.role != "floor"},
            "append": race(_verbs(ways, "append", "growing", with_turn=True), given=turn),
            "request": race(_verbs(ways, "request", "warm")),  # ten messages, of `_bytes`
        }
        renewing = place.renewing()
        for way in renewing:
            stack.callback(way.close)
        if renewing:
            found["append, renewed"] = race(_verbs(renewing, "append", "renewed", with_turn=True), given=turn)
        read, last = {}, {}
        for length in LENGTHS:
            for way in ways:
                _fill(way, f"of {length}", length)
            read[length] = race(_verbs(ways, "read", f"of {length}"))
            last[length] = race(_verbs(ways, "last", f"of {length}"))
        found |= {"read": read, "last": last, "flat": _flat(ways[0]), "threads": _threads(ways)}
    return found | {"async": asyncio.run(_async(place))}


def _verbs(ways: list[Way], verb: str, session: str, *, with_turn: bool = False) -> dict[str, Callable[[Any], Any]]:
    """Return a verb of each way that has it, bound to a session."""

    def bound(way: Way) -> Callable[[Any], Any]:
        function = getattr(way, verb)
        return partial(function, session) if with_turn else lambda _: function(session)

    return {way.name: bound(way) for way in ways if getattr(way, verb)}


def _fill(way: Way, session: str, length: int) -> None:
    if way.fill is not None:
        way.fill(session, length)
    elif way.read is not None:
        messages = talk(length)
        for begin in range(0, length, 1000):
            way.append(session, messages[begin : begin + 1000])


def _bytes(place: Place, way: Way) -> float:
    """Return what the server keeps for each message: of 2,000 in twenty sessions, its tables being there."""
    if way.fill is None and way.read is None:
        return 0.0
    before = place.stored_bytes()
    for number in range(20):
        _fill(way, f"bytes {number}", 100)
    return (place.stored_bytes() - before) / 2000


def _flat(ours: Way) -> dict[str, Any]:
    """Return ours at lengths from 100 to the longest: every one of these must cost the same."""
    lengths = (100, 1000, 10_000, LONGEST)
    for length in lengths:
        _fill(ours, f"flat {length}", length)
    last = race({f"{length}": lambda _, s=f"flat {length}": ours.last(s) for length in lengths})
    append = race({f"{length}": partial(ours.append, f"flat {length}") for length in lengths}, given=turn)
    return {"last": last, "append": append}


def _threads(ways: list[Way]) -> dict[str, dict[int, list[float]]]:
    """Return turns a second (the last 20 read, two messages appended), each thread with a session of its own."""
    some = [way for way in ways if way.role in ("ours", "peer")]
    found: dict[str, dict[int, list[float]]] = {way.name: {count: [] for count in AT_ONCE} for way in some}
    for burst in range(BURSTS):
        for count in AT_ONCE:
            for way in some:

                def one(number: int, way: Way = way, burst: int = burst, count: int = count) -> None:
                    session = f"thread {burst} {count} {number}"
                    way.last(session)
                    way.append(session, turn())

                found[way.name][count].append(per_second_with_threads(one, count, seconds=BURST_SECONDS))
    return found


async def _async(place: Place) -> dict[str, Any]:
    ways = place.waiting()
    ways = await ways if inspect.isawaitable(ways) else ways
    found: dict[str, Any] = {"ways": {way.name: {"role": way.role, "note": way.note} for way in ways}}
    for way in ways:
        await way.append("async of 100", talk(100))
    found["append"] = await arace(_verbs(ways, "append", "async growing", with_turn=True), given=turn)
    found["read 100"] = await arace(_verbs(ways, "read", "async of 100"))
    found["last 20 of 100"] = await arace(_verbs(ways, "last", "async of 100"))
    speeds: dict[str, dict[int, list[float]]] = {way.name: {count: [] for count in AT_ONCE} for way in ways}
    for burst in range(BURSTS):
        for count in AT_ONCE:
            for way in ways:

                async def one(number: int, way: Way = way, burst: int = burst, count: int = count) -> None:
                    session = f"task {burst} {count} {number}"
                    await way.last(session)
                    await way.append(session, turn())

                speeds[way.name][count].append(await per_second_with_tasks(one, count, seconds=BURST_SECONDS))
    found["tasks"] = speeds
    for way in ways:
        if hasattr(way, "aclose"):
            await way.aclose()
    return found
