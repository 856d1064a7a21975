"""What PostgreSQL refuses, in words: the library's error for a SQLSTATE, and what to do about it."""

from __future__ import annotations

from typing import Any, Final

from lc_history.errors import StoreError, StoreUnavailableError, TooLargeError

_MIGRATE: Final = (StoreError, "call migrate(), or run `lc-history migrate`")
_POOLER: Final = (StoreError, "it lies behind a pooler in transaction mode: open it with pgbouncer=True")
_REFUSALS: Final[dict[str, tuple[type[StoreError], str]]] = {
    "22P05": (StoreError, "the database is not in UTF-8: make one with ENCODING 'UTF8'"),
    "25006": (
        StoreUnavailableError,
        "it may be a replica, or have become one: name the primary, or add target_session_attrs=read-write to the URL",
    ),
    "26000": _POOLER,
    "42P05": _POOLER,
    "3F000": _MIGRATE,
    "42P01": _MIGRATE,
    "42703": _MIGRATE,
    "42883": _MIGRATE,
    "42501": (StoreError, "grant this role what it lacks, or connect as another"),
    "53100": (StoreUnavailableError, "nothing was written: make room on its disk"),
    "53300": (StoreUnavailableError, "lower pool_size, raise max_connections, or put PgBouncer before it"),
    "53400": (StoreUnavailableError, "nothing was written: raise the limit that it names"),
    "54": (TooLargeError, "nothing was written: keep large content elsewhere and store a link"),
    "57014": (StoreUnavailableError, "nothing was written: try again, or raise statement_timeout"),
    "55P03": (StoreUnavailableError, "nothing was written: try again, or raise lock_timeout"),
    "58": (StoreUnavailableError, "look after its disk, and into its log"),
    "XX": (StoreError, "look into its log; if a table or an index is damaged, restore a backup"),
}
"""By SQLSTATE, or by its class: PostgreSQL's manual, appendix A. The others are as the driver sorts them."""


def explained(error: Any, address: str) -> StoreError:
    """Return the library's error for a driver's: what happened, where, and what to do."""
    from psycopg import OperationalError

    state = error.sqlstate or ""
    kind, remedy = _REFUSALS.get(state) or _REFUSALS.get(state[:2]) or (None, "")
    kind = kind or (StoreUnavailableError if isinstance(error, OperationalError) else StoreError)
    what = "is not available" if issubclass(kind, StoreUnavailableError) else "refused"
    said = next(iter(str(error).splitlines()), type(error).__name__)
    return kind(f"PostgreSQL {address} {what}: {said}" + (f": {remedy}" if remedy else ""))
