"""What an agent asks a person, and the answer, which is taken once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.pregel._task_status import read_task_statuses  # says itself: the only place that tells a task's status
from langgraph.types import Interrupt

from lc_history.agents.checkpoints.address import Address, check_ids
from lc_history.agents.checkpoints.checkpointer import Checkpointer
from lc_history.agents.running.lease import Lease
from lc_history.errors import ConflictError
from lc_history.model import DEFAULT_USER

_WAITING = """
SELECT thread_id, updated_at FROM {schema}lch_threads
WHERE user_id = %s AND status = 'interrupted' AND deleted_at IS NULL ORDER BY updated_at LIMIT %s
"""
_ANSWERS = """
SELECT a.interrupt_id, a.answered_at, l.run_id IS NOT NULL FROM {schema}lch_answers a
LEFT JOIN {schema}lch_leases l ON l.thread_id = a.thread_id AND l.run_id = a.run_id AND l.expires_at > clock_timestamp()
WHERE a.thread_id = %s AND a.interrupt_id = ANY (%s)
"""
_TAKE = """
INSERT INTO {schema}lch_answers (thread_id, interrupt_id, run_id) SELECT %s, unnest(%s::text[]), %s
ON CONFLICT (thread_id, interrupt_id) DO UPDATE SET run_id = EXCLUDED.run_id, answered_at = clock_timestamp()
RETURNING 1
"""


@dataclass(frozen=True, slots=True)
class Pending:
    """A question that waits for a person."""

    thread_id: str
    interrupt_id: str
    asked: Any
    """What the graph gave to ``interrupt(...)``."""
    since: datetime


async def pending(saver: Checkpointer, user_id: str | None, limit: int) -> list[Pending]:
    """Return the questions of a user's threads, the oldest first; ``limit`` counts threads."""
    check_ids(user_id=user_id)
    user = {} if user_id is None else {"user_id": user_id}
    found = []
    for thread_id, since in await saver.database.rows(_WAITING, (user_id or DEFAULT_USER, limit)):
        head = await saver.aget_tuple({"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **user}})
        found += [Pending(thread_id, asked.id, asked.value, since) for asked in _open(head).values()]
    return found


async def answered(
    saver: Checkpointer,
    where: Address,
    answers: Mapping[str, Any],
    *,
    taken_by: Lease | None = None,
) -> dict[str, Any]:
    """Return the answers that are still wanted; with a lease, note that its run takes them.

    Without one, `ConflictError` for an interrupt that nobody is answering at this moment. With one, the caller has
    waited: what is not pending any more was answered meanwhile.
    """
    if not answers:
        raise ValueError("give at least one answer: {interrupt_id: answer}")
    for name in answers:
        check_ids(interrupt_id=name)
    config: RunnableConfig = {
        "configurable": {"thread_id": where.thread_id, "user_id": where.user_id, "checkpoint_ns": ""}
    }
    open_now = _open(await saver.aget_tuple(config))
    wanted = {name: answer for name, answer in answers.items() if name in open_now}
    if taken_by is not None and wanted:
        await saver.database.rows(_TAKE, (where.thread_id, list(wanted), taken_by.run_id))
    elif taken_by is None and (others := answers.keys() - wanted.keys()):
        known = {name: rest for name, *rest in await saver.database.rows(_ANSWERS, (where.thread_id, list(others)))}
        for name in sorted(others):
            when, under_way = known.get(name, (None, False))
            if not under_way:
                said = f"was answered on {when:%Y-%m-%d %H:%M:%S %Z}" if when else "is not known"
                raise ConflictError(
                    f"interrupt {name!r} of thread {where.thread_id!r} is not pending: it {said}; "
                    "ask for pending() to see what waits"
                )
    return wanted


def _open(head: CheckpointTuple | None) -> dict[str, Interrupt]:
    statuses = read_task_statuses(head.pending_writes or () if head else ())
    return {asked.id: asked for status in statuses.values() for asked in status.pending_interrupts}
