"""Times things that are done in turn, so that what else the machine does hits each of them alike.

Figures are medians; their spread is the middle half. What counts are ratios within one race.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any

QUICK = bool(os.environ.get("QUICK"))
SECONDS = 0.1 if QUICK else 0.7
"""How long a race goes on, for each thing that takes part."""
LEAST, MOST = 5, 3000
"""How many rounds there are."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one thing that was done many times."""

    median: float
    low: float
    high: float
    """The middle half lies between these two."""
    p99: float
    rounds: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        taken = sorted(one * 1e6 for one in seconds)
        low, _, high = quantiles(taken, n=4)
        return cls(median(taken), low, high, taken[len(taken) * 99 // 100], len(taken))


def race(
    kinds: Mapping[str, Callable[[Any], Any]],
    *,
    given: Callable[[], Any] = lambda: None,
    seconds: float = SECONDS,
    most: int = MOST,
) -> dict[str, dict[str, float]]:
    """Return the timing of each kind; every call gets a value that was made before the clock began."""

    async def call(work: Callable[[Any], Any], value: Any) -> None:
        work(value)

    return _drive(_race(kinds, call, given, seconds, most))


async def arace(
    kinds: Mapping[str, Callable[[Any], Awaitable[Any]]],
    *,
    given: Callable[[], Any] = lambda: None,
    seconds: float = SECONDS,
) -> dict[str, dict[str, float]]:
    """Do the same with what is awaited."""

    async def call(work: Callable[[Any], Awaitable[Any]], value: Any) -> None:
        await work(value)

    return await _race(kinds, call, given, seconds, MOST)


async def _race(kinds: Any, call: Any, given: Any, seconds: float, most: int) -> dict[str, dict[str, float]]:
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for work in kinds.values():  # connections, prepared statements, caches
        for _ in range(3):
            await call(work, given())
    with without_gc():
        spent, rounds = 0.0, 0
        while rounds < LEAST or (rounds < most and spent < seconds * len(kinds)):
            for name, work in kinds.items():
                value = given()
                begin = perf_counter()
                await call(work, value)
                taken[name].append(perf_counter() - begin)
                spent += taken[name][-1]
            rounds += 1
            if rounds % 50 == 0:
                gc.collect(0)
    return {name: asdict(Timing.of(seconds)) for name, seconds in taken.items()}


def _drive(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a blocking race had to wait")


@contextmanager
def without_gc() -> Iterator[None]:
    """Keep Python's full collection, which takes 100 ms with many messages about, out of what is timed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def per_second_with_threads(work: Callable[[int], Any], count: int, *, seconds: float) -> float:
    """Return how often a second so many threads do it, each with its own number."""
    done = [0] * count
    deadline = perf_counter() + seconds

    def repeat(number: int) -> None:
        while perf_counter() < deadline:
            work(number)
            done[number] += 1

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(count)]
    begin = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (perf_counter() - begin)


async def per_second_with_tasks(work: Callable[[int], Awaitable[Any]], count: int, *, seconds: float) -> float:
    """Return how often a second so many tasks do it, each with its own number."""
    deadline = perf_counter() + seconds

    async def repeat(number: int) -> int:
        done = 0
        while perf_counter() < deadline:
            await work(number)
            done += 1
        return done

    begin = perf_counter()
    done = await asyncio.gather(*map(repeat, range(count)))
    return sum(done) / (perf_counter() - begin)
