"""What a store that judges in Python remembers of one session: its head, written back after each change.

On PostgreSQL it is a row, on Firestore and DynamoDB the only document that is ever changed in place. There records
lie beside the head under a place, ``life.number``, that sorts. A life is a fresh name, later than every
earlier one, that a session gets when it begins and again when it is erased: one write of the head puts every
older record out of sight, and what is written before the head names it (a large turn, a session being loaded)
is not seen either.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import datetime
from json import dumps, loads
from secrets import token_hex
from typing import Final, Self

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
    Slice,
    microseconds,
    moment,
)
from lc_history.store import TOMBSTONE_TTL
from lc_history.stores.conditions import check_load

_TIMES: Final = ("created_at", "updated_at", "expires_at", "collect_at")


@dataclass(slots=True)
class LaneState:
    """The numbers of one lane: the highest ever given, and the lowest not deleted."""

    last_seq: int = 0
    first_seq: int = 1


@dataclass(slots=True)
class Head:
    """A session, or, when it is not alive, what is remembered of one that was erased or moved away."""

    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    collect_at: datetime | None = None
    """When the server may collect every document of this life; None where it cannot know."""
    archived: bool = False
    description: bytes = b""
    version: int = 0
    alive: bool = False
    moved: bool = False
    empty: bool = True
    """Whether no record was ever written in this life."""
    erased_seq: int = 0
    count: int = 0
    life: str = ""
    lanes: dict[Lane, LaneState] = field(default_factory=lambda: {lane: LaneState() for lane in LANES})

    @classmethod
    def fresh(cls, now: datetime, *, after: Self | None = None) -> Self:
        """Return the head of a session that nobody remembers; after: what it was before it expired."""
        return cls(now, now, version=after.version, life=after.life) if after else cls(now, now)

    def dumps(self, key: SessionKey) -> str:
        """Return the head as one JSON text, which names its session as well."""
        state = asdict(self) | {"description": b64encode(self.description).decode()}
        state["lanes"] = {lane: astuple(used) for lane, used in self.lanes.items() if used != LaneState()}
        state |= {name: None if state[name] is None else microseconds(state[name]) for name in _TIMES}
        named = {"user_id": spelled(key.user_id), "session_id": spelled(key.session_id)}
        return dumps(named | state, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> tuple[SessionKey, Self]:
        """Return the session's name and its head."""
        state = loads(text)
        key = SessionKey(unspelled(state.pop("user_id")), unspelled(state.pop("session_id")))
        state |= {name: None if state[name] is None else moment(state[name]) for name in _TIMES}
        state["description"] = b64decode(state["description"])
        state["lanes"] = {lane: LaneState(*state["lanes"].get(lane, ())) for lane in LANES}
        return key, cls(**state)

    def info(self, key: SessionKey) -> SessionInfo:
        """Return what a listing shows."""
        return SessionInfo(
            key=key,
            last_seq=self.lanes[MESSAGES].last_seq,
            count=self.count,
            created_at=self.created_at,
            updated_at=self.updated_at,
            expires_at=self.expires_at,
            archived=self.archived,
            description=self.description,
            version=self.version,
        )

    def place(self, seq: int) -> str:
        """Return where a record of this life lies; places sort as numbers do."""
        return place_of(self.life, seq)

    def shows(self, lane: Lane, seq: int) -> bool:
        """Tell whether a record of this life is to be seen."""
        return self.alive and self.lanes[lane].first_seq <= seq <= self.lanes[lane].last_seq

    def begin(self, now: datetime) -> bool:
        """Bring the session to life; return whether it was not."""
        if self.alive:
            return False
        self.alive, self.empty, self.life = True, True, next_life(self.life, now)
        self.created_at = self.updated_at = now
        self.expires_at = self.collect_at = None
        return True

    def add(self, lane: Lane, new: Sequence[Entry], now: datetime) -> list[Record]:
        """Give new entries their numbers, and return them as records."""
        if not new:
            return []
        state = self.lanes[lane]
        records = [Record(seq, entry.id, entry.body, now) for seq, entry in enumerate(new, state.last_seq + 1)]
        state.last_seq += len(new)
        self.count += len(new) if lane == MESSAGES else 0
        self.empty = False
        self.version += 1
        self.updated_at = max(self.updated_at, now)
        return records

    def trim(self, lane: Lane, through: int, gone: int) -> None:
        """Put the records of a lane up to a number out of sight; gone: how many that are."""
        self.lanes[lane].first_seq = max(self.lanes[lane].first_seq, through + 1)
        self.count -= gone if lane == MESSAGES else 0
        self.version += 1 if gone else 0

    def renew(self, expiry: Expiry | None, now: datetime) -> bool:
        """Begin or renew the session's life span; return whether that changes anything."""
        if expiry is None or not (expiry.sliding or self.expires_at is None):
            return False
        self.version += 1
        self.expire(now + expiry.ttl, for_good=not expiry.sliding)
        return True

    def expire(self, time: datetime, *, for_good: bool = True) -> None:
        """Let the session expire at a time; not for good if it is likely to be put off."""
        self.expires_at = time
        if self.empty:
            self.collect_at = time if for_good else None
        elif self.collect_at is not None and time > self.collect_at:
            self.collect_at = None

    def change(self, *, description: bytes | None, archived: bool | None, expires_at: datetime | None) -> None:
        """Change what is given."""
        self.version += 1
        self.description = self.description if description is None else description
        self.archived = self.archived if archived is None else archived
        if expires_at is not None:
            self.expire(expires_at)

    def grave(self, now: datetime, *, moved: bool) -> Head:
        """Return what is remembered of this session once it is gone: how far its numbers had come."""
        until = now + TOMBSTONE_TTL
        grave = Head(now, now, until, until, version=self.version, moved=moved, erased_seq=self.erased_seq)
        grave.life = next_life(self.life, now)
        for lane, state in self.lanes.items():
            grave.lanes[lane] = LaneState(state.last_seq, state.last_seq + 1)
        if not moved:
            grave.version += 1
            grave.erased_seq = grave.lanes[MESSAGES].last_seq + 1
            grave.lanes[MESSAGES] = LaneState(grave.erased_seq, grave.erased_seq + 1)
        return grave

    def replaced_by(self, copy: SessionCopy, over_version: int | None, now: datetime) -> Head:
        """Return the head of a session that is loaded over this one; `ConflictError` if it may not be."""
        version = check_load(copy, self, over_version)
        info = copy.info
        head = Head(
            info.created_at,
            info.updated_at,
            info.expires_at,
            info.expires_at,
            archived=info.archived,
            description=info.description,
            version=version,
            alive=True,
            empty=not any(slice_.records for slice_ in copy.lanes.values()),
            erased_seq=self.erased_seq,
            count=len(copy.lanes[MESSAGES].records),
            life=next_life(self.life, now),
        )
        for lane, state in self.lanes.items():
            copied = copy.lanes.get(lane, Slice())
            last = max(copied.last_seq, state.last_seq)
            head.lanes[lane] = LaneState(last, copied.records[0].seq if copied.records else last + 1)
        return head

    def copy(self) -> Head:
        """Return a head that can be changed while this one stays."""
        return replace(self, lanes={lane: replace(state) for lane, state in self.lanes.items()})


