"""The contract on the store in memory, which is its reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lc_history.bridge import drive
from lc_history.model import MESSAGES, Entry, Lane, SessionKey
from lc_history.stores.memory import MemoryStore
from lc_history.testing import SideDoor, StoreContract, StoreOpener


@dataclass
class RawMemory:
    """Reaches into the dict of a store in memory."""

    store: MemoryStore

    def raw_records(self, key: SessionKey) -> list[bytes]:
        session = self.store._sessions.get(key)
        if session is None:
            return []
        records = [record for lane in session.lanes.values() for record in lane.records]
        return [session.description, *(value for record in records for value in (record.id.encode(), record.body))]

    def corrupt(self, key: SessionKey, seq: int, *, lane: Lane = MESSAGES) -> None:
        records = self.store._sessions[key].lanes[lane].records
        place = [record.seq for record in records].index(seq)
        records[place] = records[place]._replace(body=b"\x00\xff" + records[place].body[1:])


class TestMemoryStore(StoreContract):
    processes = 0

    @pytest.fixture
    def only(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def open_store(self, only: MemoryStore) -> StoreOpener:
        return lambda: only

    @pytest.fixture
    def side_door(self, only: MemoryStore) -> SideDoor:
        return RawMemory(only)


def test_url() -> None:
    assert isinstance(MemoryStore.from_url("memory://"), MemoryStore)
    with pytest.raises(ValueError, match="memory://"):
        MemoryStore.from_url("memory:///var/chat")


def test_each_store_is_its_own() -> None:
    drive(MemoryStore().append(SessionKey("ann", "s1"), [Entry("a", b"hello")]))
    assert drive(MemoryStore().read(SessionKey("ann", "s1"))).records == []
