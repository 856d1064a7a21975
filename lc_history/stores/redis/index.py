"""The listings of the Redis store: sorted sets of sessions by their last change, one per user and some for all.

An index is a hint: a listing asks the head of every session it names, leaves out what is gone and removes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from heapq import merge
from itertools import islice
from typing import Any, Final, NamedTuple

from lc_history.model import LANES, MESSAGES, MICROSECOND, SessionInfo, SessionKey, SessionPage, microseconds
from lc_history.store import cursor_after
from lc_history.stores.redis import scripts
from lc_history.stores.redis.connections import Call, Connections
from lc_history.stores.redis.layout import (
    SHARDS,
    info_of,
    names_of,
    session_of,
    shard_index,
    user_index,
)

STALE_AFTER: Final = timedelta(minutes=5)
"""How old a listing that leads nowhere must be: a session just being written may be listed before it is there."""

_FORGOTTEN: Final = -1


class Listed(NamedTuple):
    """Where an index lists a session."""

    score: int
    member: bytes
    keys: tuple[str, str]


class Indexes:
    """Lists sessions, a page in two round trips however many there are."""

    def __init__(self, connections: Connections, prefix: str) -> None:
        self._connections, self._prefix = connections, prefix

    async def note(self, key: SessionKey, updated: int, expires: int) -> None:
        """Bring the indexes up to date where the script that changed the session could not reach them."""
        if self._connections.spread:
            names = names_of(self._prefix, key)
            note = (names.member, updated, expires)
            indexes = (names.user_index, names.shard_index)
            await self._connections.run_all([Call(scripts.NOTE, index, note) for index in indexes])

    async def note_anew(self, key: SessionKey) -> None:
        """Do the same for a session that is gone, or replaced by an older one: its head is asked last."""
        if self._connections.spread:
            await self.note(key, 0, _FORGOTTEN)
            reply = await self._connections.run(info_call(self._prefix, key))
            if reply:
                await self.note(key, int(reply[3]), int(reply[4]))

    async def of_user(self, user_id: str, limit: int, position: Sequence[Any]) -> SessionPage:
        """Return a page of one user's sessions, the most recently updated first."""
        index = user_index(self._prefix, user_id)
        return await self._known(await self._page([index], "ZREVRANGE", limit, position), limit)

    async def of_all(self, limit: int, position: Sequence[Any], *, until: datetime | None) -> SessionPage:
        """Return a page of everybody's sessions, the least recently updated first."""
        indexes = [shard_index(self._prefix, shard) for shard in range(SHARDS)]
        found = await self._page(indexes, "ZRANGE", limit, position)
        if until is not None:
            found = [listed for listed in found if listed.score <= microseconds(until)]
        return await self._known(found, limit)

    async def _page(
        self, indexes: Sequence[tuple[str, str]], order: str, limit: int, position: Sequence[Any]
    ) -> list[Listed]:
        """Return one more than the limit of what stands after a position."""
        calls = [Call(scripts.PAGE, index[:1], (order, limit + 1, *position)) for index in indexes]
        pages = await self._connections.run_all(calls)
        listed = [
            [Listed(int(float(score)), member, index) for member, score in zip(page[::2], page[1::2], strict=True)]
            for index, page in zip(indexes, pages, strict=True)
        ]
        return list(islice(merge(*listed, reverse=order == "ZREVRANGE"), limit + 1))

    async def _known(self, found: Sequence[Listed], limit: int) -> SessionPage:
        """Return what the heads say of the sessions listed."""
        page = found[:limit]
        keys = [session_of(listed.member) for listed in page]
        there = await self.described(keys)
        await self._sweep([listed for listed, key in zip(page, keys, strict=True) if key not in there])
        more = len(found) > limit
        return SessionPage(
            list(there.values()), cursor_after(page[-1].score, page[-1].member.decode()) if more else None
        )

    async def described(self, keys: Sequence[SessionKey]) -> dict[SessionKey, SessionInfo]:
        """Return what the heads say of those sessions that are there, in the order of the keys."""
        replies = await self._connections.run_all([info_call(self._prefix, key) for key in keys])
        return {key: info_of(key, reply) for key, reply in zip(keys, replies, strict=True) if reply}

    async def _sweep(self, stale: Sequence[Listed]) -> None:
        age = STALE_AFTER // MICROSECOND
        calls = [Call(scripts.SWEEP, listed.keys, (age, listed.member, listed.score)) for listed in stale]
        await self._connections.run_all(calls)


def info_call(prefix: str, key: SessionKey) -> Call:
    """Return the call that asks the head of a session."""
    names = names_of(prefix, key)
    return Call(scripts.INFO, (names.head, names.lists[LANES.index(MESSAGES)]))
