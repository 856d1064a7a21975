"""The documents of one session in Firestore: its head, its records, and the pieces of large bodies.

All lie in one collection. In the field of its lane a record has its place (life and number), and the head has
one above all places in every lane, so that one descending query answers the head and then the newest records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any, Final

from lc_history.bridge import collect, settle
from lc_history.errors import StoreError, TooLargeError, extra
from lc_history.model import LANES, Entry, Lane, Record, SessionKey
from lc_history.stores.heads import (
    HIGHEST,
    Head,
    digest,
    listed_at,
    microseconds,
    moment,
    seq_at,
    spelled,
    split,
    unspelled,
)

with extra("firestore"):
    from google.cloud.firestore import DELETE_FIELD, And, FieldFilter, Query
    from google.protobuf.timestamp_pb2 import Timestamp

COMMIT_BYTES: Final = 3_500_000
"""In one commit: Firestore takes 10 MiB, its emulator 4."""
COMMIT_DOCUMENTS: Final = 400
RECORD_BYTES: Final = 512
"""What a record adds to its body and id in a commit."""
PIECE_BYTES: Final = 900_000
"""Of one body in one document, which may have 1 MiB with its names and fields."""
SECONDS: Final = 20.0
"""How long one call may take."""
ONCE: Final[dict[str, Any]] = {"retry": None, "timeout": SECONDS}
"""The store itself tries again, for it knows what is safe and for how long."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The head as it was at one moment of the server's; the head of an expired session reads as fresh."""

    head: Head
    now: datetime
    read_time: Any
    update_time: Any = None
    """What a change of the head must find unchanged; None where there is no document yet."""


@dataclass(frozen=True, slots=True)
class Write:
    """A document to be written; create: not if it is there already."""

    document: Any
    fields: dict[str, Any]
    create: bool = False


def read_at(snapshot: Any) -> datetime:
    """Return when the server read a document; a query of a collection group gives the bare protocol's type."""
    time = snapshot.read_time
    return moment(microseconds(time.ToDatetime(UTC) if isinstance(time, Timestamp) else time))


def seen_in(snapshot: Any) -> Seen:
    """Return the head that a snapshot shows."""
    now = read_at(snapshot)
    if not snapshot.exists:
        return Seen(Head.fresh(now), now, snapshot.read_time)
    _, head = Head.loads(snapshot.get("state"))
    if head.expires_at is not None and head.expires_at <= now:
        head = Head.fresh(now, after=head)
    return Seen(head, now, snapshot.read_time, snapshot.update_time)


