"""What proves a store: its contract as a pytest class, races, hostile names, and real servers to run on.

from lc_history.testing import StoreContract

class TestMyStore(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path):
        return partial(MyStore, tmp_path / "chat.db")
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lc_history.testing.contract import SideDoor, StoreContract
    from lc_history.testing.names import HOSTILE_NAMES, SEPARATORS
    from lc_history.testing.races import StoreOpener

__all__ = ["HOSTILE_NAMES", "SEPARATORS", "SideDoor", "StoreContract", "StoreOpener"]

_PLACES = {
    "HOSTILE_NAMES": "names",
    "SEPARATORS": "names",
    "SideDoor": "contract",
    "StoreContract": "contract",
    "StoreOpener": "races",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: whoever wants the servers only needs neither pytest nor hypothesis."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"{__name__}.{_PLACES[name]}"
    if _PLACES[name] == "contract" and module not in sys.modules:
        import pytest

        pytest.register_assert_rewrite(module)
    value = globals()[name] = getattr(import_module(module), name)
    return value
