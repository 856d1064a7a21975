"""What PostgreSQL refused, said as an error of ours that tells what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg import errors

from lc_history.agents.checkpoints import schema
from lc_history.errors import ConflictError, HistoryError, LeaseLostError, PolicyError, StoreError, ThreadBusyError

_MISSING: Final = (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedColumn, errors.InvalidSchemaName)


class BodiesGoneError(HistoryError):
    """What was taken for stored was deleted: send it again."""


def another_user(what: str) -> str:
    """Return what to say of a thread that belongs to somebody else."""
    return f'{what} belongs to another user: give its owner, configurable={{"user_id": ...}}'


@contextmanager
def explained(thread_id: str | None = None) -> Iterator[None]:
    """Raise the library's error for one that means something here; the driver's is its ``__cause__``."""
    try:
        yield
    except psycopg.Error as error:
        said = _explain(error, "the threads" if thread_id is None else f"thread {thread_id!r}")
        if said is None:
            raise
        raise said from error


def _explain(error: psycopg.Error, what: str) -> HistoryError | None:
    detail = error.diag.message_primary or str(error)
    said: HistoryError | None = None
    match error.sqlstate:
        case schema.LEASE_LOST:
            taken = f"it was taken over by {detail}" if detail != "nobody" else "it was taken over, or deleted"
            said = LeaseLostError(f"this run no longer holds {what}: {taken}; nothing was written")
        case schema.THREAD_BUSY:
            said = ThreadBusyError(f"{what} is held by {detail}: write through resumable(graph), or wait for that run")
        case schema.WRONG_USER:
            said = PolicyError(another_user(what))
        case schema.THREAD_DELETED:
            said = LeaseLostError(f"{what} was deleted on {detail}, while this run was under way; nothing was written")
        case schema.THREAD_EXISTS:
            remedy = "give the name of a new thread, or delete that one first"
            said = ConflictError(f"{what} exists, and nothing of thread {detail!r} was copied to it: {remedy}")
        case schema.BODIES_GONE:
            said = BodiesGoneError(detail)
    if isinstance(error, _MISSING):
        said = StoreError(
            f"the tables for {what} are missing or old ({detail}): call setup() of the checkpointer, or run "
            "`lc-history migrate --agents`"
        )
    return said
