"""What a test sees of a store, in the few words that its assertions need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from lc_history.bridge import pause
from lc_history.model import LANES, Entry, Lane, Record, SessionCopy, SessionInfo, SessionKey, Slice
from lc_history.store import Store


def entries(*ids: str) -> list[Entry]:
    """Return entries of these ids, each with a body that names it."""
    return [Entry(id_, b"said " + id_.encode("utf-8", "surrogatepass")) for id_ in ids]


def ids(slice_: Slice) -> list[str]:
    """Return the ids, in their order."""
    return [record.id for record in slice_.records]


def numbered(slice_: Slice) -> list[tuple[int, str, bytes]]:
    """Return the records without their times."""
    return [(record.seq, record.id, record.body) for record in slice_.records]


def assert_one_conversation(slice_: Slice) -> None:
    """Check what holds of every slice: numbers ascend, no id comes twice, the last number is no smaller."""
    numbers = [record.seq for record in slice_.records]
    assert numbers == sorted(set(numbers))
    assert len(set(ids(slice_))) == len(numbers)
    assert not numbers or numbers[-1] <= slice_.last_seq


async def known(store: Store, key: SessionKey) -> SessionInfo:
    """Return what the store says of a session that must be there."""
    info = await store.describe(key)
    assert info is not None, f"the store does not know {key}"
    return info


async def whole(store: Store, key: SessionKey) -> SessionCopy:
    """Return a copy of a session that nobody is changing."""
    info = await known(store, key)
    return SessionCopy(info, {lane: await store.read(key, lane=lane) for lane in LANES})


def made_copy(info: SessionInfo, **lanes: Sequence[Record]) -> SessionCopy:
    """Return a copy of these records, as another store would hand it over."""
    slices: dict[Lane, Slice] = {lane: Slice() for lane in LANES}
    for lane in LANES:
        if lane in lanes:
            slices[lane] = Slice(list(lanes[lane]), lanes[lane][-1].seq)
    messages = slices["messages"]
    return SessionCopy(replace(info, count=len(messages.records), last_seq=messages.last_seq), slices)


async def listed(store: Store, user: str, *, limit: int = 50, archived: bool | None = None) -> list[SessionInfo]:
    """Return every session of a user, page by page."""
    found: list[SessionInfo] = []
    page = await store.sessions(user, limit=limit, archived=archived)
    while True:
        assert len(page.items) <= limit
        found += page.items
        if page.cursor is None:
            return found
        page = await store.sessions(user, limit=limit, archived=archived, cursor=page.cursor)


async def listed_names(store: Store, user: str) -> list[str]:
    """Return the session ids of a user, newest first."""
    return [info.key.session_id for info in await listed(store, user)]


async def scanned(store: Store, *users: str, limit: int = 100, idle_since: datetime | None = None) -> list[SessionKey]:
    """Return the sessions of these users, found among everybody's."""
    found: list[SessionInfo] = []
    page = await store.scan(limit=limit, idle_since=idle_since)
    while True:
        assert len(page.items) <= limit
        found += page.items
        if page.cursor is None:
            break
        page = await store.scan(limit=limit, idle_since=idle_since, cursor=page.cursor)
    times = [info.updated_at for info in found]
    assert times == sorted(times), "a scan begins with the least recently updated"
    return [info.key for info in found if info.key.user_id in users]


async def tick() -> None:
    """Let the clock go on, so that the next write is later than the last one on every store."""
    await pause(0.003)
