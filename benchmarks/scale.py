"""A million archived sessions in PostgreSQL: what listing, searching, reading and archiving cost at that size.

    python -m benchmarks.scale [--sessions 1000000] [--url postgresql://...] [--write]

The sessions are copied into the store's own tables by a generator that goes on where it was broken off: with --url
the data stays, without it a server is started for this run. On the way it measures at a hundredth and at a tenth.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import islice
from time import perf_counter
from typing import Any

import orjson
import psycopg
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from benchmarks.conversation import BODIES
from benchmarks.measure import race
from benchmarks.report import Results
from lc_history import ChatHistories
from lc_history.bridge import drive
from lc_history.testing.servers import PostgresServer

PER_USER = 5
BUSY_USER, BUSY_EACH = "busy", 100
"""One session in so many belongs to one user: 10,000 of a million."""
CHUNK = 5000
FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
PLACES = ("Paris", "Rome", "Oslo", "Lima", "Kyoto", "Cairo", "Quito", "Turin", "Lyon", "Bergen")
THINGS = ("Trip to", "Weather in", "Hotels near", "A letter from", "Taxes in", "Recipes of", "Trains to", "Work in")
TITLE = "convert_from(description, 'UTF8')::jsonb ->> 'title'"
TABLES = ("lc_history_sessions", "lc_history_records")
SIZES = """
SELECT c.relname, pg_relation_size(c.oid) FROM pg_class c
WHERE c.relname LIKE 'lc_history%%' AND c.relkind IN ('r', 'i') AND c.relname NOT LIKE '%%migrations%%' ORDER BY 1
"""
TITLES = """
CREATE FUNCTION lc_history_title(description bytea) RETURNS tsvector IMMUTABLE PARALLEL SAFE LANGUAGE sql
    AS $$ SELECT to_tsvector('simple', convert_from(description, 'UTF8')::jsonb ->> 'title') $$;
CREATE INDEX lc_history_sessions_titles ON lc_history_sessions USING gin (lc_history_title(description))
    WHERE alive AND description <> ''
