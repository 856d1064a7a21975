"""What lies in the tables of a SQLite store, and how its verbs take hold of it, inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from sqlite3 import Connection
from typing import Final

from lc_history.errors import TooLargeError
from lc_history.model import (
    LANES,
    MESSAGES,
    MICROSECOND,
    Entry,
    Expiry,
    Lane,
    Record,
    SessionInfo,
    SessionKey,
    Slice,
    microseconds,
    moment,
)
from lc_history.store import TOMBSTONE_TTL

MAX_SEQ: Final = (1 << 30) - 1
"""A lane's numbers have 30 bits of a place, the lane itself 4, which leaves 29 for the session."""
SWEPT_SESSIONS: Final = 4
"""How many ended sessions one that begins clears away: more than one, so that they never pile up."""

_FIND: Final = "SELECT * FROM sessions WHERE user_id = ? AND session_id = ?"
_SAVE: Final = """
INSERT INTO sessions VALUES (nullif(?, 0), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    (state, created_at, updated_at, expires_at, archived, description, version, count, erased_seq) =
    (excluded.state, excluded.created_at, excluded.updated_at, excluded.expires_at, excluded.archived,
     excluded.description, excluded.version, excluded.count, excluded.erased_seq)
RETURNING id
"""
_LIST: Final = """
SELECT sessions.*, (SELECT last_seq FROM lanes WHERE lanes.id = sessions.id << 4) FROM sessions
WHERE state = 'alive' AND (expires_at IS NULL OR expires_at > :now) AND {where} ORDER BY {order} LIMIT :limit
"""
_ENDED: Final = "SELECT id FROM sessions WHERE expires_at <= ? LIMIT ?"
_NUMBER: Final = "INSERT INTO lanes VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET last_seq = excluded.last_seq"
_READ: Final = """
SELECT lanes.last_seq, place, records.id, records.created_at, body
FROM sessions JOIN lanes ON lanes.id = sessions.id << 4 | ?
LEFT JOIN records ON place > (lanes.id << 30) + ? AND place < (lanes.id << 30) + ?
WHERE user_id = ? AND session_id = ? AND (expires_at IS NULL OR expires_at > ?)
ORDER BY place LIMIT ?
"""
_READ_BACK: Final = _READ.replace("ORDER BY place", "ORDER BY place DESC")


def blob(name: str) -> bytes:
    """Return a name as it is stored: the same for no two strings, whatever is in them."""
    return name.encode("utf-8", "surrogatepass")


def text(stored: bytes) -> str:
    """Return a name that was stored."""
    return stored.decode("utf-8", "surrogatepass")


@dataclass(slots=True)
class SessionRow:
    """A row of ``sessions``, column by column, and how it changes; its id is 0 until it is stored."""

    id: int
    user_id: bytes
    session_id: bytes
    state: str
    created_at: int
    updated_at: int
    expires_at: int | None = None
    archived: bool = False
    description: bytes = b""
    version: int = 0
    count: int = 0
    erased_seq: int = 0

    @property
    def alive(self) -> bool:
        """Whether the session can be read."""
        return self.state == "alive"

    @property
    def moved(self) -> bool:
        """Whether it stands in another store."""
        return self.state == "moved"

    def lane(self, db: Connection, lane: Lane) -> LaneRows:
        """Return one of the session's lanes."""
        return LaneRows(db, self.id << 4 | LANES.index(lane))

    def save(self, db: Connection) -> None:
        """Store the row as it is now."""
        (self.id,) = db.execute(_SAVE, _COLUMNS(self)).fetchone()

    def begin(self, db: Connection, now: int) -> bool:
        """Bring the session to life; return whether it was not."""
        if self.alive:
            return False
        self.state, self.created_at, self.updated_at, self.expires_at = "alive", now, now, None
        self.save(db)
        for (ended,) in db.execute(_ENDED, (now, SWEPT_SESSIONS)).fetchall():
            _remove(db, ended)
        return True

    def changed(self, lane: Lane, difference: int) -> None:
        """Count a change in: so many records more or less in a lane."""
        self.version += 1
        self.count += difference if lane == MESSAGES else 0

    def ends(self) -> datetime | None:
        """Return when the session expires, if it does."""
        return None if self.expires_at is None else moment(self.expires_at)

    def renew(self, expiry: Expiry | None, now: int) -> None:
        """Begin or renew the session's life span."""
        if expiry and (expiry.sliding or self.expires_at is None):
            self.expires_at = now + expiry.ttl // MICROSECOND
            self.version += 1

    def bury(self, db: Connection, now: int, *, moved: bool) -> int:
        """Keep of the session only how far its numbers had come; return how many messages are gone."""
        gone = self.count
        _clear(db, self.id)
        self.created_at = self.updated_at = now
        self.expires_at = now + TOMBSTONE_TTL // MICROSECOND
        self.state, self.archived, self.description, self.count = "moved", False, b"", 0
        self.version += not moved
        self.save(db)
        if not moved:
            messages = self.lane(db, MESSAGES)
            self.state, self.erased_seq = "erased", messages.last_seq() + 1
            messages.go_on_from(self.erased_seq)
            self.save(db)
        return gone

    def become(self, db: Connection, info: SessionInfo, *, version: int) -> None:
        """Take over what another store knew of the session, in place of what is here."""
        _clear(db, self.id)
        self.state, self.created_at, self.updated_at = (
            "alive",
            microseconds(info.created_at),
            microseconds(info.updated_at),
        )
        self.expires_at = None if info.expires_at is None else microseconds(info.expires_at)
        self.archived, self.description, self.count = info.archived, info.description, info.count
        self.version = version
        self.save(db)

    def info(self, last_seq: int) -> SessionInfo:
        """Return what a listing shows of the session; last_seq: of its messages."""
        return SessionInfo(
            key=SessionKey(text(self.user_id), text(self.session_id)),
            last_seq=last_seq,
            count=self.count,
            created_at=moment(self.created_at),
            updated_at=moment(self.updated_at),
            expires_at=self.ends(),
            archived=bool(self.archived),
            description=self.description,
            version=self.version,
        )


