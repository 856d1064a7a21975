"""What the store in memory keeps of a session."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Self

from lc_history.model import LANES, MESSAGES, Entry, Lane, Record, SessionInfo, SessionKey


@dataclass(slots=True)
class LaneState:
    """The records of one lane, their numbers by id, and the highest number given."""

    records: list[Record] = field(default_factory=list)
    seq_of: dict[str, int] = field(default_factory=dict)
    last_seq: int = 0

    def keep(self, records: Iterable[Record]) -> None:
        """Hold these records and no others."""
        self.records = list(records)
        self.seq_of = {record.id: record.seq for record in self.records}

    def add(self, entries: Sequence[Entry], now: datetime) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Append what is not there yet; return the number of each entry, and which were new."""
        seqs, new = [], []
        for entry in entries:
            seq = self.seq_of.get(entry.id)
            new.append(seq is None)
            if seq is None:
                seq = self.last_seq = self.seq_of[entry.id] = self.last_seq + 1
                self.records.append(Record(seq, entry.id, bytes(entry.body), now))
            seqs.append(seq)
        return tuple(seqs), tuple(new)


@dataclass(slots=True)
class SessionState:
    """A session, or, when it is not alive, what is remembered of one that was erased or moved away."""

    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    archived: bool = False
    description: bytes = b""
    version: int = 0
    alive: bool = False
    moved: bool = False
    erased_seq: int = 0
    lanes: dict[Lane, LaneState] = field(default_factory=lambda: {lane: LaneState() for lane in LANES})

    @classmethod
    def absent(cls, now: datetime) -> Self:
        """Return what there is of a session that never was."""
        return cls(now, now, version=int(now.timestamp() * 1_000_000))  # a version that no former life has had

    def info(self, key: SessionKey) -> SessionInfo:
        """Return what a listing shows."""
        messages = self.lanes[MESSAGES]
        return SessionInfo(
            key=key,
            last_seq=messages.last_seq,
            count=len(messages.records),
            created_at=self.created_at,
            updated_at=self.updated_at,
            expires_at=self.expires_at,
            archived=self.archived,
            description=self.description,
            version=self.version,
        )


Place = tuple[str, str, str]

_NEXT: Final = "\0"  # what comes right after a string begins with it


@dataclass(slots=True)
class Order:
    """The living sessions by their last change, so that a page is found without a look at the others."""

    by_user: list[Place] = field(default_factory=list)
    """User, time and name of each."""
    by_time: list[Place] = field(default_factory=list)
    """Time, user and name of each."""
    times: dict[SessionKey, str] = field(default_factory=dict)

    def note(self, key: SessionKey, updated_at: datetime | None) -> None:
        """List a session by the time of its last change; None: no longer."""
        time = None if updated_at is None else _spelled(updated_at)
        before = self.times.pop(key, None)
        if before is not None:
            del self.by_user[bisect_left(self.by_user, (key.user_id, before, key.session_id))]
            del self.by_time[bisect_left(self.by_time, (before, key.user_id, key.session_id))]
        if time is not None:
            insort(self.by_user, (key.user_id, time, key.session_id))
            insort(self.by_time, (time, key.user_id, key.session_id))
            self.times[key] = time

    def of_user(self, user_id: str, before: tuple[str, ...] | None, count: int) -> list[Place]:
        """Return the places of a user's sessions, the latest first, from a time and a name on."""
        low, after = bisect_left(self.by_user, (user_id,)), (user_id, *before) if before else (user_id + _NEXT,)
        high = bisect_left(self.by_user, after)
        return self.by_user[max(low, high - count) : high][::-1]

    def of_all(self, after: tuple[str, ...] | None, until: datetime | None, count: int) -> list[Place]:
        """Return the places of everybody's sessions, the earliest first, after a place and up to a time."""
        low = bisect_right(self.by_time, after) if after else 0
        high = bisect_left(self.by_time, (_spelled(until) + _NEXT,)) if until else len(self.by_time)
        return self.by_time[low : min(high, low + count)]


def _spelled(time: datetime) -> str:
    return time.isoformat(timespec="microseconds")
