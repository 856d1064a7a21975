"""One folder per store; each keeps the promises of `lc_history.store`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lc_history.store import Store

SCHEMES = {
    "memory": "memory:MemoryStore",
    "sqlite": "sqlite:SQLiteStore",
    "redis": "redis:RedisStore",
    "rediss": "redis:RedisStore",
    "unix": "redis:RedisStore",
    "redis+sentinel": "redis:RedisStore",
    "rediss+sentinel": "redis:RedisStore",
    "redis+cluster": "redis:RedisStore",
    "rediss+cluster": "redis:RedisStore",
    "postgresql": "postgres:PostgresStore",
    "postgres": "postgres:PostgresStore",
    "postgresql+embedded": "postgres:PostgresStore",
    "firestore": "firestore:FirestoreStore",
    "dynamodb": "dynamodb:DynamoDBStore",
}


def open_store(url: str, **options: Any) -> Store:
    """Return the store behind a URL; nothing is connected before its first use.

    Two URLs joined by ``+`` are a hot and a cold store: ``redis://localhost+postgresql://localhost/chat``.

    >>> open_store("memory://")  # doctest: +ELLIPSIS
    <lc_history.stores.memory.store.MemoryStore object at ...>
    """
    if not isinstance(url, str):
        message = f"a store is named by a URL of type str, not {type(url).__name__}: sqlite:///path, redis://host"
        raise TypeError(message)
    hot, cold = _split(url)
    if cold is not None:
        from lc_history.stores.tiered import TieredStore

        return TieredStore(hot=open_store(hot), cold=open_store(cold), **options)
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        what = f"{scheme[:40]!r}" if separator else "a text without ://"  # and perhaps with a password
        message = f"{what} names no store: a URL begins with one of {known}"
        raise ValueError(message)
    module, _, name = SCHEMES[scheme].partition(":")
    store: Store = getattr(import_module(f"lc_history.stores.{module}"), name).from_url(url, **options)
    return store


def _split(url: str) -> tuple[str, str | None]:
    """Part a hot URL from a cold one: a ``+`` which is followed by a scheme, and is not inside the first scheme."""
    first, separator, rest = url.partition("://")
    for scheme in sorted(SCHEMES, key=len, reverse=True):
        hot, plus, cold = rest.partition(f"+{scheme}://")
        if plus:
            return f"{first}{separator}{hot}", f"{scheme}://{cold}"
    return url, None
