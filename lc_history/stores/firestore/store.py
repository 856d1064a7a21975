"""A store on Firestore: one document per message, and a head that every write reads first and compares at last."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, ClassVar, Self

from typing_extensions import override

from lc_history.bridge import Clients, settle
from lc_history.errors import StoreError, extra
from lc_history.model import SessionKey, SessionPage, moment
from lc_history.stores.documents.insist import Verdict
from lc_history.stores.documents.listings import digest, listed_after, not_after, page_of
from lc_history.stores.documents.store import DocumentStore
from lc_history.stores.documents.url import parted
from lc_history.stores.firestore.documents import ONCE, RIVALS, FirestoreSession, read_at
from lc_history.stores.firestore.indexes import index_definitions

with extra("firestore"):
    from google.api_core import exceptions as google
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud.firestore import AsyncClient, Client, FieldFilter, Query

SILENT = (google.ServerError, google.Cancelled)
"""Unavailable, deadline exceeded: safe to repeat, for every write compares the head."""


class FirestoreStore(DocumentStore):
    """Keeps sessions in Firestore.

    The bill of a turn of n messages: two calls (a get, a commit), one document read, n + 1 written; no older
    message is read. A read of n messages: one call, n + 1 documents read. A page of n sessions: one call, n + 1
    documents read. Ids that are already there cost one call and one read each more, a body over 900 KB one
    document more for each 900 KB, and a read by `first` or `before` one call more.

    A session's head takes about one sustained write a second; bursts queue, and give up with `ConflictError`. All
    sessions together take some 500 turns a second, for their listing is an index that grows with time.
    Times are the server's. `lc_history.stores.firestore.indexes` has the indexes that listings need, and the policy
    by which the server collects what has expired. It does so where the expiry is fixed and came with the first
    message; a session with a sliding one is hidden on time and removed by `delete` or when it begins anew.

    client, async_client: of google.cloud.firestore, for the blocking and the async door; yours to close.
    prefix: what the names of the two collections begin with.

    >>> store = FirestoreStore.from_url("firestore://my-project/my-database?prefix=chat")  # connects when first used
    >>> store.max_body_bytes
    33554432
    """

    server: ClassVar[str] = "Firestore"
    max_body_bytes: ClassVar[int] = 32 * 1024 * 1024

    def __init__(
        self, client: Client | None = None, async_client: AsyncClient | None = None, *, prefix: str = "lch"
    ) -> None:
        if "/" in prefix:
            message = f"prefix {prefix!r} must have no slash: it begins the names of two collections"
            raise ValueError(message)
        self._clients: Clients[Client, AsyncClient] = Clients(
            None if client is None else lambda: client, None if async_client is None else lambda: async_client
        )
        self._prefix, self._owns_clients = prefix, False

    @classmethod
    def from_url(cls, url: str, *, prefix: str | None = None) -> Self:
        """Open ``firestore://project/database?prefix=lch``; both parts of the path may be left out.

        Credentials are the application's default ones; where FIRESTORE_EMULATOR_HOST is set, none are needed.
        """
        example = "firestore://project/database?prefix=lch"
        project, database, options = parted(url, example=example, known=("prefix",))
        if "/" in database:
            message = f"{url!r} names the database {database!r}, which must have no slash; a URL looks like {example}"
            raise ValueError(message)
        given = {"project": project or None, "database": database or None}
        store = cls(prefix=prefix or options.get("prefix", "lch"))
        store._clients = Clients(lambda: Client(**given), lambda: AsyncClient(**given))
        store._owns_clients = True
        return store

    @override
    async def sessions(
        self, user_id: str, *, archived: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> SessionPage:
        query = self._heads().where(filter=FieldFilter("user", "==", digest(user_id)))
        if archived is not None:
            query = query.where(filter=FieldFilter("archived", "==", archived))
        if cursor:
            query = query.where(filter=FieldFilter("listed", "<", listed_after(cursor)))
        return await self._page(query.order_by("listed", direction=Query.DESCENDING), limit)

    @override
    async def scan(
        self, *, idle_since: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> SessionPage:
        query = self._heads().where(filter=FieldFilter("listed", ">", listed_after(cursor)))
        query = query.where(filter=FieldFilter("listed", "<", not_after(idle_since)))
        return await self._page(query.order_by("listed"), limit)

    @override
    def session(self, key: SessionKey) -> FirestoreSession:
        return FirestoreSession(self._client(), self._prefix, key=key)

    @override
    def verdict(self, error: Exception) -> Verdict:
        if isinstance(error, google.NotFound) and "does not exist for project" in str(error):
            return Verdict.REFUSED  # the database itself
        if isinstance(error, RIVALS):
            return Verdict.RIVAL
        if isinstance(error, google.TooManyRequests):
            return Verdict.BUSY
        if isinstance(error, SILENT):
            return Verdict.SILENT
        return Verdict.REFUSED if isinstance(error, google.GoogleAPIError) else Verdict.FOREIGN

    @override
    def migration(self) -> str:
        return json.dumps(index_definitions(self._prefix), indent=2)

    @override
    async def close(self) -> None:
        for client in self._clients.made() if self._owns_clients else ():
            # Its own close() leaves the channel open.
            await settle(client._firestore_api.transport.close())  # noqa: SLF001

    def _heads(self) -> Any:
        return self._client().collection_group(f"{self._prefix}_documents")

    async def _page(self, query: Any, limit: int) -> SessionPage:
        async def attempt(_: int) -> SessionPage:
            try:
                found = list(await settle(query.limit(limit + 1).get(**ONCE)))
            except google.FailedPrecondition as error:
                message = (
                    "Firestore has no index for this listing: install those of lc_history.stores.firestore.indexes"
                )
                raise StoreError(message) from error
            now = read_at(found[0]) if found else moment(0)
            return page_of([(each.get("listed"), each.get("state")) for each in found], limit, now)

        return await self.insist("the listing of sessions", attempt)

    def _client(self) -> Client | AsyncClient:
        try:
            return self._clients()
        except DefaultCredentialsError as error:
            message = (
                "there are no Google credentials: run `gcloud auth application-default login`, name a key file in "
                "GOOGLE_APPLICATION_CREDENTIALS, or set FIRESTORE_EMULATOR_HOST"
            )
            raise StoreError(message) from error
