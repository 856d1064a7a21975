"""One class per store, with the constructors people know; each is a `ChatHistory` and nothing more.

Give ``RunnableWithMessageHistory`` a new object for each run, or one that is kept where runs follow each other: both
reads of a run are one snapshot, and an object holds one.
``ChatHistories`` is the shorter way where there are many conversations: it opens the store once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from langchain_core.messages import BaseMessage

from lc_history.model import DEFAULT_USER, Expiry, SessionKey
from lc_history.privacy.audit import AuditTrail
from lc_history.privacy.keyring import Keyring
from lc_history.run_history import RunHistory
from lc_history.store import Store
from lc_history.stores.memory import MemoryStore
from lc_history.stores.sqlite import SQLiteStore
from lc_history.transcript import Policy, Transcript

if TYPE_CHECKING:
    from google.cloud import firestore


class _NamedHistory(RunHistory):
    """A conversation in a store of its own; the options are the same for every store."""

    def __init__(
        self,
        store: Store,
        session_id: str,
        *,
        user_id: str = DEFAULT_USER,
        ttl: timedelta | int | None = None,
        sliding: bool = False,
        keys: Keyring | None = None,
        redact: Callable[[BaseMessage], BaseMessage] | None = None,
        audit: AuditTrail | None = None,
    ) -> None:
        if isinstance(ttl, int):
            ttl = timedelta(seconds=ttl)
        policy = Policy(redact=redact, keys=keys, expiry=Expiry.of(ttl, sliding=sliding), audit=audit)
        super().__init__(Transcript(store, SessionKey(user_id, session_id), policy))

    @property
    def store(self) -> Store:
        """The store beneath, for `migrate` and `close`."""
        return self.transcript.store


class InMemoryChatMessageHistory(_NamedHistory):
    """A conversation in this object, gone with it.

    For many conversations, or runs of one at the same time, there is
    ``ChatHistories.open("memory://").get_session_history``.

    >>> history = InMemoryChatMessageHistory()
    >>> history.add_user_message("hello")
    >>> history.messages[0].content
    'hello'
    """

    def __init__(self, session_id: str = "default", **options: Any) -> None:
        super().__init__(MemoryStore(), session_id, **options)


class SQLiteChatMessageHistory(_NamedHistory):
    """A conversation in a file of SQLite, made at its first use.

    ttl (a timedelta, or seconds), sliding, user_id, keys, redact, audit: see `ChatHistories`.
    """

    def __init__(self, session_id: str, path: str | Path = "chat_history.sqlite3", **options: Any) -> None:
        super().__init__(SQLiteStore(path), session_id, **options)


class RedisChatMessageHistory(_NamedHistory):
    """A conversation in Redis, over a pool that all histories with the same URL share.

    key_prefix: what every key begins with.
    client, async_client: yours, instead of a URL; they are never closed.
    ttl (a timedelta, or seconds), sliding, user_id, keys, redact, audit: see `ChatHistories`.
    """

    def __init__(
        self,
        session_id: str,
        url: str = "redis://localhost:6379/0",
        *,
        key_prefix: str = "lch",
        client: Any = None,
        async_client: Any = None,
        **options: Any,
    ) -> None:
        from lc_history.stores.redis import RedisStore

        if client is None and async_client is None:
            store = RedisStore.from_url(url, key_prefix=key_prefix)
        else:
            store = RedisStore(client, async_client, key_prefix=key_prefix)
        super().__init__(store, session_id, **options)


class PostgresChatMessageHistory(_NamedHistory):
    """A conversation in PostgreSQL; ``history.store.migrate()`` or ``lc-history migrate`` makes the tables.

    schema: where the tables stand; the connection's own by default.
    ttl (a timedelta, or seconds), sliding, user_id, keys, redact, audit: see `ChatHistories`.
    """

    def __init__(
        self,
        session_id: str,
        url: str = "postgresql://localhost/postgres",
        *,
        schema: str | None = None,
        **options: Any,
    ) -> None:
        from lc_history.stores.postgres import PostgresStore

        super().__init__(PostgresStore.from_url(url, schema=schema), session_id, **options)


class FirestoreChatMessageHistory(_NamedHistory):
    """A conversation in Firestore, one document per message.

    client, async_client: yours; otherwise one is made for ``project`` with the application's default credentials.
    collection: what the names of all collections begin with.
    ttl (a timedelta, or seconds), sliding, user_id, keys, redact, audit: see `ChatHistories`.
    """

    def __init__(
        self,
        session_id: str,
        *,
        client: firestore.Client | None = None,
        async_client: firestore.AsyncClient | None = None,
        collection: str = "lch",
        project: str | None = None,
        **options: Any,
    ) -> None:
        from lc_history.stores.firestore import FirestoreStore

        if client is None and async_client is None:
            if project is None:
                message = "give a client=, an async_client= or a project="
                raise ValueError(message)
            store = FirestoreStore.from_url(f"firestore://{project}?{urlencode({'prefix': collection})}")
        else:
            store = FirestoreStore(client, async_client, prefix=collection)
        super().__init__(store, session_id, **options)


class DynamoDBChatMessageHistory(_NamedHistory):
    """A conversation in a DynamoDB table, one item per message; ``lc-history migrate`` makes the table.

    client: a boto3 client of yours, instead of a region and an endpoint.
    ttl (a timedelta, or seconds), sliding, user_id, keys, redact, audit: see `ChatHistories`.
    """

    def __init__(
        self,
        table_name: str,
        session_id: str,
        *,
        client: Any = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        **options: Any,
    ) -> None:
        from lc_history.stores.dynamodb import DynamoDBStore

        if client is None:
            given = {"region": region, "endpoint_url": endpoint_url}
            query = urlencode({name: value for name, value in given.items() if value is not None})
            store = DynamoDBStore.from_url(f"dynamodb://{table_name}?{query}")
        else:
            store = DynamoDBStore(table=table_name, client=client)
        super().__init__(store, session_id, **options)
