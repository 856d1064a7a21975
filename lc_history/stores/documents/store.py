"""The verbs of a store on documents: a head for each session, read before every change and compared by it.

What a server's documents look like is said by its `Session`; see `lc_history.stores.heads` for the idea.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import ClassVar, TypeVar

from typing_extensions import override

from lc_history.errors import ConflictError
from lc_history.model import (
    MESSAGES,
    Appended,
    Entry,
    Expiry,
    Lane,
    SessionCopy,
    SessionInfo,
    SessionKey,
    Slice,
    State,
)
from lc_history.store import Store, check_range, check_sizes
from lc_history.stores.conditions import check_append, check_erasure, check_life
from lc_history.stores.documents.insist import AgainError, Verdict, insist
from lc_history.stores.documents.session import Found, Session
from lc_history.stores.heads import Head, appended, new_entries, seq_at

T = TypeVar("T")


class DocumentStore(Store):
    """A store that keeps heads and records as documents."""

    server: ClassVar[str]
    """Its name in messages."""

    @abstractmethod
    def session(self, key: SessionKey) -> Session:
        """Return the documents of a session."""

    @abstractmethod
    def verdict(self, error: Exception) -> Verdict:
        """Return what an error of the driver means."""

    async def insist(self, whose: object, attempt: Callable[[int], Awaitable[T]]) -> T:
        """Return what an attempt returns; it is repeated where others were first."""
        return await insist(self.server, whose, attempt, verdict=self.verdict)

    @override
    async def append(
        self,
        key: SessionKey,
        entries: Sequence[Entry],
        *,
        lane: Lane = MESSAGES,
        expiry: Expiry | None = None,
        expected_seq: int | None = None,
        not_erased_since: int | None = None,
        create: bool = True,
    ) -> Appended:
        check_sizes(key, entries, self.max_body_bytes)
        session = self.session(key)
        judge = partial(check_append, key, expected_seq=expected_seq, not_erased_since=not_erased_since, create=create)

        async def attempt(number: int) -> Appended:
            seen = await session.look()
            refused = _refusal(judge, seen.head, lane)
            there: dict[str, int] = {}
            remains: set[str] = set()
            if seen.head.alive and (number or refused):
                # Only now: the ids of a turn are new but for retries, and then its documents cannot be created.
                there, remains = await session.numbers(seen.head, lane, entries)
            new = new_entries(entries, there)
            if new and refused:
                raise refused
            if not (new or seen.head.alive):
                return Appended((), ())
            head = seen.head.copy()
            if head.alive:
                check_life(key, head.expires_at, expiry, seen.now)
            created, renewed = head.begin(seen.now), head.renew(expiry, seen.now)
            records = head.add(lane, new, seen.now)
            if records or renewed:
                await session.change(seen, head, lane=lane, records=records, over=remains)
            return appended(entries, there | {record.id: record.seq for record in records}, new, created=created)

        return await self.insist(key, attempt)

    @override
    async def read(
        self,
        key: SessionKey,
        *,
        lane: Lane = MESSAGES,
        after: int = 0,
        before: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> Slice:
        check_range(first, last)
        session = self.session(key)

        async def attempt(_: int) -> Slice:
            at_the_end = before is None and first is None and (last is not None or not after)
            answer = await session.newest(lane, last) if at_the_end else None
            seen, found = answer or (await session.look(), [])
            state = seen.head.lanes[lane]
            ours = [each for each in reversed(found) if _is_shown(each, seen.head, lane, after)]
            if not found or found[0].place != seen.head.place(state.last_seq):
                # Remains of a failed change lie above our records, or the answer was not of one moment.
                highest = state.last_seq if before is None else before - 1
                ours = await session.show(seen, lane, after + 1, highest, first=first, last=last)
            if len(ours) < _expected(seen.head, lane, after, before, first or last) and await session.overtaken(seen):
                raise AgainError  # some of it was deleted before we came to it
            return Slice(await session.records(seen, ours, lane), state.last_seq)

        return await self.insist(key, attempt)

    @override
    async def replace(self, key: SessionKey, seq: int, body: bytes, *, expected: bytes, lane: Lane = MESSAGES) -> bool:
        check_sizes(key, [Entry(str(seq), body)], self.max_body_bytes)
        session = self.session(key)

        async def attempt(_: int) -> bool:
            seen = await session.look()
            found = await session.show(seen, lane, seq, seq)
            records = await session.records(seen, found, lane)
            if not records or records[0].body != expected:
                return False
            head = seen.head.copy()
            head.version += 1
            await session.replace(seen, head, found[0], body)
            return True

        return await self.insist(key, attempt)

    @override
    async def delete(
        self,
        key: SessionKey,
        *,
        through: int | None = None,
        lane: Lane = MESSAGES,
        moved_version: int | None = None,
        only: State | None = None,
    ) -> int:
        session = self.session(key)

        async def trim(_: int) -> int:
            seen = await session.look()
            highest = min(max(through or 0, 0), seen.head.lanes[lane].last_seq)
            gone = await session.trim(seen, seen.head.copy(), lane, highest) if seen.head.alive else 0
            return gone if lane == MESSAGES else 0

        async def erase(_: int) -> int:
            seen = await session.look()
            check_erasure(key, seen.head, moved_version, only)
            grave = seen.head.grave(seen.now, moved=moved_version is not None)
            await session.change(seen, grave)
            await session.clear(grave)
            return seen.head.count

        return await self.insist(key, erase if through is None else trim)

    @override
    async def describe(
        self,
        key: SessionKey,
        *,
        description: bytes | None = None,
        archived: bool | None = None,
        expires_at: datetime | None = None,
        create: bool = False,
    ) -> SessionInfo | None:
        session = self.session(key)

        async def attempt(_: int) -> SessionInfo | None:
            seen = await session.look()
            head = seen.head.copy()
            if create:
                check_append(key, head, head.lanes[MESSAGES].last_seq)
            begun = create and head.begin(seen.now)
            if not head.alive:
                return None
            changed = (description, archived, expires_at) != (None, None, None)
            if changed:
                head.change(description=description, archived=archived, expires_at=expires_at)
            if begun or changed:
                await session.change(seen, head)
            return head.info(key)

        return await self.insist(key, attempt)

    @override
    async def load(self, copy: SessionCopy, *, over_version: int | None = None) -> None:
        session = self.session(copy.info.key)

        async def attempt(_: int) -> None:
            seen = await session.look()
            head = seen.head.replaced_by(copy, over_version, seen.now)
            await session.load(seen, head, copy)
            if seen.head.life:
                await session.clear(head)

        await self.insist(copy.info.key, attempt)


def _refusal(judge: Callable[[Head, int], None], head: Head, lane: Lane) -> ConflictError | None:
    try:
        judge(head, head.lanes[lane].last_seq)
    except ConflictError as error:
        return error
    return None


def _expected(head: Head, lane: Lane, after: int, before: int | None, limit: int | None) -> int:
    """Return how many records a range has, unless a copy from elsewhere has left gaps in it."""
    state = head.lanes[lane]
    highest = state.last_seq if before is None else min(before - 1, state.last_seq)
    count = highest + 1 - max(after + 1, state.first_seq) if head.alive else 0
    return count if limit is None else min(limit, count)


def _is_shown(found: Found, head: Head, lane: Lane, after: int) -> bool:
    seq = seq_at(found.place)
    return seq > after and found.place.startswith(f"{head.life}.") and head.shows(lane, seq)
