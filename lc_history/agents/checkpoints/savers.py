"""LangGraph's own savers, as a single call uses them: on our connection, with our schema, their commit left to us."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from typing import Any, Final, Self, cast

from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol

from lc_history.bridge import is_blocking

OWNER: Final = "lch_owner"
"""Where in the metadata of a checkpoint that was read its thread's owner stands."""

# LangGraph's own statements, with the schema named.
STATEMENTS: Final = {
    name: re.sub(r"(?i)\b(from|join|into) (checkpoint)", r"\1 {schema}\2", getattr(PostgresSaver, name))
    for name in (
        "SELECT_SQL",
        "SELECT_PENDING_SENDS_SQL",
        "UPSERT_CHECKPOINT_BLOBS_SQL",
        "UPSERT_CHECKPOINTS_SQL",
        "UPSERT_CHECKPOINT_WRITES_SQL",
        "INSERT_CHECKPOINT_WRITES_SQL",
    )
}
# The thread's owner is sent along in the metadata: one statement reads a checkpoint and tells whose it is.
STATEMENTS["SELECT_SQL"] = STATEMENTS["SELECT_SQL"].replace(
    "metadata,",
    """jsonb_set(metadata, '{lch_owner}', coalesce((
        select to_jsonb(user_id) from {schema}lch_threads t
        where t.thread_id = checkpoints.thread_id and t.deleted_at is null), 'null')) as metadata,""",
    1,
)


def saver_on(
    connection: Any, serde: SerializerProtocol, *, pipe: Any = None, statements: Mapping[str, str] | None = None
) -> Any:
    """Return LangGraph's saver of the door's colour on a connection, which is ours alone, so it needs no lock.

    statements: its own ones as `STATEMENTS` has them, qualified; without, it finds its tables on the search path.
    """
    kind: Any = PostgresSaver if is_blocking() else AsyncPostgresSaver
    saver = kind.__new__(kind)
    saver.__dict__ = {**vars(_saver_like(kind)), **(statements or {})}
    saver.conn, saver.pipe, saver.serde, saver.lock = connection, pipe, serde, nullcontext()
    return saver


def saver_into(notes: Any, serde: SerializerProtocol, statements: Mapping[str, str]) -> PostgresSaver:
    """Return LangGraph's saver for a write of either door: it waits for nobody, since what it sends is noted."""
    saver: Any = PostgresSaver.__new__(PostgresSaver)
    instead = {"serde": serde, "_cursor": lambda **_: nullcontext(notes)}
    saver.__dict__ = {**vars(_saver_like(PostgresSaver)), **statements, **instead}
    return cast("PostgresSaver", saver)


@cache
def _saver_like(kind: Any) -> Any:
    """Return a saver whose attributes are taken over: making one costs more than a write's statements."""
    return kind(None)


def verb_of(saver: Any, name: str) -> Any:
    """Return a saver's method for the door in use."""
    return getattr(saver, name if is_blocking() else f"a{name}")


class _SyncLater:
    """Stands for LangGraph's pipeline: its sync, and so the commit, is left to the end of our batch."""

    def sync(self) -> Self:
        return self

    def __await__(self) -> Any:
        return iter(())  # nothing to wait for, whichever colour asks


SYNC_LATER: Final = _SyncLater()
