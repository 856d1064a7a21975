"""Every promise together, in random order."""

from __future__ import annotations

from lc_history.store import Store
from lc_history.testing.contract.setting import Door, Setting
from lc_history.testing.machine import check_random_histories


class Histories(Setting):
    """What no list of cases would have thought of."""

    def test_random_histories(self, store: Store, door: Door) -> None:
        check_random_histories(store, door, examples=self.examples)
