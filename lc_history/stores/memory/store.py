"""A store in this process: for tests, notebooks and sessions that need not outlive it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Self

from typing_extensions import override

from lc_history.bridge import Lock
from lc_history.model import (
    LANES,
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
from lc_history.store import TOMBSTONE_TTL, Store, check_range, check_sizes, cursor_after, cursor_position
from lc_history.stores.conditions import check_append, check_erasure, check_life, check_load
from lc_history.stores.memory.sessions import Order, SessionState


class MemoryStore(Store):
    """Keeps sessions in a dict of this process, guarded by one lock.

    >>> from lc_history.bridge import drive
    >>> from lc_history.model import Entry, SessionKey
    >>> store, key = MemoryStore(), SessionKey("ann", "s1")
    >>> drive(store.append(key, [Entry("a", b"hello"), Entry("a", b"again")])).new
    (True, False)
    >>> drive(store.read(key)).records[0].body
    b'hello'
    """

    def __init__(self) -> None:
        self._sessions: dict[SessionKey, SessionState] = {}
        self._order = Order()
        self._lock = Lock()

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Return a new, empty store for ``memory://``."""
        if url != "memory://":
            message = f"a store in memory has no address: memory://, not {url!r}"
            raise ValueError(message)
        return cls()

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
        with self._lock:
            now = datetime.now(UTC)
            session = self._find(key, now) or SessionState.absent(now)
            state = session.lanes[lane]
            if any(entry.id not in state.seq_of for entry in entries):
                check_append(
                    key,
                    session,
                    state.last_seq,
                    expected_seq=expected_seq,
                    not_erased_since=not_erased_since,
                    create=create,
                )
            elif not session.alive:
                return Appended((), ())
            if session.alive:
                check_life(key, session.expires_at, expiry, now)
            created = self._begin(key, session, now)
            seqs, new = state.add(entries, now)
            if any(new):
                session.version += 1
                session.updated_at = max(session.updated_at, now)
                self._order.note(key, session.updated_at)
            if expiry and (expiry.sliding or session.expires_at is None):
                session.expires_at = now + expiry.ttl
                session.version += 1
            return Appended(seqs, new, created)

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
        with self._lock:
            session = self._find(key, datetime.now(UTC))
            if session is None:
                return Slice()
            state = session.lanes[lane]
            begin = bisect_left(state.records, after + 1, key=_seq)
            end = len(state.records) if before is None else bisect_left(state.records, before, key=_seq)
            if first is not None:
                end = min(end, begin + first)
            if last is not None:
                begin = max(begin, end - last)
            return Slice(state.records[begin:end], state.last_seq)

    @override
    async def replace(self, key: SessionKey, seq: int, body: bytes, *, expected: bytes, lane: Lane = MESSAGES) -> bool:
        check_sizes(key, [Entry(str(seq), body)], self.max_body_bytes)
        with self._lock:
            session = self._find(key, datetime.now(UTC))
            records = session.lanes[lane].records if session else []
            place = bisect_left(records, seq, key=_seq)
            if session is None or place == len(records) or records[place].seq != seq:
                return False
            if records[place].body != expected:
                return False
            records[place] = records[place]._replace(body=bytes(body))
            session.version += 1
            return True

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
        with self._lock:
            now = datetime.now(UTC)
            session = self._find(key, now)
            if through is not None:
                return self._trim(session, through, lane)
            session = session or SessionState.absent(now)
            check_erasure(key, session, moved_version, only)
            gone = len(session.lanes[MESSAGES].records)
            grave = SessionState(now, now, now + TOMBSTONE_TTL, version=session.version + (moved_version is None))
            for name in LANES:
                grave.lanes[name].last_seq = session.lanes[name].last_seq
            grave.moved, grave.erased_seq = moved_version is not None, session.erased_seq
            if not grave.moved:
                grave.lanes[MESSAGES].last_seq += 1
                grave.erased_seq = grave.lanes[MESSAGES].last_seq
            self._sessions[key] = grave
            self._order.note(key, None)
            return gone

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
        with self._lock:
            now = datetime.now(UTC)
            session = self._find(key, now)
            if create and (session is None or not session.alive):
                session = session or SessionState.absent(now)
                check_append(key, session, 0)
                self._begin(key, session, now)
            if session is None or not session.alive:
                return None
            if (description, archived, expires_at) != (None, None, None):
                session.version += 1
                session.description = session.description if description is None else description
                session.archived = session.archived if archived is None else archived
                session.expires_at = session.expires_at if expires_at is None else expires_at
            return session.info(key)

    @override
    async def sessions(
        self, user_id: str, *, archived: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> SessionPage:
        before = cursor_position(cursor, str, str) if cursor else None
        with self._lock:
            found = self._order.of_user(user_id, before, limit + 1)
            infos = self._infos([SessionKey(user_id, name) for _, _, name in found[:limit]])
        after = cursor_after(*found[limit - 1][1:]) if len(found) > limit else None
        return SessionPage([info for info in infos if archived in (None, info.archived)], after)

    @override
    async def scan(
        self, *, idle_since: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> SessionPage:
        after = cursor_position(cursor, str, str, str) if cursor else None
        with self._lock:
            found = self._order.of_all(after, idle_since, limit + 1)
            infos = self._infos([SessionKey(user_id, name) for _, user_id, name in found[:limit]])
        return SessionPage(infos, cursor_after(*found[limit - 1]) if len(found) > limit else None)

    @override
    async def load(self, copy: SessionCopy, *, over_version: int | None = None) -> None:
        info = copy.info
        with self._lock:
            now = datetime.now(UTC)
            there = self._find(info.key, now) or SessionState.absent(now)
            session = SessionState(
                created_at=info.created_at,
                updated_at=info.updated_at,
                expires_at=info.expires_at,
                archived=info.archived,
                description=info.description,
                version=check_load(copy, there, over_version),
                alive=True,
                erased_seq=there.erased_seq,
            )
            for lane, slice_ in copy.lanes.items():
                session.lanes[lane].keep(slice_.records)
                session.lanes[lane].last_seq = max(slice_.last_seq, there.lanes[lane].last_seq)
            self._sessions[info.key] = session
            self._order.note(info.key, info.updated_at)

    def _find(self, key: SessionKey, now: datetime) -> SessionState | None:
        session = self._sessions.get(key)
        if session and session.expires_at and session.expires_at <= now:
            del self._sessions[key]
            self._order.note(key, None)
            return None
        return session

    def _begin(self, key: SessionKey, session: SessionState, now: datetime) -> bool:
        if session.alive:
            return False
        session.alive, session.created_at, session.updated_at, session.expires_at = True, now, now, None
        self._sessions[key] = session
        self._order.note(key, now)
        return True

    def _trim(self, session: SessionState | None, through: int, lane: Lane) -> int:
        if session is None:
            return 0
        state = session.lanes[lane]
        kept = [record for record in state.records if record.seq > through]
        gone = len(state.records) - len(kept)
        state.keep(kept)
        session.version += 1 if gone else 0
        return gone if lane == MESSAGES else 0

    def _infos(self, keys: Sequence[SessionKey]) -> list[SessionInfo]:
        now = datetime.now(UTC)
        found = [(key, self._find(key, now)) for key in keys]
        return [session.info(key) for key, session in found if session is not None and session.alive]


def _seq(record: Record) -> int:
    return record.seq
