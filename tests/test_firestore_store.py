"""The contract on Firestore's emulator, and the bill."""

from __future__ import annotations

from functools import partial
from uuid import uuid4

import pytest

from lc_history.stores.firestore import FirestoreStore
from lc_history.testing import StoreContract, StoreOpener


class TestFirestoreStore(StoreContract):
    turns = 2
    attempts = 3

    @pytest.fixture
    def open_store(self, firestore_host: str, monkeypatch: pytest.MonkeyPatch) -> StoreOpener:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", firestore_host)
        return partial(open_firestore, firestore_host, f"t{uuid4().hex[:8]}")


def open_firestore(host: str, prefix: str) -> FirestoreStore:
    import os

    os.environ["FIRESTORE_EMULATOR_HOST"] = host
    return FirestoreStore.from_url("firestore://test", prefix=prefix)
