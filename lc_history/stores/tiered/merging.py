"""Two listings as one: pages of two stores merged by time, each told once, however the pages fall."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from json import dumps, loads
from typing import Any, Final, Self

from lc_history.model import SessionInfo, SessionPage, microseconds
from lc_history.store import cursor_after, cursor_position

Fetch = Callable[[str | None], Awaitable[SessionPage]]
"""Returns the page at a cursor of one store."""

_START: Final = ""
_END: Final = "."


@dataclass(slots=True)
class _Told:
    """How far a listing has come: the time of the last session told, and which sessions of that very time were."""

    newest_first: bool
    time: int | None = None
    names: list[list[str]] = field(default_factory=list)

    def has(self, info: SessionInfo) -> bool:
        if self.time is None:
            return False
        time = microseconds(info.updated_at)
        if time == self.time:
            return [info.key.user_id, info.key.session_id] in self.names
        return (time > self.time) is self.newest_first

    def tell(self, info: SessionInfo) -> None:
        time = microseconds(info.updated_at)
        if time != self.time:
            self.time, self.names = time, []
        self.names.append([info.key.user_id, info.key.session_id])


@dataclass(slots=True)
class _Side:
    """One store's current page, without what was told."""

    place: str
    items: list[SessionInfo]
    next_place: str

    @classmethod
    async def fetched(cls, fetch: Fetch, place: str, told: _Told) -> Self:
        if place == _END:
            return cls(_END, [], _END)
        page = await fetch(place or None)
        return cls(place, [info for info in page.items if not told.has(info)], page.cursor or _END)

    @property
    def after(self) -> str:
        """Where the next page of this store is to be fetched."""
        return self.place if self.items else self.next_place


async def merged(hot: Fetch, cold: Fetch | None, *, limit: int, cursor: str | None, newest_first: bool) -> SessionPage:
    """Return a page of both listings in the order of ``updated_at``; None for a side that has nothing to add.

    A page ends early where the next session can only be known after another fetch.
    """
    places, told = _position(cursor, newest_first=newest_first)
    sides = [await _Side.fetched(hot, places[0], told)]
    if cold is not None:
        sides.append(await _Side.fetched(cold, places[1], told))
    found: list[SessionInfo] = []
    while len(found) < limit and all(side.items or side.next_place == _END for side in sides):
        waiting = [side for side in sides if side.items]
        if not waiting:
            break
        first = (max if newest_first else min)(waiting, key=lambda side: side.items[0].updated_at)
        found.append(first.items.pop(0))
        told.tell(found[-1])
    places = [side.after for side in sides] + [_END] * (2 - len(sides))
    if places == [_END, _END]:
        return SessionPage(found)
    return SessionPage(found, cursor_after(*places, -1 if told.time is None else told.time, dumps(told.names)))


def _position(cursor: str | None, *, newest_first: bool) -> tuple[list[str], _Told]:
    if cursor is None:
        return [_START, _START], _Told(newest_first)
    hot, cold, time, names = cursor_position(cursor, str, str, int, str)
    known: Any = loads(names)
    return [hot, cold], _Told(newest_first, None if time < 0 else time, known)
