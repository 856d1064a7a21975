"""What a document store says of one session: its documents, and how many calls they take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, cast

from lc_history.model import MESSAGES, Entry, Lane, Record, SessionCopy
from lc_history.stores.heads import Head

S = TypeVar("S", bound=Sequence[Any])


@dataclass(frozen=True, slots=True)
class Seen:
    """The head as it was at one moment; the head of an expired session reads as fresh."""

    head: Head
    now: datetime
    mark: Any = None
    """What the driver needs to know it unchanged."""


def see(state: str | None, now: datetime, mark: Any) -> Seen:
    """Return the head that is written in a state, as of now."""
    head = Head.loads(state)[1] if state is not None else Head.fresh(now)
    if head.expires_at is not None and head.expires_at <= now:
        head = Head.fresh(now, after=head)
    return Seen(head, now, mark)


@dataclass(frozen=True, slots=True)
class Found:
    """A document that holds a record of some life, and its place."""

    place: str
    document: Any


class Session(ABC):
    """The documents of one session. What changes the head fails unless it is still the one that was seen."""

    @abstractmethod
    async def look(self) -> Seen:
        """Read the head."""

    @abstractmethod
    async def newest(self, lane: Lane, count: int | None) -> tuple[Seen, list[Found]] | None:
        """Read the head and the documents before it, newest first, in one call; None if that cannot be had."""

    @abstractmethod
    async def between(
        self, seen: Seen, lane: Lane, lowest: str, highest: str, *, first: int | None = None, last: int | None = None
    ) -> list[Found]:
        """Read the documents of a range of places, ascending."""

    @abstractmethod
    async def records(self, seen: Seen, found: Sequence[Found], lane: Lane) -> list[Record]:
        """Return the records of documents, with large bodies put together; `StoreError` if one is damaged."""

    @abstractmethod
    async def numbers(self, head: Head, lane: Lane, entries: Sequence[Entry]) -> tuple[dict[str, int], set[str]]:
        """Return the numbers of the ids that are there, and the ids of which there are only remains."""

    @abstractmethod
    async def change(
        self,
        seen: Seen,
        head: Head,
        *,
        lane: Lane = MESSAGES,
        records: Sequence[Record] = (),
        over: Collection[str] = (),
    ) -> None:
        """Change the head and write records, all at once for a reader; over: the ids whose remains are in the way."""

    @abstractmethod
    async def replace(self, seen: Seen, head: Head, found: Found, body: bytes) -> None:
        """Change the head and the body of one record."""

    @abstractmethod
    async def trim(self, seen: Seen, head: Head, lane: Lane, highest: int) -> int:
        """Delete the records of a lane up to a number; return how many the head has shown."""

    @abstractmethod
    async def load(self, seen: Seen, head: Head, copy: SessionCopy) -> None:
        """Write all records of a new life, and then the head that shows them."""

    @abstractmethod
    async def clear(self, head: Head) -> None:
        """Delete every document of earlier lives."""

    async def overtaken(self, seen: Seen) -> bool:  # noqa: ARG002 - others ask the server
        """Tell whether the head has changed since, where the answers of several calls are not of one moment."""
        return False

    async def show(self, seen: Seen, lane: Lane, lowest: int, highest: int, **limit: int | None) -> list[Found]:
        """Read the documents that the head shows in a range of numbers, ascending."""
        state = seen.head.lanes[lane]
        lowest, highest = max(lowest, state.first_seq), min(highest, state.last_seq)
        if not seen.head.alive or lowest > highest:
            return []
        return await self.between(seen, lane, seen.head.place(lowest), seen.head.place(highest), **limit)


def split(whole: S, size: int) -> list[S]:
    """Return a body or a list in parts of at most so many bytes or elements."""
    return [cast("S", whole[begin : begin + size]) for begin in range(0, len(whole), size)]
