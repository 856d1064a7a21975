"""Every error of the library, with what to do about it.

    HistoryError
    ├── StoreError               the driver's exception is __cause__
    │   ├── StoreUnavailableError    try again later
    │   ├── ConflictError            somebody else was first
    │   └── TooLargeError            (also a ValueError) the store cannot hold it; nothing was written
    ├── DecodeError              damaged, moved, or sealed with an unknown key; never skipped
    ├── ContextOverflowError     the view cannot be made to fit the budget; says by how much
    ├── PolicyError              retention, legal hold or redaction forbids it
    ├── ThreadBusyError          another run holds this thread
    ├── LeaseLostError           this run was taken over; nothing more may be written
    ├── ColourError              a blocking call reached code that must wait
    └── MissingExtraError        (also an ImportError) a feature's packages are not installed

A message says what happened, to which session, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class HistoryError(Exception):
    """The root of everything that lc-history raises on purpose."""


class StoreError(HistoryError):
    """The store refused or failed; the driver's exception is ``__cause__``."""


class StoreUnavailableError(StoreError):
    """The store could not be reached: try again later, or check its address."""


class ConflictError(StoreError):
    """Somebody else was first: read again, then decide."""


class TooLargeError(StoreError, ValueError):
    """A body exceeds what the store can hold; nothing was written."""


class DecodeError(HistoryError):
    """A record is damaged, was moved, or is sealed with an unknown key; it is never skipped unasked."""


class ContextOverflowError(HistoryError):
    """The view cannot be made to fit the budget; the message says by how much."""


class PolicyError(HistoryError):
    """Retention, a legal hold or redaction forbids the operation."""


class ThreadBusyError(HistoryError):
    """Another run holds this thread: wait, or ask for ``on_busy="enqueue"``."""


class LeaseLostError(HistoryError):
    """This run was taken over by another; nothing more may be written."""


class ColourError(HistoryError):
    """A blocking call reached code that must wait: use the async door, or give a client of the other kind."""


class MissingExtraError(HistoryError, ImportError):
    """A feature's packages are not installed; the message says which extra brings them."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn an ImportError inside the block into one that names the extra to install."""
    try:
        yield
    except ImportError as error:
        message = f"{error.name or 'a package'} is missing: pip install 'lc-history[{name}]'"
        raise MissingExtraError(message) from error
