"""A store in one SQLite file: records clustered by session, lane and number, for several processes at once.

A session that begins clears away a few that have ended, so that the file needs no other collection.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import compress
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from typing_extensions import override

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
    microseconds,
)
from lc_history.sqlite import SQLiteFile, Synchronous
from lc_history.store import Store, check_range, check_sizes, cursor_after, cursor_position
from lc_history.stores.conditions import check_append, check_erasure, check_life, check_load
from lc_history.stores.sqlite import rows


class SQLiteStore(Store):
    """Keeps sessions in one file, which is made when it is first used.

    busy_timeout: how long a call waits for another process that is writing.
    synchronous: "full" survives a power cut; "normal" is faster and may then lose the latest turns, whole ones.
        Neither loses an acknowledged turn when only the process dies.

    The file must be on a disk of this machine: SQLite's locks do not hold on network drives.

    >>> SQLiteStore.from_url("sqlite:///chat.db").path.name
    'chat.db'
    """

    def __init__(
        self,
        path: str | Path,
        *,
        busy_timeout: timedelta = timedelta(seconds=10),
        synchronous: Synchronous = "full",
    ) -> None:
        if str(path) in ("", ".", ":memory:"):
            raise ValueError("a SQLite store outlives its process and needs a path; for one in memory: memory://")
        self.path = Path(path)
        self._file = SQLiteFile(self.path, busy_timeout=busy_timeout, synchronous=synchronous)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Return the store behind ``sqlite:///relative/path`` or ``sqlite:////absolute/path``."""
        parts = urlsplit(url)
        if parts.scheme != "sqlite" or parts.netloc or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is no SQLite file: sqlite:///relative/path or sqlite:////absolute/path")
        return cls(unquote(parts.path.removeprefix("/")), **options)

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

        def work(db: Connection) -> Appended:
            now = datetime.now(UTC)
            session = rows.take(db, key, microseconds(now))
            there = session.lane(db, lane)
            seqs, last_seq = there.numbers(entries), there.last_seq()
            if any(entry.id not in seqs for entry in entries):
                check_append(
                    key,
                    session,
                    last_seq,
                    expected_seq=expected_seq,
                    not_erased_since=not_erased_since,
                    create=create,
                )
            elif not session.alive:
                return Appended((), ())
            if session.alive:
                check_life(key, session.ends(), expiry, now)
            created = session.begin(db, microseconds(now))
            new = _number(entries, seqs, last_seq)
            if fresh := [Record(seqs[entry.id], entry.id, entry.body, now) for entry in compress(entries, new)]:
                _add(db, session, lane, fresh)
            session.renew(expiry, microseconds(now))
            session.save(db)
            return Appended(tuple(seqs[entry.id] for entry in entries), tuple(new), created)

        return await self._file.write(work)

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
        limit, back = first or last or -1, last is not None

        def work(db: Connection) -> Slice:
            return rows.read(db, key, lane, _now(), after=after, before=before, limit=limit, back=back)

        return await self._file.look(work)

    @override
    async def replace(self, key: SessionKey, seq: int, body: bytes, *, expected: bytes, lane: Lane = MESSAGES) -> bool:
        check_sizes(key, [Entry(str(seq), body)], self.max_body_bytes)

        def work(db: Connection) -> bool:
            session = rows.take(db, key, _now())
            if not session.lane(db, lane).replace(seq, body, expected=expected):
                return False
            session.changed(lane, 0)
            session.save(db)
            return True

        return await self._file.write(work)

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
        def work(db: Connection) -> int:
            now = _now()
            session = rows.take(db, key, now)
            if through is not None:
                return _trim(db, session, lane, through)
            check_erasure(key, session, moved_version, only)
            return session.bury(db, now, moved=moved_version is not None)

        return await self._file.write(work)

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
        changes = {
            "description": description,
            "archived": archived,
            "expires_at": None if expires_at is None else microseconds(expires_at),
        }
        changes = {name: value for name, value in changes.items() if value is not None}

        def look(db: Connection) -> SessionInfo | None:
            return _info(db, rows.find(db, key, _now()))

        def change(db: Connection) -> SessionInfo | None:
            now = _now()
            session = rows.take(db, key, now)
            if create and not session.alive:
                check_append(key, session, 0)
                session.begin(db, now)
            if session.alive and changes:
                for name, value in changes.items():
                    setattr(session, name, value)
                session.version += 1
                session.save(db)
            return _info(db, session)

        if changes or create:
            return await self._file.write(change)
        return await self._file.read(look)

    @override
    async def sessions(
        self, user_id: str, *, archived: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> SessionPage:
        where = "user_id = :user"
        if archived is not None:
            where += " AND archived = :archived"
        if cursor:
            where += " AND (updated_at, id) < (:time, :row)"
        values = {"user": rows.blob(user_id), "archived": archived}
        return await self._page(where, "updated_at DESC, id DESC", values, limit, cursor)

    @override
    async def scan(
        self, *, idle_since: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> SessionPage:
        where = "TRUE"
        values = {}
        if idle_since is not None:
            where += " AND updated_at <= :idle_since"
            values["idle_since"] = microseconds(idle_since)
        if cursor:
            where += " AND (updated_at, id) > (:time, :row)"
        return await self._page(where, "updated_at, id", values, limit, cursor)

    async def _page(
        self, where: str, order: str, values: dict[str, Any], limit: int, cursor: str | None
    ) -> SessionPage:
        time, row = cursor_position(cursor, int, int) if cursor else (None, None)

        def work(db: Connection) -> SessionPage:
            asked = values | {"now": _now(), "limit": limit + 1, "time": time, "row": row}
            found = rows.listed(db, where, order, asked)
            items = [info for info, *_ in found[:limit]]
            return SessionPage(items, cursor_after(*found[limit - 1][1:]) if len(found) > limit else None)

        return await self._file.read(work)

    @override
    async def load(self, copy: SessionCopy, *, over_version: int | None = None) -> None:
        def work(db: Connection) -> None:
            session = rows.take(db, copy.info.key, _now())
            given = {lane: session.lane(db, lane).last_seq() for lane in LANES}
            session.become(db, copy.info, version=check_load(copy, session, over_version))
            for lane, slice_ in copy.lanes.items():
                there = session.lane(db, lane)
                there.add(slice_.records)
                there.go_on_from(max(slice_.last_seq, given[lane]))

        await self._file.write(work)

    @override
    async def migrate(self) -> None:
        await self._file.read(lambda _: None)  # opening it is enough

    @override
    async def close(self) -> None:
        await self._file.close()


def _add(db: Connection, session: rows.SessionRow, lane: Lane, records: Sequence[Record]) -> None:
    there = session.lane(db, lane)
    there.add(records)
    there.go_on_from(records[-1].seq)
    session.changed(lane, len(records))
    session.updated_at = max(session.updated_at, microseconds(records[-1].created_at))


def _now() -> int:
    return microseconds(datetime.now(UTC))


def _info(db: Connection, session: rows.SessionRow) -> SessionInfo | None:
    return session.info(session.lane(db, MESSAGES).last_seq()) if session.alive else None


def _trim(db: Connection, session: rows.SessionRow, lane: Lane, through: int) -> int:
    gone = session.lane(db, lane).trim(through)
    if gone:
        session.changed(lane, -gone)
        session.save(db)
    return gone if lane == MESSAGES else 0


def _number(entries: Sequence[Entry], seqs: dict[str, int], last_seq: int) -> list[bool]:
    """Give numbers to the entries that have none, the first of equal ids, and return which those were."""
    new = []
    for entry in entries:
        new.append(entry.id not in seqs)
        if new[-1]:
            last_seq += 1
            seqs[entry.id] = last_seq
    return new
