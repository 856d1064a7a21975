"""Two stores as one: the contract, and moves that are killed, raced and overtaken."""

from __future__ import annotations

import pytest

from lc_history.stores.memory import MemoryStore
from lc_history.stores.tiered import TieredStore
from lc_history.testing import StoreContract


class TestTieredInMemory(StoreContract):
    processes = 0

    @pytest.fixture
    def open_store(self):
        only = TieredStore(hot=MemoryStore(), cold=MemoryStore())
        return lambda: only
