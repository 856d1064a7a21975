"""What a turn costs on Redis beside a raw pipelined write of the same bytes, and the last 20 of a long session.

    python -m benchmarks.redis_append [--rounds 3000] [--url redis://...]

Interleaved, one call of each kind after the other, so that a noisy machine troubles all alike: the ratios count.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from os import urandom
from statistics import median
from time import perf_counter
from uuid import uuid4

from redis import Redis

from lc_history.bridge import drive
from lc_history.model import Entry, SessionKey
from lc_history.stores.redis import RedisStore
from lc_history.testing.servers.redis import RedisServer

BODY = urandom(1024)
LENGTHS = (20, 10_000, 100_000)


def measure(kinds: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call, sorted."""
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, call in kinds.items():
            begin = perf_counter()
            call()
            seconds[name].append(perf_counter() - begin)
    return {name: sorted(taken[rounds // 20 :]) for name, taken in seconds.items()}


def contestants(store: RedisStore, client: Redis) -> dict[str, Callable[[], object]]:
    turns = SessionKey("bench", "turns")
    numbers = count()

    def append() -> object:
        entries = [Entry(uuid4().hex, BODY), Entry(uuid4().hex, BODY)]
        return drive(store.append(turns, entries))

    def raw_same() -> object:
        number, ids = next(numbers), (uuid4().hex, uuid4().hex)
        pipeline = client.pipeline(transaction=False)
        pipeline.rpush("raw:records", ids[0].encode() + BODY, ids[1].encode() + BODY)
        pipeline.hset("raw:ids", mapping={ids[0]: number, ids[1]: number})
        pipeline.zadd("raw:user", {"bench:turns": number})
        pipeline.zadd("raw:all", {"bench:turns": number})
        return pipeline.execute()

    def raw_bodies() -> object:
        pipeline = client.pipeline(transaction=False)
        pipeline.rpush("raw:one", BODY)
        pipeline.rpush("raw:one", BODY)
        return pipeline.execute()

    kinds = {"append": append, "raw, same data": raw_same, "raw, bodies only": raw_bodies}
    for length in LENGTHS:
        key = SessionKey("bench", f"long {length}")
        for first in range(0, length, 1000):
            some = range(first, min(first + 1000, length))
            drive(store.append(key, [Entry(str(number), BODY) for number in some]))
        kinds[f"last(20) of {length:,}"] = lambda key=key: drive(store.read(key, last=20))
    kinds["raw LRANGE of 20"] = lambda: client.lrange("lch:{bench:long%2020}:messages", -20, -1)
    return kinds


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--url", help="a Redis to write to; a fresh one is started where none is given")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        url = arguments.url or stack.enter_context(RedisServer()).url
        client = stack.enter_context(Redis.from_url(url))
        store = RedisStore.from_url(url)
        stack.callback(lambda: drive(store.close()))
        taken = measure(contestants(store, client), arguments.rounds)
    print("| | p50 us | p99 us |\n|---|---|---|")
    for name, seconds in taken.items():
        print(f"| {name} | {median(seconds) * 1e6:.0f} | {seconds[len(seconds) * 99 // 100] * 1e6:.0f} |")
    p50 = {name: median(seconds) for name, seconds in taken.items()}
    print("\n| ratio of p50 | | target |\n|---|---|---|")
    for mine, other, target in (
        ("append", "raw, same data", 1.5),
        ("append", "raw, bodies only", 2.0),
        ("last(20) of 10,000", "last(20) of 20", 1.3),
        ("last(20) of 100,000", "last(20) of 20", 1.3),
        ("last(20) of 20", "raw LRANGE of 20", 1.8),
    ):
        print(f"| {mine} / {other} | {p50[mine] / p50[other]:.2f} | {target} |")


if __name__ == "__main__":
    main()