def next_life(last: str, now: datetime) -> str:
    """Return a name that no life has had, sorting after the last one and after all that began before now."""
    begun = int(last[:14] or "0", 16)
    return f"{max(begun + 1, microseconds(now)):014x}{token_hex(6)}"


def place_of(life: str, seq: int) -> str:
    """Return where a record lies."""
    return f"{life}.{seq:016}"


def seq_at(place: str) -> int:
    """Return the number of the record at a place."""
    return int(place[-16:])


def spelled(name: str) -> str:
    """Return a name in plain ASCII, for `unspelled` to read; a lone surrogate is spelled too."""
    return name.encode("unicode_escape").decode("ascii")


def unspelled(text: str) -> str:
    """Return the name that was spelled."""
    return text.encode("ascii").decode("unicode_escape")


def new_entries(entries: Sequence[Entry], there: Mapping[str, int]) -> list[Entry]:
    """Return the entries that are not there yet, the first of those with equal ids."""
    first: dict[str, Entry] = {}
    for entry in entries:
        if entry.id not in there:
            first.setdefault(entry.id, entry)
    return list(first.values())


def appended(entries: Sequence[Entry], numbers: Mapping[str, int], new: Iterable[Entry], *, created: bool) -> Appended:
    """Return where the entries stand."""
    unseen = {entry.id for entry in new}
    flags = []
    for entry in entries:
        flags.append(entry.id in unseen)
        unseen.discard(entry.id)
    return Appended(tuple(numbers[entry.id] for entry in entries), tuple(flags), created)
