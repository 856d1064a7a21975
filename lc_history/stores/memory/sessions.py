"""What the store in memory keeps of a session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

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