_COLUMNS: Final = attrgetter(*(column.name for column in fields(SessionRow)))


def find(db: Connection, key: SessionKey, now: int) -> SessionRow:
    """Return a session's row; a new one, not yet stored, where there is none or it has expired."""
    names = blob(key.user_id), blob(key.session_id)
    stored = db.execute(_FIND, names).fetchone()
    row = SessionRow(*stored) if stored else None
    if row is None or (row.expires_at is not None and row.expires_at <= now):
        return SessionRow(0, *names, "absent", now, now, version=now)  # a version that no former life has had
    return row


def read(
    db: Connection, key: SessionKey, lane: Lane, now: int, *, after: int, before: int | None, limit: int, back: bool
) -> Slice:
    """Return the records between two numbers, ascending, at most so many from either end; a limit of -1 is none."""
    names = blob(key.user_id), blob(key.session_id)
    values = (LANES.index(lane), *_within(after, before), *names, now, limit)
    stored = db.execute(_READ_BACK if back else _READ, values).fetchall()
    if not stored or stored[0][1] is None:
        return Slice([], stored[0][0] if stored else 0)
    if back:
        stored.reverse()
    records: list[Record] = []
    then, time = 0, moment(0)  # a turn has one time
    for _, place, id_, at, body in stored:
        if at != then:
            then, time = at, moment(at)
        records.append(Record(place & MAX_SEQ, id_.decode("utf-8", "surrogatepass"), body, time))
    return Slice(records, stored[0][0])


def take(db: Connection, key: SessionKey, now: int) -> SessionRow:
    """Return a session's row to change it; an expired one is cleared away first."""
    row = find(db, key, now)
    if not row.id:
        for expired, *_ in db.execute(_FIND, (row.user_id, row.session_id)).fetchall():
            _remove(db, expired)
    return row


def listed(db: Connection, where: str, order: str, values: dict[str, object]) -> list[tuple[SessionInfo, int, int]]:
    """Return living sessions, each with the time and the row id that are its place in the listing."""
    found = []
    for *stored, last_seq in db.execute(_LIST.format(where=where, order=order), values):
        row = SessionRow(*stored)
        found.append((row.info(last_seq or 0), row.updated_at, row.id))
    return found


def _remove(db: Connection, session: int) -> None:
    _clear(db, session)
    db.execute("DELETE FROM lanes WHERE id >= ? AND id < ?", (session << 4, (session + 1) << 4))
    db.execute("DELETE FROM sessions WHERE id = ?", (session,))


def _clear(db: Connection, session: int) -> None:
    db.execute("DELETE FROM records WHERE place >= ? AND place < ?", (session << 34, (session + 1) << 34))


@dataclass(slots=True)
class LaneRows:
    """The records of one lane, and the highest number it has given."""

    db: Connection
    id: int

    def last_seq(self) -> int:
        """Return the highest number ever given."""
        stored = self.db.execute("SELECT last_seq FROM lanes WHERE id = ?", (self.id,)).fetchone()
        return stored[0] if stored else 0

    def go_on_from(self, last_seq: int) -> None:
        """Store the highest number ever given."""
        if last_seq > MAX_SEQ:
            raise TooLargeError(f"a lane of a SQLite store holds {MAX_SEQ:,} numbers: begin another session")
        self.db.execute(_NUMBER, (self.id, last_seq))

    def numbers(self, entries: Iterable[Entry]) -> dict[str, int]:
        """Return the numbers of those entries that are here already, by id."""
        found = {}
        for id_ in {entry.id for entry in entries}:
            where = "SELECT place FROM records WHERE place >> 30 = ? AND id = ?"
            stored = self.db.execute(where, (self.id, blob(id_))).fetchone()
            if stored:
                found[id_] = stored[0] & MAX_SEQ
        return found

    def add(self, records: Sequence[Record]) -> None:
        """Store records under their numbers."""
        rows = [(self.id << 30 | each.seq, blob(each.id), microseconds(each.created_at), each.body) for each in records]
        self.db.executemany("INSERT INTO records VALUES (?, ?, ?, ?)", rows)

    def replace(self, seq: int, body: bytes, *, expected: bytes) -> bool:
        """Replace one body if it is the expected one; return whether it was."""
        where = "UPDATE records SET body = ? WHERE place > ? AND place < ? AND body = ?"
        return self.db.execute(where, (body, *self._span(seq - 1, seq + 1), expected)).rowcount == 1

    def trim(self, through: int) -> int:
        """Delete the records up to a number; return how many."""
        return self.db.execute("DELETE FROM records WHERE place > ? AND place < ?", self._span(0, through + 1)).rowcount

    def _span(self, after: int, before: int) -> tuple[int, int]:
        """Return the places between two numbers, never those of another lane."""
        low, high = _within(after, before)
        return (self.id << 30) + low, (self.id << 30) + high


def _within(after: int, before: int | None) -> tuple[int, int]:
    """Return two numbers as a lane can have them."""
    return min(max(after, 0), MAX_SEQ), MAX_SEQ + 1 if before is None else min(max(before, 0), MAX_SEQ + 1)
