"""Deleting and pruning whole threads, also such as keep only the changes of a channel.

A DeltaChannel is rebuilt from the writes of older checkpoints, back to the last that holds it whole. Whatever a
kept checkpoint is rebuilt from is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from lc_history.agents.checkpoints.address import check_ids
from lc_history.agents.checkpoints.database import Database, rows
from lc_history.agents.checkpoints.savers import saver_on, verb_of
from lc_history.agents.encoding.values import FOLDED_KINDS, folded_of, references_in
from lc_history.bridge import settle
from lc_history.errors import PolicyError
from lc_history.model import SessionKey
from lc_history.stores.postgres.session import LockedSession

# A channel of which a checkpoint holds changes only: it has counted some since the last whole value.
_LINEAGE = """
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata ->> 'run_id', metadata -> 'parents' ->> '',
    ARRAY(SELECT jsonb_object_keys(coalesce(metadata -> 'counters_since_delta_snapshot', '{}'))),
    ARRAY(SELECT channel FROM checkpoint_blobs b, jsonb_each_text(checkpoint -> 'channel_versions') v
          WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
          AND b.channel = v.key AND b.version = v.value)
FROM checkpoints c WHERE thread_id = %s ORDER BY checkpoint_ns, checkpoint_id
"""
_THREADS_OF_RUNS = "SELECT DISTINCT thread_id FROM checkpoints WHERE metadata ->> 'run_id' = ANY (%s) ORDER BY 1"
_DELETE_CHECKPOINTS = """
DELETE FROM checkpoints WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY (%s) RETURNING 1
"""
_DELETE_WRITES = """
DELETE FROM checkpoint_writes WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY (%s) RETURNING 1
"""
_DELETE_BLOBS = """
WITH used AS MATERIALIZED (
    SELECT DISTINCT c.checkpoint_ns, v.key, v.value
    FROM checkpoints c CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') v WHERE c.thread_id = %s)
DELETE FROM checkpoint_blobs b WHERE b.thread_id = %s AND NOT EXISTS (
    SELECT FROM used WHERE used.checkpoint_ns = b.checkpoint_ns AND used.key = b.channel AND used.value = b.version)
RETURNING 1
"""
_OWNED = """
SELECT user_id, thread_id FROM lch_threads WHERE thread_id = ANY (%s) AND deleted_at IS NULL ORDER BY 2
"""
_JOIN = """
UPDATE checkpoints SET parent_checkpoint_id = %s
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = %s RETURNING 1
"""
_LOCK = "SELECT 1 FROM lch_threads WHERE thread_id = %s FOR UPDATE"
# The turns that a thread has taken it has taken, whatever is left of them.
_INDEX = """
UPDATE lch_threads t SET checkpoints = left_over.count, last_checkpoint_id = left_over.last,
    last_turn_id = CASE WHEN t.last_checkpoint_id = left_over.last THEN t.last_turn_id END,
    status = CASE WHEN t.last_checkpoint_id = left_over.last THEN t.status
        ELSE lch_said(t.thread_id, left_over.last) END
FROM (SELECT count(*) AS count, max(checkpoint_id) AS last FROM checkpoints
      WHERE thread_id = %(thread)s AND checkpoint_ns = '') AS left_over
WHERE t.thread_id = %(thread)s AND t.deleted_at IS NULL RETURNING 1
"""
_FOLDED_VALUES = """
SELECT type, blob FROM checkpoint_blobs WHERE thread_id = %(thread)s AND type = ANY (%(kinds)s)
UNION ALL SELECT type, blob FROM checkpoint_writes WHERE thread_id = %(thread)s AND type = ANY (%(kinds)s)
"""
_SWEEP = """
WITH RECURSIVE reached (name) AS (
    SELECT unnest(%(names)s::bytea[])
    UNION
    SELECT substring(g.body FROM at FOR 16) FROM reached
    JOIN lch_bodies g ON g.thread_id = %(thread)s AND g.name = reached.name AND g.type = 'references'
    CROSS JOIN LATERAL generate_series(1, length(g.body), 16) AS at)
DELETE FROM lch_bodies b WHERE thread_id = %(thread)s AND NOT EXISTS (SELECT FROM reached WHERE name = b.name)
RETURNING 1
"""
SNAPSHOT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"


@dataclass(frozen=True, slots=True)
class Step:
    """One checkpoint: where it stands, and of which channels it holds changes only, or a whole value."""

    namespace: str
    id: str
    parent_id: str | None
    run_id: str | None
    root_id: str | None
    """The checkpoint of the root graph that a subgraph's stands under."""
    changing: frozenset[str]
    whole: frozenset[str]


Lineage = dict[tuple[str, str | None], Step]


async def delete_threads(database: Database, thread_ids: Sequence[str]) -> None:
    """Delete whole threads and what was said in them, and remember that: what began before is not written any more."""
    for thread_id in thread_ids:
        check_ids(thread_id=thread_id)

    async def work(connection: Any) -> None:
        async with database.transaction(connection):
            owned = await rows(connection, _OWNED, (list(thread_ids),))
            await rows(connection, "SELECT lch_delete(%s)", (list(thread_ids),))
            for user_id, thread_id in owned:
                key = SessionKey(user_id, thread_id)
                session = await LockedSession.take(database.postgres, connection, key, create=False)
                if session is not None:
                    await session.erase()
                    await session.save()

    if thread_ids:
        await database.run(work)


async def delete_for_runs(database: Database, run_ids: Sequence[str]) -> None:
    """Delete the checkpoints that these runs made; what stays of a thread is joined over the gap.

    Raises `PolicyError`, and deletes nothing, if a later checkpoint is rebuilt from one of them.
    """
    for run_id in run_ids:
        check_ids(run_id=run_id)
    threads: set[str] = set()

    async def work(connection: Any) -> None:
        async with database.transaction(connection, SNAPSHOT):
            for (thread_id,) in await rows(connection, _THREADS_OF_RUNS, (list(run_ids),)):
                lineage = await lineage_of(connection, thread_id)
                threads.add(thread_id)
                gone = {step for step in lineage.values() if step.run_id in run_ids}
                if gone & needed_by(lineage, set(lineage.values()) - gone):
                    raise PolicyError(
                        f"later checkpoints of thread {thread_id!r} are rebuilt from what these runs wrote: "
                        "delete the later runs as well, or the thread"
                    )
                await delete_steps(connection, thread_id, lineage, gone)

    if run_ids:
        await database.run(work)
        for thread_id in threads:
            await sweep_thread(database, thread_id)


async def keep_latest(database: Database, thread_id: str) -> None:
    """Keep the latest checkpoint of every namespace of a thread, with what it is rebuilt from.

    LangGraph's own saver does it, except for a thread with a DeltaChannel, which it refuses.
    """
    check_ids(thread_id=thread_id)

    async def whole(connection: Any) -> None:
        async with database.transaction(connection, SNAPSHOT):
            saver = saver_on(connection, JsonPlusSerializer())
            await settle(verb_of(saver, "prune")([thread_id], strategy="keep_latest"))

    async def changes(connection: Any) -> None:
        async with database.transaction(connection, SNAPSHOT):
            lineage = await lineage_of(connection, thread_id)
            heads = {step.namespace: step for step in lineage.values()}
            await delete_steps(
                connection, thread_id, lineage, set(lineage.values()) - needed_by(lineage, heads.values())
            )

    try:
        await database.run(whole, thread_id)
    except NotImplementedError:
        await database.run(changes, thread_id)
    await sweep_thread(database, thread_id)


async def sweep_thread(database: Database, thread_id: str) -> None:
    """Delete the bodies of messages that no value of a thread refers to any more, and count what is left."""

    async def work(connection: Any) -> None:
        async with database.transaction(connection):
            await sweep(connection, thread_id)

    await database.run(work, thread_id)


async def sweep(connection: Any, thread_id: str) -> None:
    """Do what `sweep_thread` does, in a transaction that reads what is committed at each statement.

    The thread is locked first: a write that takes a body for stored has either committed, and is seen, or finds the
    body gone, and sends it again.
    """
    await rows(connection, _LOCK, (thread_id,))
    names = {
        name
        for kind, blob in await rows(connection, _FOLDED_VALUES, {"thread": thread_id, "kinds": FOLDED_KINDS})
        for name in references_in(folded_of(kind, bytes(blob)))
    }
    await rows(connection, _SWEEP, {"thread": thread_id, "names": list(names)})
    await rows(connection, _INDEX, {"thread": thread_id})


async def lineage_of(connection: Any, thread_id: str) -> Lineage:
    """Return every checkpoint of a thread by namespace and id."""
    found = await rows(connection, _LINEAGE, (thread_id,))
    steps = [
        Step(ns, id_, parent, run, root, frozenset(changing), frozenset(whole))
        for ns, id_, parent, run, root, changing, whole in found
    ]
    return {(step.namespace, step.id): step for step in steps}


def needed_by(lineage: Lineage, kept: Iterable[Step]) -> set[Step]:
    """Return the kept steps and all that they are rebuilt from: back to a whole value of every channel."""
    needed = set()
    for step in kept:
        at: Step | None = step
        missing = step.changing - step.whole
        needed.add(step)
        while missing and at is not None:
            at = lineage.get((at.namespace, at.parent_id))
            if at is not None:
                needed.add(at)
                missing -= at.whole
    return needed


async def delete_steps(connection: Any, thread_id: str, lineage: Lineage, gone: set[Step]) -> None:
    """Delete checkpoints with their writes and values, and join what stays over the gap."""
    for namespace in {step.namespace for step in gone}:
        ids = [step.id for step in gone if step.namespace == namespace]
        await rows(connection, _DELETE_WRITES, (thread_id, namespace, ids))
        await rows(connection, _DELETE_CHECKPOINTS, (thread_id, namespace, ids))
    for step in set(lineage.values()) - gone:
        parent = lineage.get((step.namespace, step.parent_id))
        if parent in gone:
            while parent in gone:
                parent = lineage.get((parent.namespace, parent.parent_id))
            await rows(connection, _JOIN, (parent and parent.id, thread_id, step.namespace, step.id))
    await rows(connection, _DELETE_BLOBS, (thread_id, thread_id))
