"""Copies of whole sessions, as they go from one store to another."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from lc_history.bridge import pause
from lc_history.errors import ConflictError
from lc_history.model import LANES, MESSAGES, Lane, SessionCopy, SessionInfo, SessionKey, Slice, microseconds
from lc_history.store import Store

ATTEMPTS: Final = 5
"""How often a session is copied again that was changed meanwhile."""


PATIENCE: Final = timedelta(milliseconds=10)
"""How long at most is waited before a session is copied once more that others are bringing back and moving away."""


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
        await pause(random.uniform(0, PATIENCE.total_seconds()))  # noqa: S311 - so that the others come to an end
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


async def bury(key: SessionKey, store: Store, numbers: Mapping[Lane, int], *, version: int | None, moved: bool) -> None:
    """Leave of a session only how far its numbers came, here or elsewhere, so that no late copy of it gets in.

    version: that it had where it is at home, if it was there.
    """
    for _ in range(ATTEMPTS):
        there = await store.describe(key)
        here = await last_seqs(store, key)
        if there is None and here[MESSAGES] > numbers[MESSAGES]:
            return  # it is erased already: were one more number left out, what begins next could not be moved here
        highest = {lane: max(number, here[lane]) for lane, number in numbers.items()}
        with suppress(ConflictError):  # a worker has just copied it there, or another one has buried it
            if highest != here or (moved and there is not None):
                copy = emptied(key, highest, microseconds(datetime.now(UTC)) if version is None else version)
                await store.load(copy, over_version=there.version if there else None)
                there = await store.describe(key)
            if there is not None:
                await store.delete(key, **({"moved_version": there.version} if moved else {"only": "alive"}))
            elif not moved:
                await store.delete(key)
            return
        version = version if moved else None  # it may have been higher here
    raise _too_often(key)


async def finish_erasure(key: SessionKey, *, hot: Store, cold: Store) -> bool:
    """Erase in the hot store what it remembers as moved and the cold one as erased: who began was killed halfway.

    Return whether that was so.
    """
    beyond = (await last_seqs(cold, key))[MESSAGES] > (await last_seqs(hot, key))[MESSAGES]  # an erasure leaves one out
    if not beyond or await cold.describe(key) is not None:
        return False
    with suppress(ConflictError):  # it was not moved, or another one was first
        await hot.delete(key, only="moved")
        return True
    return False


async def begin_anew(
    key: SessionKey, lane: Lane = MESSAGES, expected_seq: int | None = None, *, hot: Store, cold: Store
) -> bool:
    """Begin a session that the hot store remembers as moved, and that has expired in the cold one since."""
    numbers = await last_seqs(hot, key)
    if not any(numbers.values()) or any((await last_seqs(cold, key)).values()):
        return False  # it did not come through an archiver, or the cold store remembers what became of it
    if expected_seq not in (None, numbers[lane]):
        return False
    with suppress(ConflictError):  # another one was first
        await hot.load(emptied(key, numbers, microseconds(datetime.now(UTC))))
    return True


def _too_often(key: SessionKey) -> ConflictError:
    return ConflictError(f"{key} is changing too often to be copied: try again")
