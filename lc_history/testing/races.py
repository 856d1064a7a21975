"""Many at once: threads or tasks, processes, and a process that is killed at its work."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from itertools import count
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from lc_history.bridge import drive, is_blocking
from lc_history.errors import ConflictError, StoreUnavailableError
from lc_history.model import Entry, SessionKey
from lc_history.store import Store

P = ParamSpec("P")
T = TypeVar("T")

Colour = Literal["blocking", "async"]
StoreOpener = Callable[[], Store]

_PROCESSES: Any = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
"""Starts fresh interpreters, which share no connection, thread or lock with the tests'."""
_PROCESSES.set_forkserver_preload(["pytest", "lc_history.testing.races"])


def through(colour: Colour, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine through one of the two doors."""
    return drive(coroutine) if colour == "blocking" else asyncio.run(coroutine)


async def crowd(size: int, work: Callable[[int], Coroutine[Any, Any, T]]) -> list[T]:
    """Run ``work(0)``, ``work(1)`` ... at once: in threads behind the blocking door, in tasks behind the async one."""
    if not is_blocking():
        return list(await asyncio.gather(*(work(number) for number in range(size))))
    together = threading.Barrier(size)

    def alone(number: int) -> T:
        together.wait()
        return drive(work(number))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads get in each other's way at every step
    try:
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(alone, range(size)))
    finally:
        sys.setswitchinterval(interval)


def in_processes(
    size: int, work: Callable[Concatenate[int, P], T], *args: P.args, **kwargs: P.kwargs
) -> list[Future[T]]:
    """Start ``work(number, ...)`` in so many processes at once; everything must be picklable."""
    pool = _pool(size)
    begin = time.time() + 0.05
    return [pool.submit(_at, begin, partial(work, number, *args, **kwargs)) for number in range(size)]


def _at(begin: float, work: Callable[[], T]) -> T:
    time.sleep(max(0.0, begin - time.time()))
    return work()


@cache
def _pool(size: int) -> ProcessPoolExecutor:
    """Return fresh interpreters that serve every test of the run: their imports cost more than their work."""
    pool = ProcessPoolExecutor(size, mp_context=_PROCESSES, initializer=_die_with_parent)
    for started in [pool.submit(time.sleep, 0.05) for _ in range(size)]:
        started.result()
    return pool


def _die_with_parent() -> None:
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def turn(name: str, size: int = 3) -> list[Entry]:
    """Return a turn of so many entries, whose ids and bodies name it."""
    return [Entry(f"{name}/{part}", f"{name}/{part} says".encode()) for part in range(size)]


async def write_turns(store: Store, key: SessionKey, *, writer: str, turns: int, attempts: int) -> dict[str, int]:
    """Append turns one after the other; return the acknowledged number of each id."""
    acknowledged: dict[str, int] = {}
    for number in range(turns):
        entries = turn(f"{writer}.{number:03}")
        appended = await _insist(store, key, entries, attempts)
        acknowledged.update(zip((entry.id for entry in entries), appended, strict=True))
    return acknowledged


async def _insist(store: Store, key: SessionKey, entries: Sequence[Entry], attempts: int) -> tuple[int, ...]:
    for left in reversed(range(attempts)):
        try:
            return (await store.append(key, entries)).seqs
        except (ConflictError, StoreUnavailableError):
            if not left:
                raise
    raise AssertionError("attempts must be at least 1")


def write_turns_apart(
    number: int, open_store: StoreOpener, colour: Colour, key: SessionKey, *, turns: int, attempts: int
) -> dict[str, int]:
    """Append turns with a store of this process's own."""

    async def work() -> dict[str, int]:
        store = open_store()
        try:
            return await write_turns(store, key, writer=f"p{number}", turns=turns, attempts=attempts)
        finally:
            await store.close()

    return through(colour, work())


def kill_writer(open_store: StoreOpener, colour: Colour, key: SessionKey, *, prefix: str, after: int) -> int:
    """Kill a process that appends ``turn(f"{prefix}.{n}")`` for n = 0, 1, ...; return how many it was told of.

    after: how many acknowledged turns to wait for; a random moment later it dies.
    """
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(
        target=_write_until_killed, args=(open_store, colour, key, prefix, sender), daemon=True
    )
    process.start()
    sender.close()
    acknowledged = 0
    try:
        while acknowledged < after:
            receiver.recv_bytes()
            acknowledged += 1
        time.sleep(random.uniform(0, 0.01))  # noqa: S311 - any moment will do
        process.kill()
        while True:
            receiver.recv_bytes()
            acknowledged += 1
    except EOFError:
        return acknowledged
    finally:
        process.kill()
        process.join()
        process.close()
        receiver.close()


def _write_until_killed(
    open_store: StoreOpener, colour: Colour, key: SessionKey, prefix: str, told: connection.Connection
) -> None:
    async def work() -> None:
        store = open_store()
        for number in count():
            await store.append(key, turn(f"{prefix}.{number}"))
            told.send_bytes(b".")

    through(colour, work())
