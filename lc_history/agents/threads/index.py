"""The threads of each user: listed from an index that is written with the checkpoints, forked, named and deleted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from lc_history.agents.checkpoints.address import check_ids
from lc_history.agents.checkpoints.database import Database
from lc_history.agents.threads.copies import copy_thread
from lc_history.bridge import door
from lc_history.errors import ConflictError
from lc_history.model import DEFAULT_USER
from lc_history.privacy.keyring import Keyring, bind
from lc_history.store import cursor_after, cursor_position

if TYPE_CHECKING:
    from lc_history.agents.checkpoints.checkpointer import Checkpointer

Status = Literal["idle", "busy", "interrupted", "failed"]
"""idle         its last run came to its end, or to a breakpoint where it was told to stop
busy         a run holds it
interrupted  it waits for a person: a question is open, whatever became of the rest of its step
failed       its last run raised, was cancelled, stopped on the way, was left by who read its stream, or died

That a run died is seen when its lease runs out. Of runs without a lease nobody knows when they end: a thread that only
a graph without `resumable` has written to shows what was written last.
"""

_SELECT: Final = """
SELECT t.thread_id, t.user_id, t.title, {schema}lch_standing(t, l),
       t.checkpoints, t.turns, t.created_at, t.updated_at
FROM {schema}lch_threads t LEFT JOIN {schema}lch_leases l USING (thread_id)
WHERE t.deleted_at IS NULL AND t.user_id = %(user)s
"""
_ONE: Final = f"{_SELECT} AND t.thread_id = %(thread)s"
_CHECKPOINT: Final = (
    "SELECT 1 FROM {schema}checkpoints "
    "WHERE thread_id = %s AND checkpoint_ns = '' AND (%s::text IS NULL OR checkpoint_id = %s) LIMIT 1"
)
_CHECK_USER: Final = "SELECT {schema}lch_check_user(%s, %s)"
_NAME: Final = (
    "UPDATE {schema}lch_threads SET title = %s WHERE thread_id = %s AND user_id = %s AND deleted_at IS NULL RETURNING 1"
)


@dataclass(frozen=True, slots=True)
class ThreadInfo:
    """What a listing shows of a thread, without reading a checkpoint."""

    thread_id: str
    user_id: str
    title: str | None
    status: Status
    checkpoints: int
    turns: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """Some threads, and the cursor that asks for those after them; None at the end."""

    items: list[ThreadInfo]
    cursor: str | None = None


def page(*, filtered: bool, after: bool) -> str:
    """Return the statement of a page; what is not asked for stands not in it, so that any plan of it is cheap."""
    status = "AND {schema}lch_standing(t, l) = %(status)s" if filtered else ""
    place = "AND (t.updated_at, t.thread_id) < (%(updated)s::timestamptz, %(thread)s)" if after else ""
    return f"{_SELECT} {status} {place} ORDER BY t.updated_at DESC, t.thread_id DESC LIMIT %(limit)s"


class Threads:
    """The threads that a checkpointer keeps; no verb reaches those of another user."""

    def __init__(self, saver: Checkpointer) -> None:
        self._saver = saver

    async def alist(
        self,
        user_id: str | None = None,
        *,
        status: Status | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> ThreadPage:
        """Return one page of a user's threads, the most recently active first; of one status, it looks through them."""
        check_ids(user_id=user_id)
        updated, thread = cursor_position(cursor, str, str) if cursor else (None, None)
        asked = {"user": user_id or DEFAULT_USER, "status": status, "limit": limit + 1}
        text = page(filtered=status is not None, after=cursor is not None)
        found = await self._database.rows(text, {**asked, "updated": updated, "thread": thread})
        items = [self._info(row) for row in found[:limit]]
        more = len(found) > limit
        return ThreadPage(items, cursor_after(items[-1].updated_at.isoformat(), items[-1].thread_id) if more else None)

    async def aget(self, thread_id: str, *, user_id: str | None = None) -> ThreadInfo | None:
        """Return what is known of one thread; None if the user has no such thread."""
        check_ids(thread_id=thread_id, user_id=user_id)
        found = await self._database.rows(_ONE, {"user": user_id or DEFAULT_USER, "thread": thread_id})
        return self._info(found[0]) if found else None

    async def arename(self, thread_id: str, title: str, *, user_id: str | None = None) -> bool:
        """Give a thread a title; return whether the user has such a thread."""
        check_ids(thread_id=thread_id, user_id=user_id)
        await self._saver.arecord(thread_id, user_id, "describe", label=True)
        keys, body = self._saver.keys, title.encode("utf-8", "surrogatepass")
        kept = keys.seal(body, bind("title", thread_id)) if keys else body
        return bool(await self._database.rows(_NAME, (kept, thread_id, user_id or DEFAULT_USER)))

    async def adelete(self, thread_id: str, *, user_id: str | None = None) -> None:
        """Delete a thread for good; a run under way loses it. `PolicyError` if it is another user's."""
        await self._check(thread_id, user_id)
        await self._saver.arecord(thread_id, user_id, "erase")
        await self._saver.adelete_thread(thread_id)

    async def afork(
        self, thread_id: str, new_thread_id: str, *, checkpoint_id: str | None = None, user_id: str | None = None
    ) -> None:
        """Begin a new thread as a copy of this one, up to a checkpoint, with what was said; None takes all of it.

        `ConflictError` if the new thread exists already, or there is no such checkpoint.
        """
        await self._check(thread_id, user_id)
        check_ids(checkpoint_id=checkpoint_id)
        if not await self._database.rows(_CHECKPOINT, (thread_id, checkpoint_id, checkpoint_id)):
            raise ConflictError(f"thread {thread_id!r} has no such checkpoint: nothing was forked; give the id of one")
        await self._saver.arecord(thread_id, user_id, "fork", to=new_thread_id, checkpoint=checkpoint_id)
        await copy_thread(self._saver, thread_id, new_thread_id, until=checkpoint_id)

    list = door(alist)
    get = door(aget)
    rename = door(arename)
    delete = door(adelete)
    fork = door(afork)

    async def _check(self, thread_id: str, user_id: str | None) -> None:
        check_ids(thread_id=thread_id, user_id=user_id)
        await self._database.rows(_CHECK_USER, (thread_id, user_id or DEFAULT_USER), thread_id=thread_id)

    def _info(self, row: tuple[Any, ...]) -> ThreadInfo:
        thread_id, user_id, title, *rest = row
        keys: Keyring | None = self._saver.keys
        if title is not None and keys is not None:
            title = keys.open(bytes(title), bind("title", thread_id))
        return ThreadInfo(
            thread_id, user_id, None if title is None else bytes(title).decode("utf-8", "surrogatepass"), *rest
        )

    @property
    def _database(self) -> Database:
        return self._saver.database
