"""The documents of one session in Firestore: its head, its records, and the pieces of large bodies.

All lie in one collection. In the field of its lane a record has its place (life and number), and the head has
one above all places in every lane, so that one descending query answers the head and then the newest records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, Final

from typing_extensions import override

from lc_history.bridge import collect, settle
from lc_history.errors import StoreError, TooLargeError, extra
from lc_history.model import LANES, MESSAGES, Entry, Lane, Record, SessionCopy, SessionKey, microseconds, moment
from lc_history.stores.documents.listings import HIGHEST, digest, listed_at
from lc_history.stores.documents.session import Found, Seen, Session, see, split
from lc_history.stores.heads import Head, seq_at, spelled, unspelled

with extra("firestore"):
    from google.api_core import exceptions as google
    from google.cloud.firestore import DELETE_FIELD, And, FieldFilter, Query

COMMIT_BYTES: Final = 3_500_000
"""In one commit: Firestore takes 10 MiB, its emulator 4."""
COMMIT_DOCUMENTS: Final = 400
RECORD_BYTES: Final = 512
"""What a record adds to its body and id in a commit."""
PIECE_BYTES: Final = 900_000
"""Of one body in one document, which may have 1 MiB with its names and fields."""
SECONDS: Final = 20.0
"""How long one call may take."""
RIVALS: Final = (google.Aborted, google.AlreadyExists, google.FailedPrecondition, google.NotFound)
"""Somebody else has written between our read and our write."""
ONCE: Final[dict[str, Any]] = {"retry": None, "timeout": SECONDS}
"""The store itself tries again, for it knows what is safe and for how long."""


@dataclass(frozen=True, slots=True)
class Write:
    """A document to be written; create: not if it is there already."""

    document: Any
    fields: dict[str, Any]
    create: bool = False


def read_at(snapshot: Any) -> datetime:
    """Return when the server read a document; a query of a collection group gives the bare protocol's type."""
    time = snapshot.read_time
    return moment(microseconds(time.ToDatetime(UTC) if hasattr(time, "ToDatetime") else time))


