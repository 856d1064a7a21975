"""One user with very many sessions: what a page of fifty takes on each store, beside a user who has a hundred.

    python -m benchmarks.sessions [STORE ...] [--sessions 100000]

The emulators of Firestore and DynamoDB are slow to fill, and get a twentieth of the sessions.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.bills import KEYS
from lc_history import ChatHistories
from lc_history.bridge import drive
from lc_history.model import Entry, SessionKey
from lc_history.stores import open_store
from lc_history.stores.dynamodb import DynamoDBStore
from lc_history.testing.servers import DynamoDBServer, FirestoreServer, PostgresServer, RedisServer

FEW, LIMIT, ROUNDS = 100, 50, 200
SLOW = ("Firestore", "DynamoDB")


@contextmanager
def _served(server: Any, open_one: Callable[[str], Any]) -> Iterator[Any]:
    with server() as running:
        yield open_one(running.url)


@contextmanager
def _sqlite() -> Iterator[Any]:
    from lc_history.stores.sqlite import SQLiteStore

    with TemporaryDirectory() as directory:
        yield SQLiteStore(Path(directory) / "chat.db", synchronous="normal")


@contextmanager
def _memory() -> Iterator[Any]:
    yield open_store("memory://")


def _firestore(host: str) -> Any:
    os.environ["FIRESTORE_EMULATOR_HOST"] = host
    return open_store("firestore://test")


def _dynamodb(url: str) -> Any:
    import boto3

    return DynamoDBStore(table="chat", client=boto3.client("dynamodb", endpoint_url=url, **KEYS))


STORES: dict[str, Callable[[], Any]] = {
    "memory": _memory,
    "SQLite": _sqlite,
    "Redis": lambda: _served(RedisServer, open_store),
    "PostgreSQL": lambda: _served(PostgresServer, open_store),
    "Firestore": lambda: _served(FirestoreServer, _firestore),
    "DynamoDB": lambda: _served(DynamoDBServer, _dynamodb),
}


def fill(store: Any, user: str, count: int) -> float:
    """Begin so many sessions of one message, and return the seconds it took."""

    def begin(number: int) -> None:
        drive(store.append(SessionKey(user, f"s{number:06}"), [Entry("a", b"hello")]))

    began = perf_counter()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(begin, range(count)))
    return perf_counter() - began


def pages(histories: ChatHistories, user: str) -> tuple[float, float]:
    """Return the median milliseconds of the first page, and of pages further and further down."""

    def timed(cursor: str | None) -> tuple[float, str | None]:
        began = perf_counter()
        page = histories.sessions(user, limit=LIMIT, cursor=cursor)
        took = (perf_counter() - began) * 1000
        assert len(page.items) == LIMIT or page.cursor is None
        return took, page.cursor

    first = [timed(None)[0] for _ in range(ROUNDS)]
    deep, cursor = [], None
    for _ in range(ROUNDS):
        took, cursor = timed(cursor)
        deep.append(took)
    return median(first), median(deep)


def main() -> None:
    """Fill, list, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", metavar="STORE", help=", ".join(STORES))
    parser.add_argument("--sessions", type=int, default=100_000)
    arguments = parser.parse_args()
    print("| | sessions | first page of 100 | first page | further pages | to fill |\n|---|---|---|---|---|---|")
    for name in arguments.stores or STORES:
        many = arguments.sessions // (20 if name in SLOW else 1)
        with STORES[name]() as store, ChatHistories(store) as histories:
            histories.migrate()
            fill(store, "few", FEW)
            took = fill(store, "many", many)
            little, _ = pages(histories, "few")
            first, deep = pages(histories, "many")
            figures = f"{little:.2f} ms | {first:.2f} ms | {deep:.2f} ms | {took:.0f} s"
            print(f"| {name} | {many:,} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
