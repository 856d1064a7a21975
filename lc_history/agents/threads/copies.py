"""Copies of threads: all of one, or up to a checkpoint, with the words that were said by then, in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain_core.runnables import RunnableConfig

from lc_history.agents.checkpoints.address import check_ids
from lc_history.agents.checkpoints.database import rows
from lc_history.agents.threads.removal import SNAPSHOT
from lc_history.agents.threads.resealing import seal_copy
from lc_history.agents.threads.words import changed_in, ids_in
from lc_history.model import SessionKey
from lc_history.stores.postgres.turn import append_judged

if TYPE_CHECKING:
    from lc_history.agents.checkpoints.checkpointer import Checkpointer

_OWNER: Final = "SELECT user_id FROM {schema}lch_threads WHERE thread_id = %s AND deleted_at IS NULL"

# What a fork does not take: checkpoints beside its line, and what was under way at the one where it begins.
_LINE: Final = """
WITH RECURSIVE line AS (
    SELECT checkpoint_id, parent_checkpoint_id FROM checkpoints
    WHERE thread_id = %(thread)s AND checkpoint_ns = '' AND checkpoint_id = %(checkpoint)s
    UNION SELECT c.checkpoint_id, c.parent_checkpoint_id FROM checkpoints c
    JOIN line ON c.checkpoint_id = line.parent_checkpoint_id AND c.thread_id = %(thread)s AND c.checkpoint_ns = '')
DELETE FROM checkpoints WHERE thread_id = %(thread)s AND (
    checkpoint_ns = '' AND checkpoint_id NOT IN (SELECT checkpoint_id FROM line)
    OR checkpoint_ns <> '' AND checkpoint_id > %(checkpoint)s) RETURNING 1
"""
_OPEN_WRITES: Final = """
DELETE FROM checkpoint_writes w WHERE thread_id = %(thread)s AND (checkpoint_id = %(checkpoint)s OR NOT EXISTS (
    SELECT FROM checkpoints c WHERE c.thread_id = w.thread_id AND c.checkpoint_ns = w.checkpoint_ns
    AND c.checkpoint_id = w.checkpoint_id)) RETURNING 1
"""
_SETTLE: Final = """
UPDATE lch_threads SET last_checkpoint_id = %(checkpoint)s, status = 'idle', last_turn_id = NULL,
    checkpoints = (SELECT count(*) FROM checkpoints WHERE thread_id = %(thread)s AND checkpoint_ns = ''),
    turns = (SELECT count(*) FROM checkpoints WHERE thread_id = %(thread)s AND checkpoint_ns = ''
             AND metadata ->> 'source' = 'input')
WHERE thread_id = %(thread)s RETURNING 1
"""


async def copy_thread(saver: Checkpointer, source: str, target: str, *, until: str | None = None) -> None:
    """Copy a thread to another that is empty, with its transcript; up to a checkpoint, or all of it.

    The words are all that were said in the thread before the last that the checkpoint holds, and that one. Everything
    is of one moment, also beside a run. `ConflictError` if the other thread exists.
    """
    check_ids(source_thread_id=source, target_thread_id=target)
    database, speech = saver.database, saver.exchange.speech
    owners = await database.rows(_OWNER, (source,)) if speech is not None else []
    known = await _known_at(saver, owners[0][0], source, until) if owners and until is not None else None
    named = {"thread": target, "checkpoint": until}

    async def work(connection: Any) -> None:
        async with database.transaction(connection, SNAPSHOT):
            await rows(connection, "SELECT lch_copy(%s, %s)", (source, target))
            if saver.keys is not None:
                await seal_copy(connection, saver.serde, saver.keys, source=source, target=target)
            if until is not None and await rows(connection, _LINE, named):
                await rows(connection, _OPEN_WRITES, named)
                await rows(connection, _SETTLE, named)
            if speech is not None and owners:
                old, new = (SessionKey(owners[0][0], name) for name in (source, target))
                if (words := await speech.copied(connection, old, new, until=known)) is not None:
                    await append_judged(database.postgres, connection, words)

    await database.run(work, target)


async def _known_at(saver: Checkpointer, user_id: str, thread_id: str, checkpoint_id: str) -> set[str]:
    """Return the ids of the messages of a checkpoint; of its nearest ancestor that has any, where it has none."""
    where = {"thread_id": thread_id, "user_id": user_id, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}
    config: RunnableConfig | None = {"configurable": where}
    while config is not None:
        found = await saver.aget_tuple(config)
        if found is None:
            break
        ids = ids_in(found.checkpoint)
        if changed := changed_in(found):
            history = await saver.aget_delta_channel_history(config=found.config, channels=changed)
            ids = ids_in(found.checkpoint, history)
        if ids:
            return ids
        config = found.parent_config
    return set()
