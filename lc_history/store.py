"""The contract of a store: a few verbs on sessions of numbered, opaque records.

Promises, the same on every store, each a test in `lc_history.testing`:

1.  Exactly once. Appending an id that is there changes nothing and returns its old number.
2.  Order is commit order. Numbers grow strictly, come from the server, never from a clock, and are never
    given twice, also after `delete`; a reader only ever sees a growing prefix.
3.  Atomic turns. The entries of one append stand together, and are all there or none.
4.  Optional compare. ``expected_seq`` raises `ConflictError` when somebody else was first.
5.  O(1). An append reads no older record; a read takes a bounded number of round trips.
6.  Expiry is a promise about reads: an expired session reads as empty, collected or not.
7.  Nothing vanishes. What cannot be read raises, naming session and number, and harms nothing else.
8.  Scoped. No verb but `scan` reaches another user's sessions; `delete` touches one session.
9.  No item limit shows below `max_body_bytes`; above it `TooLargeError`, and nothing is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import datetime, timedelta
from json import dumps, loads
from typing import Any, ClassVar, Final

from lc_history.errors import TooLargeError
from lc_history.model import (
    MESSAGES,
    Appended,
    Entry,
    Expiry,
    Lane,
    Record,
    SessionCopy,
    SessionInfo,
    SessionKey,
    SessionPage,
    Slice,
    State,
)

PAGE: Final = 500
"""How many records `every_record` reads in one round trip."""
SESSIONS: Final = 200
"""How many sessions `every_session` lists in one round trip."""

TOMBSTONE_TTL: Final = timedelta(days=1)
"""How long a store remembers that a session was erased or moved away, and how far its numbers had come."""


_HIGHEST: Final = 1 << 57
"""What no number in a cursor exceeds: as microseconds, a time in the seventh millennium."""


class Store(ABC):
    """Keeps sessions of numbered, opaque records.

    Every verb is a coroutine; `lc_history.bridge.drive` runs it to its end when the store has a blocking
    client. Any verb may raise `StoreUnavailableError`.
    """

    max_body_bytes: ClassVar[int] = 64 * 1024 * 1024
    """The largest body, in bytes: at least 8 MB on every store."""

    @abstractmethod
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
        """Append entries as one atomic turn, each id once, and return their numbers.

        An id that the lane holds already keeps its place, number and content, and so does the first of two
        equal ids in one call. The conditions below are judged only if an entry is new, so a retry succeeds.

        expiry: begins (fixed) or renews (sliding) the session's life; None leaves it as it is. Where it must not end
            the session sooner than before, and would, `ConflictError`, also if no entry is new.
        expected_seq: the lane's ``last_seq`` must be this, else `ConflictError`.
        not_erased_since: a ``last_seq`` of the messages lane that the caller has read: `ConflictError` if the
            session was erased after it, so that a turn in flight does not undo an erasure.
        create: where False, `ConflictError` unless the session exists. Otherwise an absent, erased or expired
            session begins, in any lane; one that was moved away is a `ConflictError`: load it back first.

        Raises `TooLargeError` when a body exceeds `max_body_bytes`; then nothing is written.
        """

    @abstractmethod
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
        """Return the records with ``after < seq < before``, ascending, in one round trip.

        first, last: at most this many, from the beginning or from the end of that range; not both.
        A session that is absent, erased or expired reads as empty.
        """

    @abstractmethod
    async def replace(self, key: SessionKey, seq: int, body: bytes, *, expected: bytes, lane: Lane = MESSAGES) -> bool:
        """Replace one body if it is still the expected one; return whether it was.

        For a new key or a redaction: number, id and time stay, and so does the session's ``updated_at``.
        """

    @abstractmethod
    async def delete(
        self,
        key: SessionKey,
        *,
        through: int | None = None,
        lane: Lane = MESSAGES,
        moved_version: int | None = None,
        only: State | None = None,
    ) -> int:
        """Delete records of one session, and return how many messages are gone.

        Without ``through``: erase the session with all its lanes, its description and its expiry. What stays,
        for `TOMBSTONE_TTL`, is how far its numbers had come, so that they go on above it; one number is left
        out, so that ``not_erased_since`` knows every turn that began before.
        through: only the records of one lane up to this number, inclusive.
        moved_version: the session stands in another store as of this ``version``: erase it here unless it has
            changed since (`ConflictError`). It then counts as moved, not as erased.
        only: erase it if it is alive, or if it was moved away, which then counts as erased; else `ConflictError`.

        An id that is gone may be used again.
        """

    @abstractmethod
    async def describe(
        self,
        key: SessionKey,
        *,
        description: bytes | None = None,
        archived: bool | None = None,
        expires_at: datetime | None = None,
        create: bool = False,
    ) -> SessionInfo | None:
        """Return what is known of a session, after changing what is given; None where there is no session.

        create: begin a session without messages where there is none.
        A change does not touch ``updated_at``.
        """

    async def described(self, keys: Sequence[SessionKey]) -> dict[SessionKey, SessionInfo]:
        """Return what is known of those sessions that are there: in one round trip where the server has one for it."""
        found = {key: await self.describe(key) for key in keys}
        return {key: info for key, info in found.items() if info is not None}

    @abstractmethod
    async def sessions(
        self, user_id: str, *, archived: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> SessionPage:
        """Return one page of a user's sessions, the most recently updated first.

        archived: only those that are (True) or are not (False). A page may be shorter than ``limit`` before
        the end: only ``cursor=None`` means that there are no more. An unknown cursor is a `ValueError`.
        """

    @abstractmethod
    async def scan(
        self, *, idle_since: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> SessionPage:
        """Return one page of every user's sessions, the least recently updated first.

        For operators only (archival, key rotation, repair): no session and no listing of a user reaches it.
        idle_since: only those not updated after this.
        """

    @abstractmethod
    async def load(self, copy: SessionCopy, *, over_version: int | None = None) -> None:
        """Put a whole session in place as another store had it: same numbers, ids, bodies, times and lanes.

        It becomes visible at once and whole. `ConflictError` unless the session is absent or expired here; or has
        ``over_version``, and is replaced; or was moved away, at no later ``version`` than the copy's; or was erased
        and every message of the copy is numbered after that. Numbers go on above those that were given here.
        """

    async def migrate(self) -> None:
        """Create or upgrade what the store needs (tables, indexes); any number of processes may call it at once."""

    def migration(self) -> str:
        """Return what a DBA would run by hand in place of `migrate`, or what it leaves to one; empty where nothing."""
        return ""

    async def close(self) -> None:
        """Release the connections that the store has opened itself; a client given to it stays open."""


async def every_record(store: Store, key: SessionKey, *, lane: Lane = MESSAGES) -> AsyncIterator[Record]:
    """Yield all records of a lane, ascending, a page at a time."""
    after = 0
    while page := (await store.read(key, lane=lane, after=after, first=PAGE)).records:
        for record in page:
            yield record
        after = page[-1].seq


async def every_session(store: Store, *, user_id: str | None = None) -> AsyncGenerator[SessionInfo, None]:
    """Yield all sessions of a user, the latest first, or of everybody, the latest last; a page at a time.

    Everybody's are for operators only, as `Store.scan` is.
    """
    cursor: str | None = None
    while True:
        if user_id is None:
            page = await store.scan(limit=SESSIONS, cursor=cursor)
        else:
            page = await store.sessions(user_id, limit=SESSIONS, cursor=cursor)
        for info in page.items:
            yield info
        cursor = page.cursor
        if cursor is None:
            return


def check_sizes(key: SessionKey, entries: Sequence[Entry], max_body_bytes: int) -> None:
    """Raise `TooLargeError` for the first body that exceeds the limit."""
    for entry in entries:
        if len(entry.body) > max_body_bytes:
            message = (
                f"message {entry.id!r} for {key} has {len(entry.body):,} bytes and this store holds at most "
                f"{max_body_bytes:,} in one; nothing was written: keep large content elsewhere and store a link"
            )
            raise TooLargeError(message)


def check_range(first: int | None, last: int | None) -> None:
    """Raise `ValueError` unless at most one of the two limits is given, and is at least one."""
    if first is not None and last is not None:
        message = "give first or last, not both"
        raise ValueError(message)
    for name, value in (("first", first), ("last", last)):
        if value is not None and value < 1:
            message = f"{name} must be at least 1, not {value}"
            raise ValueError(message)


def cursor_after(*position: str | int) -> str:
    """Return the opaque cursor of a place in a listing, for `cursor_position` to read.

    >>> cursor_position(cursor_after(12, "s1"), int, str)
    (12, 's1')
    """
    return urlsafe_b64encode(dumps(position, ensure_ascii=False).encode("utf-8", "surrogatepass")).decode()


def cursor_position(cursor: str, *kinds: type) -> tuple[Any, ...]:
    """Return the place that a cursor stands for; `ValueError` if it is not one of this listing."""
    try:
        position = loads(urlsafe_b64decode(cursor).decode("utf-8", "surrogatepass"))
    except ValueError:
        position = None
    known = isinstance(position, list) and [type(part) for part in position] == list(kinds)
    if not known or any(isinstance(part, int) and abs(part) > _HIGHEST for part in position):
        message = f"{cursor!r} is not a cursor of this listing: use the one that came with the last page"
        raise ValueError(message)
    return tuple(position)
