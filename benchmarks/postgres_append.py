"""A two-message turn on PostgreSQL beside the bare prepared insert of the same bytes, and what grows with length.

    python benchmarks/postgres_append.py [--fsync]

Ratios count: both sides run interleaved, on one connection each, against the same server.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import UTC, datetime
from itertools import count
from statistics import median, quantiles
from uuid import uuid4

import psycopg

from lc_history.bridge import drive
from lc_history.model import MESSAGES, Entry, Record, SessionCopy, SessionInfo, SessionKey, Slice
from lc_history.stores.postgres import PostgresStore
from lc_history.testing.servers.postgres import PostgresServer

BODY = os.urandom(700)
BARE_TABLE = """
CREATE TABLE bare (
    session bigint, seq bigint GENERATED ALWAYS AS IDENTITY, id text NOT NULL, body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (session, seq)
)
"""
BARE_INSERT = "INSERT INTO bare (session, id, body) VALUES (%b, %b, %b), (%b, %b, %b) RETURNING seq"
BARE_READ = "SELECT seq, id, body, created_at FROM bare WHERE session = %b ORDER BY seq DESC LIMIT 20"


def turn():
    return [Entry(str(uuid4()), BODY), Entry(str(uuid4()), BODY)]


def timed(work):
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e6


def interleaved(rounds, **kinds):
    """Print the medians of several things done in turn, and their ratios to the first."""
    times = {name: [] for name in kinds}
    for number in range(rounds + 50):
        for name, work in kinds.items():
            spent = timed(work)
            if number >= 50:
                times[name].append(spent)
    floor = median(next(iter(times.values())))
    for name, spent in times.items():
        p95 = quantiles(spent, n=20)[-1]
        print(f"  {name:24} p50 {median(spent):7.0f} us   p95 {p95:7.0f} us   ratio {median(spent) / floor:5.2f}")


def filled(store, size):
    """Return a session of so many messages."""
    key, now = SessionKey("bench", f"of {size}"), datetime.now(UTC)
    records = [Record(seq, str(uuid4()), BODY, now) for seq in range(1, size + 1)]
    info = SessionInfo(key, size, size, now, now, None, archived=False, description=b"", version=1)
    drive(store.load(SessionCopy(info, {MESSAGES: Slice(records, size)})))
    return key


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fsync", action="store_true", help="make the server write through, as in production")
    parser.add_argument("--major", type=int, default=18)
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    fsync = {"fsync": "on"} if options.fsync else {}
    with PostgresServer(options.major, options=fsync) as server, psycopg.connect(server.url, autocommit=True) as raw:
        print(f"{server.version}, fsync {'on' if options.fsync else 'off'}")
        store = PostgresStore.from_url(server.url)
        drive(store.migrate())
        raw.execute(BARE_TABLE)
        sessions = [SessionKey("bench", f"s{number}") for number in range(50)]
        places = count()

        def bare():
            one, two = str(uuid4()), str(uuid4())
            session = next(places) % 50
            raw.execute(BARE_INSERT, (session, one, BODY, session, two, BODY), prepare=True, binary=True).fetchall()

        def ours():
            drive(store.append(sessions[next(places) % 50], turn()))

        print("append of two messages")
        interleaved(options.rounds, bare=bare, ours=ours)

        sizes = (20, 100, 1000, 10_000, 100_000)
        keys = {size: filled(store, size) for size in sizes}
        for number, size in enumerate(sizes, 1000):
            rows = [(number, str(uuid4()), BODY) for _ in range(size)]
            raw.cursor().executemany("INSERT INTO bare (session, id, body) VALUES (%s, %s, %s)", rows)
        raw.execute("ANALYZE")

        def floor(number=1002):
            raw.execute(BARE_READ, (number,), prepare=True, binary=True).fetchall()

        print("last(20), by length")
        last = {f"ours of {size}": lambda key=key: drive(store.read(key, last=20)) for size, key in keys.items()}
        interleaved(options.rounds // 4, floor=floor, **last)
        print("append of two messages, by length")
        grow = {f"ours of {size}": lambda key=key: drive(store.append(key, turn())) for size, key in keys.items()}
        interleaved(options.rounds // 4, **grow)
        drive(store.close())


if __name__ == "__main__":
    main()