class Documents:
    """The documents of one session, by a client of either kind."""

    def __init__(self, client: Any, prefix: str, *, key: SessionKey) -> None:
        self._client, self._key = client, key
        name = digest(key.user_id, key.session_id)
        self._all = client.collection(f"{prefix}_sessions", name, f"{prefix}_documents")
        self._head = self._all.document("head")

    async def look(self) -> Seen:
        """Read the head."""
        return seen_in(await settle(self._head.get(**ONCE)))

    async def newest(self, lane: Lane, count: int | None) -> tuple[Seen | None, list[Any]]:
        """Read the head and then the newest records, of whatever life, in one call."""
        query = self._all.order_by(lane, direction=Query.DESCENDING)
        found = await settle((query if count is None else query.limit(count + 1)).get(**ONCE))
        if not found or found[0].id != "head":
            return None, []
        return seen_in(found[0]), list(found[1:])

    async def between(self, seen: Seen, lane: Lane, lowest: int, highest: int, **limit: int | None) -> list[Any]:
        """Read the records that the head shows in a range of numbers, ascending, as of when the head was read."""
        state = seen.head.lanes[lane]
        lowest, highest = max(lowest, state.first_seq), min(highest, state.last_seq)
        if not seen.head.alive or lowest > highest:
            return []
        query = self._range(lane, seen.head.place(lowest), seen.head.place(highest))
        if limit.get("last"):
            found = query.order_by(lane, direction=Query.DESCENDING).limit(limit["last"])
            return list(await settle(found.get(read_time=seen.read_time, **ONCE)))[::-1]
        query = query.order_by(lane)
        query = query.limit(limit["first"]) if limit.get("first") else query
        return list(await settle(query.get(read_time=seen.read_time, **ONCE)))

    def _range(self, lane: Lane, lowest: str, highest: str) -> Any:
        return self._all.where(filter=And([FieldFilter(lane, ">=", lowest), FieldFilter(lane, "<=", highest)]))

    async def count(self, lane: Lane, head: Head, through: int) -> int:
        """Count the records that the head shows up to a number, without reading them."""
        query = self._range(lane, head.place(head.lanes[lane].first_seq), head.place(through))
        return int((await settle(query.count().get(**ONCE)))[0][0].value)

    async def records(self, found: Sequence[Any], lane: Lane) -> list[Record]:
        """Return the records, with the bodies that lie in pieces put together."""
        fields = [snapshot.to_dict() for snapshot in found]
        names = [name for each in fields for name in _pieces(each)]
        pieces: dict[str, bytes] = {}
        if names:
            wanted = [self._all.document(name) for name in names]
            answer = await settle(self._client.get_all(wanted, read_time=found[0].read_time, **ONCE))
            pieces = {piece.id: piece.get("body") for piece in await collect(answer) if piece.exists}
        return [self._record(each, lane, pieces) for each in fields]

    def _record(self, fields: dict[str, Any], lane: Lane, pieces: dict[str, bytes]) -> Record:
        seq = seq_at(fields[lane])
        missing = [name for name in _pieces(fields) if name not in pieces]
        if missing:
            message = f"number {seq} in the {lane} of {self._key} has lost {len(missing)} of its pieces"
            raise StoreError(message)
        body = fields["body"] + b"".join(pieces[name] for name in _pieces(fields))
        return Record(seq, unspelled(fields["id"]), body, moment(fields["at"]))

    async def numbers(self, head: Head, lane: Lane, entries: Sequence[Entry]) -> tuple[dict[str, int], set[str]]:
        """Return the numbers of the ids that are there, and the ids whose documents are but not to be seen."""
        names = {self._name(head.life, lane, entry.id).id: entry.id for entry in entries}
        wanted = [self._all.document(name) for name in names]
        found = await collect(await settle(self._client.get_all(wanted, [lane], **ONCE)))
        numbers = {names[each.id]: seq_at(each.get(lane)) for each in found if each.exists}
        there = {id_: seq for id_, seq in numbers.items() if head.shows(lane, seq)}
        return there, numbers.keys() - there.keys()

    def _name(self, life: str, lane: Lane, id_: str) -> Any:
        return self._all.document(f"{life}.{lane}.{digest(id_)}")

    async def written(
        self, head: Head, lane: Lane, records: Sequence[Record], *, over: Iterable[str] = ()
    ) -> list[Write]:
        """Return what is to be written for the records, small enough for one commit: large bodies are written now.

        over: the ids of records whose documents are there and may be overwritten.
        """
        room = COMMIT_BYTES - sum(RECORD_BYTES + len(spelled(record.id)) for record in records)
        if room < 0:
            message = f"a turn of {len(records):,} messages for {self._key} is too large: append it in several"
            raise TooLargeError(message)
        room -= sum(len(record.body) for record in records)
        writes, pieces = [], list[Write]()
        for record in sorted(records, key=lambda record: -len(record.body)):
            apart = room < 0 or len(record.body) > PIECE_BYTES
            room += len(record.body) if apart else 0
            stored, parts = self.stored(head, record.body, apart=apart)
            pieces += parts
            place = {lane: head.place(record.seq), "id": spelled(record.id), "at": microseconds(record.created_at)}
            name = self._name(head.life, lane, record.id)
            writes.append(Write(name, place | stored, create=record.id not in over))
        await self.commit_each(pieces)
        return writes

    def stored(self, head: Head, body: bytes, *, apart: bool) -> tuple[dict[str, Any], list[Write]]:
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

    async def change(self, head: Head, seen: Seen, writes: Sequence[Write] = ()) -> None:
        """Commit a change of a session, and see to it that the server collects what is over and nothing else."""
        if seen.head.collect_at and not head.collect_at and head.life == seen.head.life and not seen.head.empty:
            await self.keep(head, seen.head.collect_at)
        await self.commit(writes, head, seen)
        if head.life != seen.head.life and seen.update_time is not None:
            await self.clear_lives(head, at_most=COMMIT_DOCUMENTS)

    async def commit(self, writes: Iterable[Write], head: Head | None = None, seen: Seen | None = None) -> None:
        """Write everything at once, and the head with it if it is still the one that was seen."""
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
                await self.commit(waiting)
                waiting, room = [], COMMIT_BYTES
            waiting.append(write)
            room -= size
        if waiting:
            await self.commit(waiting)

    def _put_head(self, batch: Any, head: Head, seen: Seen) -> None:
        listed: dict[str, Any] = {"user": None, "listed": None, "archived": None}
        if head.alive:
            at = listed_at(head, self._key)
            listed = {"user": digest(self._key.user_id), "listed": at, "archived": head.archived}
        fields: dict[str, Any] = dict.fromkeys(LANES, HIGHEST)
        fields |= {"state": head.dumps(self._key), "expires_at": head.collect_at}
        if seen.update_time is None:
            batch.create(self._head, fields | listed)
        else:
            unchanged = self._client.write_option(last_update_time=seen.update_time)
            batch.update(self._head, fields | listed, option=unchanged)

    async def replace(self, found: Any, fields: dict[str, Any], *, head: Head, seen: Seen) -> None:
        """Change one record and the head, if neither has changed since it was read."""
        batch = self._client.batch()
        self._put_head(batch, head, seen)
        unchanged = self._client.write_option(last_update_time=found.update_time)
        batch.update(found.reference, {"token": DELETE_FIELD, **fields}, option=unchanged)
        for name in _pieces(found.to_dict()):
            batch.delete(self._all.document(name))
        await settle(batch.commit(**ONCE))

    async def keep(self, head: Head, until: datetime) -> None:
        """Let the server no longer collect the records of this life, which it was to do at a time."""
        due = And([FieldFilter("life", "==", head.life), FieldFilter("expires_at", "==", until)])
        query = self._all.where(filter=due).select([]).limit(COMMIT_DOCUMENTS)
        while found := list(await settle(query.get(**ONCE))):
            batch = self._client.batch()
            for each in found:
                batch.update(each.reference, {"expires_at": None})
            await settle(batch.commit(**ONCE))

    async def clear_lane(self, lane: Lane, head: Head, through: int) -> None:
        """Delete the documents of a lane's records up to a number that the head has already put out of sight."""
        await self._clear(self._range(lane, head.place(0), head.place(through)))

    async def clear_lives(self, head: Head, *, at_most: int | None = None) -> None:
        """Delete the documents of earlier lives."""
        await self._clear(self._all.where(filter=FieldFilter("life", "<", head.life)), at_most=at_most)

    async def _clear(self, query: Any, *, at_most: int | None = None) -> None:
        query = query.select(["pieces", "token"]).limit(COMMIT_DOCUMENTS)
        done = 0
        while found := list(await settle(query.get(**ONCE))):
            batch = self._client.batch()
            for each in found:
                batch.delete(each.reference)
                for name in _pieces(each.to_dict()):
                    batch.delete(self._all.document(name))
            await settle(batch.commit(**ONCE))
            done += len(found)
            if len(found) < COMMIT_DOCUMENTS or (at_most is not None and done >= at_most):
                return


def _pieces(fields: dict[str, Any]) -> Iterator[str]:
    """Return the names of the documents that the rest of a body lies in."""
    return (f"{fields['token']}.{number}" for number in range(fields.get("pieces", 0)))
