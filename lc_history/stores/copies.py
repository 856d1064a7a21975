"""Copies of whole sessions, as they go from one store to another."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from lc_history.errors import ConflictError
from lc_history.model import LANES, MESSAGES, SessionCopy, SessionInfo, SessionKey, Slice
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


def emptied(key: SessionKey, last_seq: int) -> SessionCopy:
    """Return a copy that holds no record, but knows how far the numbers came."""
    now = datetime.now(UTC)
    info = SessionInfo(key, last_seq, 0, now, now, None, archived=False, description=b"", version=0)
    return SessionCopy(info, {MESSAGES: Slice([], last_seq)})
