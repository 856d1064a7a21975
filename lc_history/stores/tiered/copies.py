"""Copies of whole sessions, as they go from one store to another."""

from __future__ import annotations

from collections.abc import Mapping
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
    raise ConflictError(f"{key} is changing too often to be copied: try again")


async def last_seqs(store: Store, key: SessionKey) -> dict[Lane, int]:
    """Return how far the numbers of each lane came, also of a session that is gone."""
    return {lane: (await store.read(key, lane=lane, last=1)).last_seq for lane in LANES}


def emptied(key: SessionKey, numbers: Mapping[Lane, int]) -> SessionCopy:
    """Return a copy that holds no record, but knows how far the numbers came."""
    now = datetime.now(UTC)
    info = SessionInfo(key, numbers[MESSAGES], 0, now, now, None, archived=False, description=b"", version=0)
    return SessionCopy(info, {lane: Slice([], number) for lane, number in numbers.items()})


async def brought_back(key: SessionKey, *, hot: Store, cold: Store) -> bool:
    """See to it that the hot store has a session that the cold one has; return whether it was brought there now."""
    for _ in range(ATTEMPTS):
        if await cold.describe(key) is None or await hot.describe(key) is not None:
            return False
        copy = await copied(cold, key)
        if copy is None:
            return False
        try:
            await hot.load(copy)
        except ConflictError as error:  # another one has brought it back, and perhaps it was even moved again
            refusal = error
        else:
            return True
    raise refusal


async def bury(key: SessionKey, store: Store, numbers: Mapping[Lane, int], *, moved: bool) -> None:
    """Leave of a session only how far its numbers came, here or elsewhere, so that no late copy of it gets in."""
    for _ in range(ATTEMPTS):
        there = await store.describe(key)
        try:
            if moved or there is not None or any(numbers.values()):
                here = await last_seqs(store, key)
                highest = {lane: max(number, here[lane]) for lane, number in numbers.items()}
                await store.load(emptied(key, highest), over_version=there.version if there else None)
                there = await store.describe(key)
            await store.delete(key, moved_version=there.version if there and moved else None)
        except ConflictError as error:  # a worker has just copied it there
            refusal = error
        else:
            return
    raise refusal