"""


def sessions(begin: int, end: int) -> Iterator[tuple[int, str, str, bytes, datetime, int, str]]:
    """Yield number, user, name, description, time, length and a random id of sessions: the same in every run."""
    for number in range(begin, end):
        chance = random.Random(number)
        user = BUSY_USER if number % BUSY_EACH == 0 else f"user-{number // PER_USER:07}"
        title = f"{chance.choice(THINGS)} {chance.choice(PLACES)} {chance.randrange(100_000)}"
        description = orjson.dumps({"title": title, "tags": [], "metadata": {}})
        time = FIRST_DAY + timedelta(seconds=number * 30 % 30_000_000)
        yield (
            number + 1,
            user,
            f"session-{number:08}",
            description,
            time,
            chance.choice((2, 4, 6)),
            chance.randbytes(12).hex(),
        )


def load(connection: psycopg.Connection, until: int, progress: Callable[[int], Any]) -> None:
    """Copy sessions and their records, each chunk in one transaction, from where the last run came to."""
    done = connection.execute("SELECT coalesce(max(id), 0) FROM lc_history_sessions").fetchone()[0]
    progress(done)
    numbered = sessions(done, until)
    while chunk := list(islice(numbered, CHUNK)):
        with connection.transaction():
            _copy_sessions(connection, chunk)
            _copy_records(connection, chunk)
        progress(chunk[-1][0])
    connection.execute(
        "SELECT setval(pg_get_serial_sequence('lc_history_sessions', 'id'), (SELECT max(id) FROM lc_history_sessions))"
    )


def _copy_sessions(connection: psycopg.Connection, chunk: list[Any]) -> None:
    columns = "id, user_id, session_id, description, created_at, updated_at, messages, count, alive, archived"
    with connection.cursor().copy(f"COPY lc_history_sessions ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
        types = ("int8", "text", "text", "bytea", "timestamptz", "timestamptz", "int8", "int8", "bool", "bool")
        copy.set_types(types)
        for number, user, name, description, time, length, _ in chunk:
            copy.write_row((number, user, name, description, time, time, length, length, True, True))


def _copy_records(connection: psycopg.Connection, chunk: list[Any]) -> None:
    columns = "stream, seq, created_at, id, body"
    with connection.cursor().copy(f"COPY lc_history_records ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(("int8", "int8", "timestamptz", "text", "bytea"))
        for number, _, _, _, time, length, id_ in chunk:
            for seq in range(1, length + 1):
                copy.write_row((number * 16, seq, time, f"{id_}-{seq:08}", BODIES[seq % 2 - 1]))


def measure(histories: ChatHistories, connection: psycopg.Connection, count: int) -> dict[str, Any]:
    """Return what the verbs cost now, for users and sessions picked at random, and how large everything is."""
    begin = perf_counter()
    for table in TABLES:
        connection.execute(f"VACUUM ANALYZE {table}")
    vacuumed = perf_counter() - begin

    def any_session() -> Any:
        number = random.randrange(count // BUSY_EACH) * BUSY_EACH + random.randrange(1, BUSY_EACH)
        return histories.session(f"session-{number:08}", user_id=f"user-{number // PER_USER:07}")

    def of_user(history: Any, **options: Any) -> Any:
        return histories.sessions(history.transcript.key.user_id, **options)

    def search(history: Any) -> Any:
        return [one for one in of_user(history).items if "Paris" in one.label.title]

    kinds = {
        "list a user's sessions": of_user,
        "list a user's archived sessions": lambda history: of_user(history, archived=True),
        "first 50 of a busy user's (1 % of all)": lambda _: histories.sessions(BUSY_USER),
        "search a user's titles (list and compare)": search,
        "read a session": lambda history: history.messages,
        "its last 20": lambda history: history.last(20),
        "restore and archive again": lambda history: (
            history.describe(archived=False),
            history.describe(archived=True),
        ),
        "operator: oldest 100 of all": lambda _: drive(histories.store.scan(limit=100)),
    }
    found: dict[str, Any] = {"sessions": count, "vacuum seconds": vacuumed}
    found["times"] = race(kinds, given=any_session, seconds=0.7, most=1500)
    found["sizes"] = dict(connection.execute(SIZES).fetchall())
    found["records"] = connection.execute("SELECT count(*) FROM lc_history_records").fetchone()[0]
    return found


def searches(histories: ChatHistories, connection: psycopg.Connection) -> dict[str, Any]:
    """Return what a search by title costs as it is, and with an index of titles as the server could have it."""
    word = "SELECT count(*) FROM lc_history_sessions WHERE alive AND description <> '' AND "

    def through_the_listing(_: Any) -> int:
        cursor, found = None, 0
        while True:
            page = histories.sessions(BUSY_USER, limit=500, cursor=cursor)
            found += sum("Quito" in one.label.title for one in page.items)
            if (cursor := page.cursor) is None:
                return found

    busy = connection.execute("SELECT count(*) FROM lc_history_sessions WHERE user_id = 'busy'").fetchone()[0]
    one_user = f"{word} user_id = 'busy' AND {TITLE} ILIKE '%Quito%'"
    everybody = f"{word} {TITLE} ILIKE '%Quito 4242%'"
    found = race(
        {
            f"a busy user's {busy:,}, through the listing": through_the_listing,
            f"a busy user's {busy:,}, compared by the server": lambda _: connection.execute(one_user).fetchall(),
            "everybody's, compared by the server": lambda _: connection.execute(everybody).fetchall(),
        },
        seconds=2,
        most=10,
    )
    begin = perf_counter()
    connection.execute(TITLES)
    built = perf_counter() - begin
    indexed = f"{word} lc_history_title(description) @@ to_tsquery('simple', 'quito & 4242')"
    name = "everybody's, by words, with an index of titles"
    found |= race({name: lambda _: connection.execute(indexed).fetchall()}, seconds=1, most=200)
    size = connection.execute("SELECT pg_relation_size('lc_history_sessions_titles')").fetchone()[0]
    connection.execute("DROP FUNCTION lc_history_title CASCADE")
    return {"times": found, "index seconds": built, "index bytes": size}


def main() -> None:
    """Load, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--url", help="a PostgreSQL to load into, whose data stays")
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/performance")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        url = (
            arguments.url
            or stack.enter_context(
                PostgresServer(
                    options={"shared_buffers": "1GB", "max_wal_size": "8GB", "maintenance_work_mem": "512MB"}
                )
            ).url
        )
        histories = stack.enter_context(ChatHistories.open(url))
        histories.migrate()
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        steps, loaded = [], 0.0
        columns = (*Progress.get_default_columns()[:1], BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("sessions", total=arguments.sessions)
            for until in (arguments.sessions // 100, arguments.sessions // 10, arguments.sessions):
                begin = perf_counter()
                load(connection, until, lambda done: bar.update(task, completed=done))
                loaded += perf_counter() - begin
                steps.append(measure(histories, connection, until))
                print(f"{until:,} sessions after {loaded:.0f} s", file=sys.stderr)
        figures = {"seconds to load": loaded, "steps": steps, "search": searches(histories, connection)}
        results = Results.read() if arguments.write else Results({})
        results.keep("scale", figures)
        print(results.text())
        if arguments.write:
            results.write()


if __name__ == "__main__":
    main()
