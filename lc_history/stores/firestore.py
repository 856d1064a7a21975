"""A store on Firestore: one document per message, and a head that every write reads first and compares at last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from lc_history.bridge import Clients, settle
from lc_history.errors import ConflictError, StoreError, StoreUnavailableError, extra
from lc_history.model import (
    MESSAGES,
    Appended,
    Entry,
    Expiry,
    Lane,
    Record,
    SessionCopy,
    SessionInfo,
    SessionKey,
    SessionPage,
    Slice,
)
from lc_history.store import Store, check_range, check_sizes
from lc_history.stores.conditions import check_append, check_move
from lc_history.stores.firestore_documents import COMMIT_DOCUMENTS, ONCE, PIECE_BYTES, Documents, read_at
from lc_history.stores.heads import (
    ATTEMPTS,
    Head,
    appended,
    back_off,
    digest,
    listed_after,
    moment,
    new_entries,
    not_after,
    page_of,
    seq_at,
)

with extra("firestore"):
    from google.api_core import exceptions as google
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud.firestore import AsyncClient, Client, FieldFilter, Query

T = TypeVar("T")

RIVALS = (google.Aborted, google.AlreadyExists, google.FailedPrecondition, google.NotFound)
"""Somebody else has written between our read and our write."""
UNAVAILABLE = (
    google.ServerError,  # unavailable, deadline exceeded, internal
    google.TooManyRequests,
    google.Cancelled,
)
PATIENCE = 3
"""How often a call is made that gets no answer: safe, for every write compares the head."""


class FirestoreStore(Store):
    """Keeps sessions in Firestore.

    The bill of a turn of n messages: two calls (a get, a commit), one document read, n + 1 written; no older
    message is read. A read of n messages: one call, n + 1 documents read. A page of n sessions: one call, n + 1
    documents read. Ids that are already there cost one call and one read each more, a body over 900 KB one
    document more for each 900 KB, and a read by `first` or `before` one call more.

    A session's head takes about one sustained write a second; bursts queue, and give up with `ConflictError`.
    The times are the server's. `index_definitions` returns the indexes that listings need, and the policy by
    which the server collects what has expired: only where the expiry is fixed and set with the first message;
    a sliding one hides the session on time, and `delete` or its next beginning removes it.

    client, async_client: of google.cloud.firestore, for the blocking and the async door; yours to close.
    prefix: what the names of the two collections begin with.
    """

    max_body_bytes: ClassVar[int] = 32 * 1024 * 1024

    def __init__(
        self, client: Client | None = None, async_client: AsyncClient | None = None, *, prefix: str = "lch"
    ) -> None:
        self._clients: Clients[Client, AsyncClient] = Clients(
            None if client is None else lambda: client, None if async_client is None else lambda: async_client
        )
        self._prefix, self._owns_clients = prefix, False

    @classmethod
    def from_url(cls, url: str, *, prefix: str | None = None) -> Self:
        """Open ``firestore://project/database?prefix=lch``; both parts of the path may be left out.

        Credentials are the application's default ones; where FIRESTORE_EMULATOR_HOST is set, none are needed.
        """
        parts = urlsplit(url)
        given = {"project": parts.netloc or None, "database": parts.path.strip("/") or None}
        store = cls(prefix=prefix or parse_qs(parts.query).get("prefix", ["lch"])[0])
        store._clients = Clients(lambda: Client(**given), lambda: AsyncClient(**given))
        store._owns_clients = True
        return store

    @override
    async def append(
        self,
        key: SessionKey,
        entries: Sequence[Entry],
        *,
        lane: Lane = MESSAGES,
        expiry: Expiry | None = None,
        expected_seq: int | None = None,
        not_erased_since: int | None = None,
        create: bool = True,
    ) -> Appended:
        check_sizes(key, entries, self.max_body_bytes)
        documents = self._documents(key)
        conditions: dict[str, Any] = {
            "expected_seq": expected_seq,
            "not_erased_since": not_erased_since,
            "create": create,
        }

        async def attempt(number: int) -> Appended:
            seen = await documents.look()
            refusal = None
            try:
                check_append(key, seen.head, seen.head.lanes[lane].last_seq, **conditions)
            except ConflictError as error:
                refusal = error
            there: dict[str, int] = {}
            hidden: set[str] = set()
            if seen.head.alive and (number or refusal):
                # Only now: the ids of a turn are new but for retries, and then its documents cannot be created.
                there, hidden = await documents.numbers(seen.head, lane, entries)
            new = new_entries(entries, there)
            if new and refusal:
                raise refusal
            if not (new or seen.head.alive):
                return Appended((), ())
            head = seen.head.copy()
            created, renewed = head.begin(seen.now), head.renew(expiry, seen.now)
            first = head.lanes[lane].last_seq + 1
            records = [Record(seq, entry.id, entry.body, seen.now) for seq, entry in enumerate(new, first)]
            if new:
                head.add(lane, len(new), seen.now)
            if new or renewed:
                writes = await documents.written(head, lane, records, over=hidden)
                await documents.change(head, seen, writes)
            return appended(entries, there | {record.id: record.seq for record in records}, new, created=created)

        return await self._insist(key, attempt)

    @override
    async def read(
        self,
        key: SessionKey,
        *,
        lane: Lane = MESSAGES,
        after: int = 0,
        before: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> Slice:
        check_range(first, last)
        documents = self._documents(key)

        async def attempt(_: int) -> Slice:
            seen, found = None, list[Any]()
            if before is None and first is None and (last or not after):
                seen, found = await documents.newest(lane, last)
                if seen is None:
                    return Slice()
            seen = seen or await documents.look()
            highest = seen.head.lanes[lane].last_seq
            ours = [each for each in reversed(found) if _is_shown(each, seen.head, lane, after)]
            if not found or found[0].get(lane) != seen.head.place(highest):
                # Remains of a failed load lie above our records; or, on the emulator, a query was not one snapshot.
                highest = highest if before is None else before - 1
                ours = await documents.between(seen, lane, after + 1, highest, first=first, last=last)
            return Slice(await documents.records(ours, lane), seen.head.lanes[lane].last_seq)

        return await self._insist(key, attempt)

    @override
    async def replace(self, key: SessionKey, seq: int, body: bytes, *, expected: bytes, lane: Lane = MESSAGES) -> bool:
        check_sizes(key, [Entry(str(seq), body)], self.max_body_bytes)
        documents = self._documents(key)

        async def attempt(_: int) -> bool:
            seen = await documents.look()
            found = await documents.between(seen, lane, seq, seq)
            records = await documents.records(found, lane)
            if not records or records[0].body != expected:
                return False
            head = seen.head.copy()
            head.version += 1
            fields, pieces = documents.stored(head, body, apart=len(body) > PIECE_BYTES)
            await documents.commit_each(pieces)
            await documents.replace(found[0], fields, head=head, seen=seen)
            return True

        return await self._insist(key, attempt)

    @override
    async def delete(
        self,
        key: SessionKey,
        *,
        through: int | None = None,
        lane: Lane = MESSAGES,
        moved_version: int | None = None,
    ) -> int:
        documents = self._documents(key)

        async def trim(_: int) -> int:
            seen = await documents.look()
            head, state = seen.head.copy(), seen.head.lanes[lane]
            highest = min(through or 0, state.last_seq)
            if not head.alive:
                return 0
            gone = await documents.count(lane, head, highest) if highest >= state.first_seq else 0
            if gone:
                head.lanes[lane].first_seq = highest + 1
                head.count -= gone if lane == MESSAGES else 0
                head.version += 1
                await documents.commit([], head, seen)
            await documents.clear_lane(lane, head, highest)
            return gone if lane == MESSAGES else 0

        async def erase(_: int) -> int:
            seen = await documents.look()
            if moved_version is not None:
                check_move(key, seen.head if seen.head.alive else None, moved_version)
            grave = seen.head.grave(seen.now, moved=moved_version is not None)
            await documents.commit([], grave, seen)
            await documents.clear_lives(grave)
            return seen.head.count

        return await self._insist(key, erase if through is None else trim)

    @override
    async def describe(
        self,
        key: SessionKey,
        *,
        description: bytes | None = None,
        archived: bool | None = None,
        expires_at: datetime | None = None,
        create: bool = False,
    ) -> SessionInfo | None:
        documents = self._documents(key)

        async def attempt(_: int) -> SessionInfo | None:
            seen = await documents.look()
            head = seen.head.copy()
            if create:
                check_append(key, head, head.lanes[MESSAGES].last_seq)
            begun = create and head.begin(seen.now)
            if not head.alive:
                return None
            changed = (description, archived, expires_at) != (None, None, None)
            if changed:
                head.change(description=description, archived=archived, expires_at=expires_at)
            if begun or changed:
                await documents.change(head, seen)
            return head.info(key)

        return await self._insist(key, attempt)

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
    async def load(self, copy: SessionCopy, *, over_version: int | None = None) -> None:
        documents = self._documents(copy.info.key)

        async def attempt(_: int) -> None:
            seen = await documents.look()
            head = seen.head.replaced_by(copy, over_version, seen.now)
            for lane, slice_ in copy.lanes.items():
                for first in range(0, len(slice_.records), COMMIT_DOCUMENTS):
                    records = slice_.records[first : first + COMMIT_DOCUMENTS]
                    await documents.commit_each(await documents.written(head, lane, records))
            await documents.commit([], head, seen)
            if seen.update_time is not None:
                await documents.clear_lives(head)

        await self._insist(copy.info.key, attempt)

    def index_definitions(self) -> dict[str, Any]:
        """Return what listings and the collection of expired documents need, as ``firestore.indexes.json`` has it.

        Install it with ``firebase deploy --only firestore:indexes``; append, read and delete work without.
        """
        group = f"{self._prefix}_documents"

        def index(*fields: tuple[str, str]) -> dict[str, Any]:
            listed = [{"fieldPath": path, "order": order} for path, order in fields]
            return {"collectionGroup": group, "queryScope": "COLLECTION_GROUP", "fields": listed}

        def field(path: str, *orders: tuple[str, str], **more: Any) -> dict[str, Any]:
            indexes = [{"queryScope": scope, "order": order} for scope, order in orders]
            return {"collectionGroup": group, "fieldPath": path, "indexes": indexes, **more}

        owned, newest = ("user", "ASCENDING"), ("listed", "DESCENDING")
        unsearched = [field(path) for path in ("body", "state", "id", "at", "token", "pieces")]
        expiring = field("expires_at", ("COLLECTION", "ASCENDING"), ttl=True)
        return {
            "indexes": [index(owned, newest), index(owned, ("archived", "ASCENDING"), newest)],
            "fieldOverrides": [*unsearched, expiring, field("listed", ("COLLECTION_GROUP", "ASCENDING"))],
        }

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
                message = "Firestore has no index for this listing: install those of index_definitions()"
                raise StoreError(message) from error
            now = read_at(found[0]) if found else moment(0)
            return page_of([(each.get("listed"), each.get("state")) for each in found], limit, now)

        return await self._insist("the listing of sessions", attempt)

    def _client(self) -> Client | AsyncClient:
        try:
            return self._clients()
        except DefaultCredentialsError as error:
            message = (
                "there are no Google credentials: run `gcloud auth application-default login`, name a key file in "
                "GOOGLE_APPLICATION_CREDENTIALS, or set FIRESTORE_EMULATOR_HOST"
            )
            raise StoreError(message) from error

    def _documents(self, key: SessionKey) -> Documents:
        return Documents(self._client(), self._prefix, key=key)

    async def _insist(self, whose: SessionKey | str, attempt: Callable[[int], Awaitable[T]]) -> T:
        """Return what an attempt returns; try again where others were first, a bounded number of times."""
        unanswered = 0
        for number in range(ATTEMPTS):
            try:
                return await attempt(number)
            except RIVALS as error:
                rival: Exception = error
            except UNAVAILABLE as error:
                rival, unanswered = error, unanswered + 1
                if unanswered == PATIENCE:
                    message = f"Firestore did not answer for {whose} ({error.message}): try again later"
                    raise StoreUnavailableError(message) from error
            except google.GoogleAPIError as error:
                message = f"Firestore refused what was asked for {whose}: {error}"
                raise StoreError(message) from error
            await back_off(number)
        message = f"{whose} is being changed by too many at once; nothing was written: try again later"
        raise ConflictError(message) from rival


def _is_shown(snapshot: Any, head: Head, lane: Lane, after: int) -> bool:
    seq = seq_at(snapshot.get(lane))
    return seq > after and snapshot.get("life") == head.life and head.shows(lane, seq)
