"""Removing what is old from threads that nobody works on, in small batches, beside running agents."""

# ruff: noqa: S608 - what is put into these texts are names of this module; what comes from outside is a parameter
from __future__ import annotations

from contextlib import suppress
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from langgraph._internal._constants import NS_END  # what a task's id follows in a namespace

from lc_history.agents.checkpoints.address import made_at
from lc_history.agents.checkpoints.database import Database, rows
from lc_history.agents.threads.removal import Step, delete_steps, delete_threads, lineage_of, needed_by, sweep

_IDLE: Final = """
SELECT t.thread_id FROM {schema}lch_threads t LEFT JOIN {schema}lch_leases l USING (thread_id)
WHERE t.deleted_at IS NULL AND t.updated_at < %s
AND {schema}lch_standing(t, l) NOT IN ('busy', 'interrupted') ORDER BY t.updated_at LIMIT %s
"""
_THREADS: Final = """
SELECT thread_id FROM {schema}lch_threads WHERE deleted_at IS NULL AND thread_id > %s ORDER BY thread_id LIMIT %s
"""
_LOCK: Final = "SELECT expires_at > clock_timestamp() FROM lch_leases WHERE thread_id = %s FOR UPDATE"
_TABLES: Final = (
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
    "lch_bodies",
    "lch_turns",
    "lch_answers",
    "lch_effects",
)
_SIZE: Final = "SELECT coalesce(sum(n), 0)::bigint, coalesce(sum(size), 0)::bigint FROM ({}) AS tables".format(
    " UNION ALL ".join(
        "SELECT count(*) AS n, sum(pg_column_size(t)) AS size "
        f"FROM {{schema}}{table} t WHERE thread_id = ANY (%(threads)s)"
        for table in _TABLES
    )
)

# What only a client that asks again needs: of no thread that a run holds or a person is asked in, and of a thread that
# stopped on the way neither the turn that can still go on nor the answers that it was given. Leases before threads, as
# lch_admit locks them.
_NAMES: Final = "SELECT thread_id FROM {schema}lch_threads WHERE thread_id > %s ORDER BY thread_id LIMIT %s"
_AT_REST: Final = """
SELECT t.thread_id, {schema}lch_standing(t, l) AS status, t.last_turn_id, t.deleted_at FROM {schema}lch_threads t
LEFT JOIN {schema}lch_leases l USING (thread_id) WHERE t.thread_id = ANY (%(threads)s)
AND {schema}lch_standing(t, l) NOT IN ('busy', 'interrupted')
"""
_COUNTED: Final = "SELECT count(*), coalesce(sum(size), 0)::bigint FROM gone"
_TURNS: Final = f"""
WITH resting AS ({_AT_REST}), gone AS (
    DELETE FROM {{schema}}lch_turns o USING resting r WHERE o.thread_id = r.thread_id AND o.updated_at < %(before)s
    AND (r.status = 'idle' OR r.last_turn_id IS DISTINCT FROM o.turn_id) RETURNING pg_column_size(o) AS size) {_COUNTED}
"""
_ANSWERS: Final = f"""
WITH resting AS ({_AT_REST}), gone AS (
    DELETE FROM {{schema}}lch_answers o USING resting r WHERE o.thread_id = r.thread_id AND o.answered_at < %(before)s
    AND r.status = 'idle' RETURNING pg_column_size(o) AS size) {_COUNTED}
"""
_LEASES: Final = f"""
WITH resting AS ({_AT_REST}), gone AS (
    DELETE FROM {{schema}}lch_leases o USING resting r WHERE o.thread_id = r.thread_id AND r.deleted_at < %(before)s
    AND (o.expires_at IS NULL OR o.expires_at <= clock_timestamp()) RETURNING pg_column_size(o) AS size) {_COUNTED}
"""
_TOMBSTONES: Final = f"""
WITH resting AS ({_AT_REST}), gone AS (
    DELETE FROM {{schema}}lch_threads o USING resting r WHERE o.thread_id = r.thread_id AND o.deleted_at < %(before)s
    RETURNING pg_column_size(o) AS size) {_COUNTED}
"""
_BATCH: Final = 50


