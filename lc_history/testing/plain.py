"""What a session should be, in the plainest words: dicts, with no thought of speed, concurrency or time."""

from __future__ import annotations

from dataclasses import dataclass, field

from lc_history.errors import ConflictError
from lc_history.model import LANES, MESSAGES, Entry, Lane, SessionCopy


@dataclass
class PlainLane:
    """Numbered records, each an id and a body."""

    records: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    last_seq: int = 0


@dataclass
class PlainSession:
    """What a session should be, in the plainest words."""

    state: str = "absent"  # or alive, erased, moved
    erased_seq: int = 0
    changes: int = 0
    description: bytes = b""
    archived: bool = False
    lanes: dict[Lane, PlainLane] = field(default_factory=lambda: {lane: PlainLane() for lane in LANES})

    def append(
        self, lane: Lane, turn: list[Entry], expected: int | None, since: int | None, *, create: bool
    ) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """Give numbers to what is new, or refuse all of it."""
        there = self.lanes[lane]
        numbers = {id_: seq for seq, (id_, _) in there.records.items()}
        if any(entry.id not in numbers for entry in turn):
            refused = (
                self.state == "moved"
                or (since is not None and self.erased_seq > since)
                or (not create and self.state != "alive")
                or (expected is not None and expected != there.last_seq)
            )
            if refused:
                raise ConflictError
            self.begin()
            self.changes += 1
        new = []
        for entry in turn:
            new.append(entry.id not in numbers)
            if new[-1]:
                there.last_seq += 1
                numbers[entry.id] = there.last_seq
                there.records[there.last_seq] = (entry.id, entry.body)
        return tuple(numbers[entry.id] for entry in turn), tuple(new)

    def begin(self) -> None:
        """Bring it to life, unless it lives elsewhere."""
        if self.state == "moved":
            raise ConflictError
        self.state = "alive"

    def empty(self, state: str) -> int:
        """Keep only the numbers: erased or moved; return how many messages are gone."""
        gone = len(self.lanes[MESSAGES].records)
        for lane in self.lanes.values():
            lane.records.clear()
        self.state, self.description, self.archived = state, b"", False
        self.changes += state == "erased"
        if state == "erased":
            self.lanes[MESSAGES].last_seq += 1
            self.erased_seq = self.lanes[MESSAGES].last_seq
        return gone

    def load(self, copy: SessionCopy, changes: int, *, replacing: bool) -> None:
        """Take over a copy, made after so many changes, where nothing is lost by it."""
        messages = copy.lanes[MESSAGES]
        allowed = {
            "absent": True,
            "alive": replacing,
            "moved": changes >= self.changes,
            "erased": all(record.seq > self.erased_seq for record in messages.records),
        }
        if not allowed[self.state]:
            raise ConflictError
        self.changes += self.state != "moved"
        self.state, self.description, self.archived = "alive", copy.info.description, copy.info.archived
        for name, lane in self.lanes.items():
            lane.records = {record.seq: (record.id, record.body) for record in copy.lanes[name].records}
            lane.last_seq = max(lane.last_seq, copy.lanes[name].last_seq)
