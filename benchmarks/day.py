"""A day of traffic on a hot and a cold store, in a minute: what lies in Redis, how far archival lags, nothing lost.

    python -m benchmarks.day [--seconds 60] [--conversations 3000] [--write]

People arrive as the day goes, most in the afternoon; a conversation has some turns, with pauses between them, and
some people come back after hours. Every clock is the real one: a day is compressed, and idle means 30 minutes of it.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from time import perf_counter, sleep
from typing import Any

from redis import Redis

from benchmarks.conversation import turn
from benchmarks.report import Results
from lc_history import ChatHistories
from lc_history.bridge import drive
from lc_history.stores.tiered import Archiver
from lc_history.testing.servers import PostgresServer, RedisServer

DAY = 86_400.0
IDLE = 1800.0
SAMPLES = 24


def traffic(conversations: int, chance: random.Random) -> list[tuple[float, str]]:
    """Return the day's turns: the second of the day, and the session."""
    turns = []
    for number in range(conversations):
        while True:  # the day's curve: quiet at four in the morning, busiest in the afternoon
            at = chance.uniform(0, DAY)
            if chance.random() < 0.55 - 0.45 * math.cos((at / 3600 - 4) * math.tau / 24):
                break
        for _ in range(1 + min(30, int(chance.expovariate(1 / 5)))):
            turns.append((at, f"session-{number:05}"))
            pause = chance.lognormvariate(4, 1) if chance.random() < 0.9 else chance.uniform(3600, 6 * 3600)
            at += pause
    return sorted((at, session) for at, session in turns if at < DAY)


def measure(seconds: float, conversations: int) -> dict[str, Any]:
    """Return the day: samples over time, what was moved, and how many acknowledged messages are gone."""
    factor = seconds / DAY
    turns = traffic(conversations, random.Random(5))
    with ExitStack() as stack:
        hot, cold = stack.enter_context(RedisServer()), stack.enter_context(PostgresServer())
        client = stack.enter_context(Redis.from_url(hot.url))
        histories = stack.enter_context(ChatHistories.open(f"{hot.url}+{cold.url}"))
        histories.migrate()
        enough, moved, passes = threading.Event(), [0], [0]

        def archive() -> None:
            archiver = Archiver(histories.store, idle=timedelta(seconds=IDLE * factor))
            while not enough.wait(600 * factor):  # a pass every ten minutes of the day
                moved[0] += archiver.run_once().moved
                passes[0] += 1

        worker = threading.Thread(target=archive)
        worker.start()
        said, samples, late = _play(turns, factor, histories, client)
        enough.set()
        worker.join()
        lost = sum(len(histories.session(name).messages) != count for name, count in said.items())
        left = Archiver(histories.store, idle=timedelta(milliseconds=1))
        sleep(0.1)
        moved[0] += left.run_once().moved
        lost += sum(len(histories.session(name).messages) != count for name, count in said.items())
        return {
            "seconds": seconds,
            "conversations": len(said),
            "turns": len(turns),
            "moves": moved[0],
            "passes": passes[0],
            "sessions that lost or doubled a message": lost,
            "largest delay of a turn, in seconds": late,
            "megabytes in Redis once all is archived": client.info("memory")["used_memory_dataset"] / 1e6,
            "samples": samples,
        }


def _play(
    turns: Any, factor: float, histories: ChatHistories, client: Redis
) -> tuple[dict[str, int], list[Any], float]:
    said: dict[str, int] = {}
    events = [(at, 0, session) for at, session in turns]
    events += [((hour + 0.99) * DAY / SAMPLES, 1, "") for hour in range(SAMPLES)]
    heapq.heapify(events)
    samples, late, begin = [], 0.0, perf_counter()
    while events:
        at, is_sample, session = heapq.heappop(events)
        wait = at * factor - (perf_counter() - begin)
        late = max(late, -wait)
        if wait > 0:
            sleep(wait)
        if is_sample:
            samples.append(_sample(at, factor, histories, client, said))
        else:
            histories.session(session).add_messages(turn())
            said[session] = said.get(session, 0) + 2
    return said, samples, late


def _sample(
    at: float, factor: float, histories: ChatHistories, client: Redis, said: dict[str, int]
) -> dict[str, float]:
    """Return the state at a moment; the lag is how much longer than 30 minutes the most idle session has stayed hot."""
    page = drive(histories.store.hot.scan(limit=1))
    idle = (datetime.now(UTC) - page.items[0].updated_at).total_seconds() / factor if page.items else 0.0
    return {
        "hour": at / 3600,
        "megabytes in Redis": client.info("memory")["used_memory_dataset"] / 1e6,
        "messages so far": sum(said.values()),
        "archival lag, minutes": max(0.0, idle - IDLE) / 60,
    }


def main() -> None:
    """Play the day and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--conversations", type=int, default=1500)
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/performance")
    arguments = parser.parse_args()
    results = Results.read() if arguments.write else Results({})
    results.keep("day", measure(arguments.seconds, arguments.conversations))
    print(results.text())
    if arguments.write:
        results.write()


if __name__ == "__main__":
    main()