@dataclass(frozen=True, slots=True)
class Retained:
    """What was removed, or with ``dry_run`` would be."""

    threads: int = 0
    """Whole threads."""
    checkpoints: int = 0
    """Checkpoints of threads that stay."""
    turns: int = 0
    """Turns that are not known any more when they are asked for again."""
    answers: int = 0
    """Answers of people of which it is not known any more that they were given."""
    tombstones: int = 0
    """Deleted threads of which nothing is remembered any more."""
    rows: int = 0
    bytes: int = 0
    """Of all tables of the agents; a deleted thread's words are not counted."""

    def plus(self, other: Retained) -> Retained:
        """Return the sum of two reports."""
        return Retained(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class _DryRunError(Exception):
    """Undoes a transaction that was only to be counted."""


async def retain(
    database: Database,
    *,
    max_age: timedelta | None,
    keep_last: int | None,
    max_idle: timedelta | None,
    max_retry: timedelta | None,
    dry_run: bool,
) -> Retained:
    """Remove what is older than it may be, and return what that was."""
    now, report = datetime.now(UTC), Retained()
    while max_idle is not None:
        idle = [name for (name,) in await database.rows(_IDLE, (now - max_idle, 10**9 if dry_run else _BATCH))]
        if idle:
            report = report.plus(await _remove_threads(database, idle, dry_run=dry_run))
        if dry_run or not idle:
            break
    after = ""
    while max_age is not None or keep_last is not None:
        names = [name for (name,) in await database.rows(_THREADS, (after, _BATCH))]
        for name in names:
            oldest = None if max_age is None else now - max_age
            report = report.plus(await _trim(database, name, oldest, keep_last, dry_run=dry_run))
        if not names:
            break
        after = names[-1]
    if max_retry is not None:
        report = report.plus(await _forget(database, now - max_retry, dry_run=dry_run))
    return report


async def _remove_threads(database: Database, names: list[str], *, dry_run: bool) -> Retained:
    [(count, size)] = await database.rows(_SIZE, {"threads": names})
    if not dry_run:
        await delete_threads(database, names)
    return Retained(threads=len(names), rows=count, bytes=size)


async def _forget(database: Database, before: datetime, *, dry_run: bool) -> Retained:
    """Remove what only a client needs that asks again for what it asked before then."""
    report, after = Retained(), ""
    while names := [name for (name,) in await database.rows(_NAMES, (after, _BATCH))]:
        asked, after = {"threads": names, "before": before}, names[-1]
        found: list[tuple[Any, ...]] = []

        async def work(connection: Any, asked: Any = asked, found: list[Any] = found) -> None:
            found.clear()
            async with database.transaction(connection):
                for statement in (_TURNS, _ANSWERS, _LEASES, _TOMBSTONES):
                    found += await rows(connection, database.postgres.qualified(statement), asked)
                if dry_run:
                    raise _DryRunError

        with suppress(_DryRunError):
            await database.run(work)
        counts, sizes = zip(*found, strict=True)
        turns, answers, _, tombstones = counts
        report = report.plus(
            Retained(turns=turns, answers=answers, tombstones=tombstones, rows=sum(counts), bytes=int(sum(sizes)))
        )
    return report


async def _trim(
    database: Database, thread_id: str, oldest: datetime | None, keep_last: int | None, *, dry_run: bool
) -> Retained:
    report = Retained()

    async def work(connection: Any) -> None:
        nonlocal report
        async with database.transaction(connection):
            if await rows(connection, _LOCK, (thread_id,)) == [(True,)]:
                return
            steps = await lineage_of(connection, thread_id)
            gone = set(steps.values()) - needed_by(steps, _kept(list(steps.values()), oldest, keep_last))
            if not gone:
                return
            sizes = database.postgres.qualified(_SIZE)
            [(count, size)] = await rows(connection, sizes, {"threads": [thread_id]})
            await delete_steps(connection, thread_id, steps, gone)
            await sweep(connection, thread_id)
            [(left, rest)] = await rows(connection, sizes, {"threads": [thread_id]})
            report = Retained(checkpoints=len(gone), rows=count - left, bytes=size - rest)
            if dry_run:
                raise _DryRunError

    with suppress(_DryRunError):
        await database.run(work, thread_id)
    return report


def _kept(steps: list[Step], oldest: datetime | None, keep_last: int | None) -> list[Step]:
    """Return those to keep: of each namespace the latest, those that are young enough, and so many of the last.

    A namespace of a single task's has no latest any more once the root's checkpoint is gone that the task belongs to.
    """
    kept: list[Step] = []
    for namespace in sorted({step.namespace for step in steps}):  # the root's first
        mine = sorted((step for step in steps if step.namespace == namespace), key=lambda step: step.id, reverse=True)
        for place, step in enumerate(mine):
            made = made_at(step.id)
            young = oldest is not None and (made is None or made >= oldest)
            last = not place or (keep_last is not None and place < keep_last)
            within = NS_END not in namespace or step.root_id in {other.id for other in kept}
            if young or (last and within):
                kept.append(step)
    return kept
