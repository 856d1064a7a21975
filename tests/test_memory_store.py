"""The contract on the store in memory, which is its reference."""

from __future__ import annotations

import pytest

from lc_history.stores.memory import MemoryStore
from lc_history.testing import StoreContract, StoreOpener


class TestMemoryStore(StoreContract):
    processes = 0

    @pytest.fixture
    def open_store(self) -> StoreOpener:
        only = MemoryStore()
        return lambda: only
