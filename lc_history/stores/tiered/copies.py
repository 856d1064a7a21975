"""Copies of whole sessions, as they go from one store to another."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from lc_history.errors import ConflictError
from lc_history.model import LANES, MESSAGES, Lane, SessionCopy, SessionInfo, SessionKey, Slice
from lc_history.store import Store

ATTEMPTS: Final = 5
"""How often a session is copied again that was changed meanwhile."""


async def copied(store: Store, key: SessionKey) -> SessionCopy | None:
    """Return a session as it stood at one moment, or None if it is not there.

    Raises `ConflictError` if it changes all the time.
    """
    for _ in range(ATTEMPTS):
        before = await store.describe(key)
        if before is None:
            return None
        lanes = {lane: await store.read(key, lane=lane) for lane in LANES}
        after = await store.describe(key)
        if after is not None and before.version == after.version:
            return SessionCopy(after, lanes)
    raise _too_often(key)


async def last_seqs(store: Store, key: SessionKey) -> dict[Lane, int]:
    """Return how far the numbers of each lane came, also of a session that is gone."""
    return {lane: (await store.read(key, lane=lane, last=1)).last_seq for lane in LANES}


def emptied(key: SessionKey, numbers: Mapping[Lane, int], version: int) -> SessionCopy:
    """Return a copy that holds no record, but knows how far the numbers came."""
    now = datetime.now(UTC)
    info = SessionInfo(key, numbers[MESSAGES], 0, now, now, None, archived=False, description=b"", version=version)
    return SessionCopy(info, {lane: Slice([], number) for lane, number in numbers.items()})


async def brought_back(key: SessionKey, *, hot: Store, cold: Store) -> SessionInfo | None:
    """See to it that the hot store has a session that the cold one has; return what the cold one keeps of it."""
    for _ in range(ATTEMPTS):
        there = await cold.describe(key)
        if there is None or await hot.describe(key) is not None:
            return there
        copy = await copied(cold, key)
        # What has changed since the hot store was seen without the session may have been there in the meantime.
        if copy is not None and copy.info.version == there.version:
            with suppress(ConflictError):  # another one has brought it back, and perhaps it was even moved again
                await hot.load(copy)
                return there
    raise _too_often(key)


async def end_copy(key: SessionKey, *, hot: Store, cold: Store, ends: datetime | None = None) -> None:
    """Let the cold store's copy of a session that came back end no later than the session, or than it is going to.

    The session has to be told after its copy: whoever is killed in between has shortened the copy's life alone.
    """
    for _ in range(ATTEMPTS):
        there = await cold.describe(key)
        home = None if there is None else await hot.describe(key)
        end = min((each for each in (ends, home and home.expires_at) if each), default=None)
        if there is None or home is None or end is None or (there.expires_at and there.expires_at <= end):
            return
        copy = await copied(cold, key)
        if copy is not None and copy.info.version == there.version:
            with suppress(ConflictError):  # it was moved again
                await cold.load(replace(copy, info=replace(copy.info, expires_at=end)), over_version=there.version)
                return
    raise _too_often(key)


async def bury(key: SessionKey, store: Store, numbers: Mapping[Lane, int], *, version: int, moved: bool) -> None:
    """Leave of a session only how far its numbers came, here or elsewhere, so that no late copy of it gets in."""
    for _ in range(ATTEMPTS):
        there = await store.describe(key)
        here = await last_seqs(store, key)
        highest = {lane: max(number, here[lane]) for lane, number in numbers.items()}
        with suppress(ConflictError):  # a worker has just copied it there
            if there is not None or highest != here:
                await store.load(emptied(key, highest, version), over_version=there.version if there else None)
                there = await store.describe(key)
            if there is not None or not moved:
                await store.delete(key, moved_version=there.version if there and moved else None)
            return
    raise _too_often(key)


def _too_often(key: SessionKey) -> ConflictError:
    return ConflictError(f"{key} is changing too often to be copied: try again")
