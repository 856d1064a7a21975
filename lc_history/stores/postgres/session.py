"""A session on PostgreSQL while it is locked: its state in Python, to be judged, changed and written back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Self

from lc_history.bridge import entered, settle
from lc_history.model import LANES, Entry, Lane, Record, SessionKey
from lc_history.postgres import Postgres, escaped, unescaped
from lc_history.stores.heads import Head, LaneState
from lc_history.stores.postgres import sql

INDEXED_BYTES: Final = 1000
"""The longest name that stands in an index as it is: two of them fit into one entry of PostgreSQL's indexes."""

_COPIED: Final = ("int8", "int8", "timestamptz", "text", "text", "bytea")


@dataclass(slots=True)
class LockedSession:
    """One session, locked by the transaction that the connection is in."""

    database: Postgres
    connection: Any
    key: SessionKey
    id: int
    now: datetime
    """The server's time."""
    head: Head

    @classmethod
    async def take(cls, database: Postgres, connection: Any, key: SessionKey, *, create: bool) -> Self | None:
        """Lock a session; where there is none, one that nothing is remembered of, or None.

        What an expired session has left is deleted.
        """
        cursor = await database.execute(connection, sql.LOCK_OR_BEGIN if create else sql.LOCK, named(key))
        row = await settle(cursor.fetchone())
        if row is None:
            return None
        id_, version, alive, moved, archived, erased_seq, count, created, updated, expires, description, *rest = row
        head = Head(
            utc(created),
            utc(updated),
            expires and utc(expires),
            archived=archived,
            description=description,
            version=version,
            alive=alive,
            moved=moved,
            erased_seq=erased_seq,
            count=count,
            lanes={lane: LaneState(last_seq) for lane, last_seq in zip(LANES, rest, strict=False)},
        )
        now = utc(rest[-1])
        session = cls(database, connection, key, id_, now, head)
        if head.expires_at is not None and head.expires_at <= now:
            await session.clear()
            session.head = Head.fresh(now, after=head)
        return session

    async def numbers(self, lane: Lane, entries: Iterable[Entry]) -> dict[str, int]:
        """Return the numbers of those entries that are there."""
        ids = [indexed(escaped(entry.id))[0] for entry in entries]
        cursor = await self.database.execute(self.connection, sql.KNOWN, {"stream": self._stream(lane), "ids": ids})
        return {unescaped(id_): seq for id_, seq in await settle(cursor.fetchall())}

    async def add(self, lane: Lane, records: Iterable[Record]) -> None:
        """Write records of a lane."""
        stream = self._stream(lane)
        async with entered(self.connection.cursor().copy(self.database.qualified(sql.ADD))) as copy:
            copy.set_types(_COPIED)
            for record in records:
                id_, full_id = indexed(escaped(record.id))
                await settle(
                    copy.write_row((stream, record.seq, record.created_at, id_, full_id, record.body)),
                )

    async def trim(self, lane: Lane, through: int) -> int:
        """Delete the records of a lane up to a number, and return how many there were."""
        parameters = {"stream": self._stream(lane), "through": through}
        cursor = await self.database.execute(self.connection, sql.TRIM, parameters)
        count: int = cursor.rowcount
        return count

    async def clear(self) -> None:
        """Delete every record of every lane."""
        await self.database.execute(self.connection, sql.CLEAR, {"id": self.id})

    async def erase(self, *, moved: bool = False) -> int:
        """Delete everything but how far the numbers came, and return how many messages there were."""
        gone = self.head.count if self.head.alive else 0
        await self.clear()
        self.head = self.head.grave(self.now, moved=moved)
        return gone

    async def save(self) -> None:
        """Write the state back, where there is any to remember."""
        head = self.head
        if not head.alive and head.expires_at is None:
            return
        state = {name: getattr(head, name) for name in _SAVED}
        last_seqs = {lane: lane_state.last_seq for lane, lane_state in head.lanes.items()}
        await self.database.execute(self.connection, sql.SAVE, named(self.key) | state | last_seqs)

    def _stream(self, lane: Lane) -> int:
        return self.id * 16 + sql.LANE_NUMBERS[lane]


_SAVED: Final = (
    "version", "alive", "moved", "archived", "erased_seq", "count",
    "created_at", "updated_at", "expires_at", "description",
)  # fmt: skip


@lru_cache(maxsize=4096)
def named(key: SessionKey) -> dict[str, Any]:
    """Return the parameters that name a session in a statement, to be read only."""
    user, full_user = indexed(escaped(key.user_id))
    session, full_session = indexed(escaped(key.session_id))
    return {"user": user, "session": session, "full_user": full_user, "full_session": full_session}


def indexed(text: str) -> tuple[str, str | None]:
    r"""Return an escaped name as it stands in an index; one that is too long is cut, and comes along in full.

    A cut name ends in ``\h`` and a digest, which no escaped name holds.
    """
    encoded = text.encode()
    if len(encoded) <= INDEXED_BYTES:
        return text, None
    return encoded[: INDEXED_BYTES // 2].decode(errors="ignore") + rf"\h{sha256(encoded).hexdigest()}", text


def utc(time: datetime) -> datetime:
    """Return a time as the contract gives it, whatever time zone the connection has."""
    return time if time.tzinfo is UTC else time.astimezone(UTC)