class FirestoreSession(Session):
    """The documents of one session, by a client of either kind."""

    def __init__(self, client: Any, prefix: str, *, key: SessionKey) -> None:
        self._client, self._key = client, key
        name = digest(key.user_id, key.session_id)
        self._all = client.collection(f"{prefix}_sessions", name, f"{prefix}_documents")
        self._head = self._all.document("head")

    @override
    async def look(self) -> Seen:
        snapshot = await settle(self._head.get(**ONCE))
        return see(snapshot.get("state") if snapshot.exists else None, read_at(snapshot), snapshot)

    @override
    async def newest(self, lane: Lane, count: int | None) -> tuple[Seen, list[Found]]:
        query = self._all.order_by(lane, direction=Query.DESCENDING)
        found = list(await settle((query if count is None else query.limit(count + 1)).get(**ONCE)))
        if not found or found[0].id != "head":
            return await self.look(), []
        seen = see(found[0].get("state"), read_at(found[0]), found[0])
        return seen, [Found(each.get(lane), each) for each in found[1:]]

    @override
    async def between(
        self, seen: Seen, lane: Lane, lowest: str, highest: str, *, first: int | None = None, last: int | None = None
    ) -> list[Found]:
        query = self._range(lane, lowest, highest)
        query = query.order_by(lane, direction=Query.ASCENDING if last is None else Query.DESCENDING)
        query = query.limit(first or last) if first or last else query
        found = await settle(query.get(read_time=seen.mark.read_time, **ONCE))
        return [Found(each.get(lane), each) for each in (found if last is None else reversed(found))]

    def _range(self, lane: Lane, lowest: str, highest: str) -> Any:
        return self._all.where(filter=And([FieldFilter(lane, ">=", lowest), FieldFilter(lane, "<=", highest)]))

    @override
    async def records(self, seen: Seen, found: Sequence[Found], lane: Lane) -> list[Record]:
        fields = [each.document.to_dict() for each in found]
        names = [name for each in fields for name in _pieces(each)]
        pieces: dict[str, bytes] = {}
        if names:
            wanted = [self._all.document(name) for name in names]
            answer = await settle(self._client.get_all(wanted, read_time=seen.mark.read_time, **ONCE))
            pieces = {piece.id: piece.get("body") for piece in await collect(answer) if piece.exists}
        return [self._record(each, lane, pieces) for each in fields]

    def _record(self, fields: dict[str, Any], lane: Lane, pieces: dict[str, bytes]) -> Record:
        seq = seq_at(fields[lane])
        try:
            body = b"".join([fields["body"], *(pieces[name] for name in _pieces(fields))])
            return Record(seq, unspelled(fields["id"]), body, moment(fields["at"]))
        except (KeyError, TypeError, ValueError) as error:
            message = f"number {seq} in the {lane} of {self._key} is damaged: {type(error).__name__} {error}"
            raise StoreError(message) from error

    @override
    async def numbers(self, head: Head, lane: Lane, entries: Sequence[Entry]) -> tuple[dict[str, int], set[str]]:
        names = {self._name(head.life, lane, entry.id).id: entry.id for entry in entries}
        wanted = [self._all.document(name) for name in names]
        found = await collect(await settle(self._client.get_all(wanted, [lane], **ONCE)))
        numbers = {names[each.id]: seq_at(each.get(lane)) for each in found if each.exists}
        there = {id_: seq for id_, seq in numbers.items() if head.shows(lane, seq)}
        return there, numbers.keys() - there.keys()

    def _name(self, life: str, lane: Lane, id_: str) -> Any:
        return self._all.document(f"{life}.{lane}.{digest(id_)}")

    @override
    async def change(
        self,
        seen: Seen,
        head: Head,
        *,
        lane: Lane = MESSAGES,
        records: Sequence[Record] = (),
        over: Collection[str] = (),
    ) -> None:
        before = seen.head
        if before.collect_at and not head.collect_at and head.life == before.life and not before.empty:
            await self._keep(head, before.collect_at)
        writes, pieces = self.written(head, lane, records, over=over)
        await self.commit_each(pieces)
        await self._commit(writes, head, seen)
        if head.alive and before.life not in ("", head.life):
            await self._clear(self._earlier(head), at_most=COMMIT_DOCUMENTS)

    @override
    async def replace(self, seen: Seen, head: Head, found: Found, body: bytes) -> None:
        fields, pieces = self._stored(head, body, apart=len(body) > PIECE_BYTES)
        await self.commit_each(pieces)
        batch = self._client.batch()
        self._put_head(batch, head, seen)
        batch.update(found.document.reference, {"token": DELETE_FIELD, **fields})
        for name in _pieces(found.document.to_dict()):
            batch.delete(self._all.document(name))
        await settle(batch.commit(**ONCE))

    @override
    async def trim(self, seen: Seen, head: Head, lane: Lane, highest: int) -> int:
        first = head.lanes[lane].first_seq
        gone = 0
        if highest >= first:
            count = self._range(lane, head.place(first), head.place(highest)).count()
            gone = int((await settle(count.get(**ONCE)))[0][0].value)
            head.trim(lane, highest, gone)
            await self._commit([], head, seen)
        hidden = self._range(lane, head.place(0), head.place(highest))
        try:
            await self._clear(hidden, trimmed=True)
        except RIVALS:  # one of the ids has come again, and its document shows a new record
            await self._clear(hidden, trimmed=True)
        return gone

    @override
    async def load(self, seen: Seen, head: Head, copy: SessionCopy) -> None:
        for lane, slice_ in copy.lanes.items():
            for records in split(slice_.records, COMMIT_DOCUMENTS):
                writes, pieces = self.written(head, lane, records)
                await self.commit_each([*pieces, *writes])
        await self._commit([], head, seen)

    @override
    async def clear(self, head: Head) -> None:
        await self._clear(self._earlier(head))

    def _earlier(self, head: Head) -> Any:
        return self._all.where(filter=FieldFilter("life", "<", head.life))

    def written(
        self, head: Head, lane: Lane, records: Sequence[Record], *, over: Collection[str] = ()
    ) -> tuple[list[Write], list[Write]]:
        """Return what is to be written for records, small enough for one commit, and what must be written before."""
        room = COMMIT_BYTES - sum(RECORD_BYTES + len(spelled(record.id)) for record in records)
        if room < 0:
            message = f"a turn of {len(records):,} messages for {self._key} is too large: append it in several"
            raise TooLargeError(message)
        room -= sum(len(record.body) for record in records)
        writes, pieces = [], list[Write]()
        for record in sorted(records, key=lambda record: -len(record.body)):
            apart = room < 0 or len(record.body) > PIECE_BYTES
            room += len(record.body) if apart else 0
            stored, parts = self._stored(head, record.body, apart=apart)
            pieces += parts
            place = {lane: head.place(record.seq), "id": spelled(record.id), "at": microseconds(record.created_at)}
            name = self._name(head.life, lane, record.id)
            writes.append(Write(name, place | stored, create=record.id not in over))
        return writes, pieces

    def _stored(self, head: Head, body: bytes, *, apart: bool) -> tuple[dict[str, Any], list[Write]]:
        """Return the fields that hold a body, and the pieces to write first if it is to lie apart."""
        fields: dict[str, Any] = {"life": head.life, "body": body, "expires_at": head.collect_at, "pieces": 0}
        if not apart:
            return fields, []
        token, pieces = f"{head.life}.{token_hex(12)}", split(body, PIECE_BYTES)
        writes = [
            Write(self._all.document(f"{token}.{number}"), fields | {"body": piece})
            for number, piece in enumerate(pieces)
        ]
        return fields | {"body": b"", "token": token, "pieces": len(pieces)}, writes

    async def _commit(self, writes: Iterable[Write], head: Head | None = None, seen: Seen | None = None) -> None:
        batch = self._client.batch()
        if head and seen:
            self._put_head(batch, head, seen)
        for write in writes:
            (batch.create if write.create else batch.set)(write.document, write.fields)
        await settle(batch.commit(**ONCE))

    async def commit_each(self, writes: Sequence[Write]) -> None:
        """Write in as many commits as it takes what no head shows yet."""
        waiting: list[Write] = []
        room = COMMIT_BYTES
        for write in writes:
            size = RECORD_BYTES + len(write.fields["body"]) + len(write.fields.get("id", ""))
            if waiting and (room < size or len(waiting) == COMMIT_DOCUMENTS):
                await self._commit(waiting)
                waiting, room = [], COMMIT_BYTES
            waiting.append(write)
            room -= size
        if waiting:
            await self._commit(waiting)

    def _put_head(self, batch: Any, head: Head, seen: Seen) -> None:
        listed: dict[str, Any] = {"user": None, "listed": None, "archived": None}
        if head.alive:
            at = listed_at(head, self._key)
            listed = {"user": digest(self._key.user_id), "listed": at, "archived": head.archived}
        fields: dict[str, Any] = dict.fromkeys(LANES, HIGHEST)
        fields |= {"state": head.dumps(self._key), "expires_at": head.collect_at}
        if not seen.mark.exists:
            batch.create(self._head, fields | listed)
        else:
            unchanged = self._client.write_option(last_update_time=seen.mark.update_time)
            batch.update(self._head, fields | listed, option=unchanged)

    async def _keep(self, head: Head, until: datetime) -> None:
        # The server is no longer to collect the records of this life.
        due = And([FieldFilter("life", "==", head.life), FieldFilter("expires_at", "==", until)])
        query = self._all.where(filter=due).select([]).limit(COMMIT_DOCUMENTS)
        while found := list(await settle(query.get(**ONCE))):
            batch = self._client.batch()
            for each in found:
                batch.update(each.reference, {"expires_at": None})
            await settle(batch.commit(**ONCE))

    async def _clear(self, query: Any, *, trimmed: bool = False, at_most: int | None = None) -> None:
        query = query.select(["pieces", "token"]).limit(COMMIT_DOCUMENTS)
        done = 0
        while found := list(await settle(query.get(**ONCE))):
            batch = self._client.batch()
            for each in found:
                unchanged = self._client.write_option(last_update_time=each.update_time) if trimmed else None
                batch.delete(each.reference, option=unchanged)
                for name in _pieces(each.to_dict()) if trimmed else ():
                    batch.delete(self._all.document(name))
            await settle(batch.commit(**ONCE))
            done += len(found)
            if len(found) < COMMIT_DOCUMENTS or (at_most is not None and done >= at_most):
                return


def _pieces(fields: dict[str, Any]) -> Iterator[str]:
    """Return the names of the documents that the rest of a body lies in."""
    return (f"{fields['token']}.{number}" for number in range(fields.get("pieces", 0)))
