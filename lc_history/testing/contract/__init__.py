"""The contract of `lc_history.store` as a pytest class: subclass it, and every promise is tested on your store."""

from __future__ import annotations

from lc_history.testing.contract.appends import Appends
from lc_history.testing.contract.bodies import Bodies
from lc_history.testing.contract.concurrency import Concurrency
from lc_history.testing.contract.erasure import Erasure
from lc_history.testing.contract.expiry import Expiries
from lc_history.testing.contract.histories import Histories
from lc_history.testing.contract.listing import Listings
from lc_history.testing.contract.moves import Moves
from lc_history.testing.contract.naming import Names
from lc_history.testing.contract.reads import Reads
from lc_history.testing.contract.setting import Setting, SideDoor

__all__ = ["Setting", "SideDoor", "StoreContract"]


class StoreContract(Appends, Reads, Erasure, Moves, Expiries, Listings, Names, Bodies, Concurrency, Histories):
    """Every promise of a store, each through both doors.

    ::

        class TestMyStore(StoreContract):
            @pytest.fixture
            def open_store(self, tmp_path):
                return partial(MyStore, tmp_path / "chat.db")

    `Setting` lists what else a subclass may say. A test of the contract cannot be overridden; one that the store
    is known to fail is named in ``xfails`` with the reason. The store's own ``async def test_`` methods in the
    class run through both doors as well.
    """
