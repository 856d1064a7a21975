"""A hot and a cold store as one: `store` has the verbs, `archiver` does the moving."""

from lc_history.stores.tiered.archiver import Archiver, ArchiveReport
from lc_history.stores.tiered.store import TieredStore

__all__ = ["ArchiveReport", "Archiver", "TieredStore"]
