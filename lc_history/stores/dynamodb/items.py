"""The items of one session in DynamoDB: its head, its records, a marker for each id, and pieces of large bodies.

All lie in one partition, each at ``kind:life.rest``. The head lies right after the messages, so that one
descending query answers it and then the newest messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from math import ceil
from secrets import token_hex
from typing import Any, Final

from typing_extensions import override

from lc_history.errors import StoreError
from lc_history.model import MESSAGES, Entry, Lane, Record, SessionCopy, SessionKey, microseconds, moment
from lc_history.stores.documents.insist import AgainError
from lc_history.stores.documents.listings import HIGHEST, digest, listed_at
from lc_history.stores.documents.session import Found, Seen, Session, see, split
from lc_history.stores.dynamodb.table import Item, Table, transactions
from lc_history.stores.heads import Head, seq_at, spelled, unspelled

HEAD: Final = f"{MESSAGES}{HIGHEST}"
PIECE_BYTES: Final = 350_000
"""Of one body in one item, which may have 400 KB with its names and attributes."""
SHARDS: Final = 4
"""Of the index of all sessions; each takes some 500 turns a second."""
PATIENT_ATTEMPTS: Final = 8
"""How often a change waits for a large turn that is being written before it goes first: about a second."""
LIFE_CHARACTERS: Final = 26
NAMES: Final = {"#session": "session", "#place": "place"}


class DynamoDBSession(Session):
    """The items of one session.

    The mark of the head is new with every write of it; ``busy`` in it names the writer of a large turn.
    """

    def __init__(self, table: Table, *, key: SessionKey) -> None:
        self._table, self._key = table, key
        self._name = {"S": digest(key.user_id, key.session_id)}
        self._writer, self._waited = token_hex(8), 0

    def _at(self, place: str) -> Item:
        return {"session": self._name, "place": {"S": place}}

    @override
    async def look(self) -> Seen:
        answer = await self._table.on_item("get_item", Key=self._at(HEAD), ConsistentRead=True)
        return self._see(answer.get("Item", {}))

    def _see(self, item: Item) -> Seen:
        return see(item["state"]["S"] if item else None, datetime.now(UTC), item)

    @override
    async def newest(self, lane: Lane, count: int | None) -> tuple[Seen, list[Found]] | None:
        if lane != MESSAGES:
            return None
        limit = None if count is None else count + 1
        found = await self._range(f"{lane}:", HEAD, limit=limit, ScanIndexForward=False)
        if not found or found[0]["place"]["S"] != HEAD:
            return await self.look(), []
        return self._see(found[0]), [_found(item) for item in found[1:]]

    @override
    async def between(
        self, seen: Seen, lane: Lane, lowest: str, highest: str, *, first: int | None = None, last: int | None = None
    ) -> list[Found]:
        forward = last is None
        found = await self._range(
            f"{lane}:{lowest}", f"{lane}:{highest}", limit=first or last, ScanIndexForward=forward
        )
        return [_found(item) for item in (found if forward else reversed(found))]

    async def _range(self, lowest: str, highest: str, *, limit: int | None = None, **parameters: Any) -> list[Item]:
        return await self._table.query(
            limit=limit,
            ConsistentRead=True,
            KeyConditionExpression="#session = :session AND #place BETWEEN :lowest AND :highest",
            ExpressionAttributeNames=NAMES,
            ExpressionAttributeValues={":session": self._name, ":lowest": {"S": lowest}, ":highest": {"S": highest}},
            **parameters,
        )

    @override
    async def overtaken(self, seen: Seen) -> bool:
        return bool((await self.look()).mark != seen.mark)

    @override
    async def records(self, seen: Seen, found: Sequence[Found], lane: Lane) -> list[Record]:
        wanted = [self._at(place) for each in found for place in _pieces(each.document)]
        pieces = {item["place"]["S"]: item["body"]["B"] for item in await self._table.get(wanted)}
        if len(pieces) < len(wanted) and await self.overtaken(seen):
            raise AgainError
        return [self._record(each.document, lane, pieces) for each in found]

    def _record(self, item: Item, lane: Lane, pieces: dict[str, bytes]) -> Record:
        seq = seq_at(item["place"]["S"])
        try:
            inline = item["body"]["B"] if "body" in item else b""
            body = b"".join([inline, *(pieces[place] for place in _pieces(item))])
            if len(body) != int(item["bytes"]["N"]):
                raise ValueError(f"has {len(body):,} bytes instead of {item['bytes']['N']}")  # noqa: TRY301
            return Record(seq, unspelled(item["id"]["S"]), body, moment(int(item["at"]["N"])))
        except (KeyError, TypeError, ValueError) as error:
            message = f"number {seq} in the {lane} of {self._key} is damaged: {type(error).__name__} {error}"
            raise StoreError(message) from error

    @override
    async def numbers(self, head: Head, lane: Lane, entries: Sequence[Entry]) -> tuple[dict[str, int], set[str]]:
        places = {_marker(head.life, lane, entry.id): entry.id for entry in entries}
        markers = await self._table.get([self._at(place) for place in places])
        numbers = {places[item["place"]["S"]]: int(item["seq"]["N"]) for item in markers}
        shown = [f"{lane}:{head.place(seq)}" for seq in numbers.values() if head.shows(lane, seq)]
        # The marker of a turn that was never finished may name a number that another message has got since.
        found = await self._table.get([self._at(place) for place in dict.fromkeys(shown)])
        kept = {unspelled(item["id"]["S"]): seq_at(item["place"]["S"]) for item in found}
        there = {id_: seq for id_, seq in numbers.items() if kept.get(id_) == seq}
        return there, numbers.keys() - there.keys()

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
        self._wait_for_others(seen)
        before = seen.head
        if before.collect_at and not head.collect_at and head.life == before.life and not before.empty:
            await self._keep(head)
        written = [self._written(head, lane, record) for record in records]
        await self._table.write(puts=(piece for _, _, pieces in written for piece in pieces))
        actions = list[dict[str, Item]]()
        for record, (item, marker, _) in zip(records, written, strict=True):
            condition = {} if record.id in over else {"ConditionExpression": "attribute_not_exists(place)"}
            actions += [{"Put": {"Item": item}}, {"Put": {"Item": marker, **condition}}]
        await self._commit(seen, head, actions)
        if head.alive and before.life not in ("", head.life):
            await self._clear(head, limit=self._table.transaction_items)

    def _wait_for_others(self, seen: Seen) -> None:
        busy = seen.mark.get("busy", {}).get("S", self._writer)
        if busy != self._writer and self._waited < PATIENT_ATTEMPTS:
            self._waited += 1
            raise AgainError  # a large turn is being written

    async def _commit(self, seen: Seen, head: Head, actions: Sequence[dict[str, Item]]) -> None:
        """Write in one transaction, or in several of which the last shows it; each fails when another was first."""
        if not actions:
            await self._table.on_item("put_item", Item=self._head_item(head), **_unless_changed(seen.mark))
            return
        *early, final = transactions(actions, self._table.transaction_items)
        mark = seen.mark
        if early:
            mark = self._head_item(seen.head) | {"busy": {"S": self._writer}}
            await self._table.on_item("put_item", Item=mark, **_unless_changed(seen.mark))
        for some in early:
            unchanged = {"ConditionCheck": {"Key": self._at(HEAD), **_unless_changed(mark)}}
            await self._table.transact([unchanged, *some])
        changed = {"Put": {"Item": self._head_item(head), **_unless_changed(mark)}}
        await self._table.transact([changed, *final])

    def _head_item(self, head: Head) -> Item:
        item = {**self._at(HEAD), "state": {"S": head.dumps(self._key)}, "mark": {"S": token_hex(8)}}
        if head.alive:
            item |= {"user": {"S": digest(self._key.user_id)}, "listed": {"S": listed_at(head, self._key)}}
            item |= {"shard": {"S": str(int(self._name["S"], 16) % SHARDS)}}
        return item | _expiring(head)

    def _written(self, head: Head, lane: Lane, record: Record) -> tuple[Item, Item, list[Item]]:
        """Return the item of a record, its marker, and the pieces of its body."""
        place = f"{lane}:{head.place(record.seq)}"
        known = {"id": {"S": spelled(record.id)}, "at": {"N": str(microseconds(record.created_at))}}
        stored, pieces = self._stored(head, record.body)
        marker = self._at(_marker(head.life, lane, record.id)) | {"seq": {"N": str(record.seq)}} | _expiring(head)
        return self._at(place) | known | stored, marker, pieces

    def _stored(self, head: Head, body: bytes) -> tuple[Item, list[Item]]:
        fields = {"bytes": {"N": str(len(body))}} | _expiring(head)
        if len(body) <= PIECE_BYTES:
            return fields | ({"body": {"B": body}} if body else {}), []
        token, parts = f"{head.life}.{token_hex(12)}", split(body, PIECE_BYTES)
        fields |= {"token": {"S": token}, "pieces": {"N": str(len(parts))}}
        places = [self._at(place) for place in _pieces(fields)]
        expiring = _expiring(head)
        return fields, [place | expiring | {"body": {"B": part}} for place, part in zip(places, parts, strict=True)]

    @override
    async def replace(self, seen: Seen, head: Head, found: Found, body: bytes) -> None:
        self._wait_for_others(seen)
        stored, pieces = self._stored(head, body)
        await self._table.write(puts=pieces)
        old: Item = found.document
        kept = {name: old[name] for name in ("session", "place", "id", "at")}
        await self._commit(seen, head, [{"Put": {"Item": kept | stored}}])
        await self._table.write(deletes=(self._at(place) for place in _pieces(old)))

    @override
    async def trim(self, seen: Seen, head: Head, lane: Lane, highest: int) -> int:
        self._wait_for_others(seen)
        lowest, last = f"{lane}:{head.place(0)}", f"{lane}:{head.place(highest)}"
        found = await self._range(lowest, last)
        shown = [item for item in found if head.shows(lane, seq_at(item["place"]["S"]))]
        mark = seen.mark
        for some in split(shown, self._table.transaction_items - 1):
            # With the markers, so that an id is free as soon as its message is gone, and not before.
            head.trim(lane, seq_at(some[-1]["place"]["S"]), len(some))
            markers = (_marker(head.life, lane, unspelled(item["id"]["S"])) for item in some)
            item = self._head_item(head)
            deletes = [{"Delete": {"Key": self._at(marker)}} for marker in markers]
            await self._table.transact([{"Put": {"Item": item, **_unless_changed(mark)}}, *deletes])
            mark = item
        places = (place for item in found for place in (*_pieces(item), item["place"]["S"]))
        await self._table.write(deletes=map(self._at, places))
        return len(shown)

    @override
    async def load(self, seen: Seen, head: Head, copy: SessionCopy) -> None:
        self._wait_for_others(seen)

        def items() -> Iterator[Item]:
            for lane, slice_ in copy.lanes.items():
                for record in slice_.records:
                    item, marker, pieces = self._written(head, lane, record)
                    yield from (*pieces, item, marker)

        await self._table.write(puts=items())
        await self._commit(seen, head, [])

    @override
    async def clear(self, head: Head) -> None:
        await self._clear(head)

    async def _clear(self, head: Head, *, limit: int | None = None) -> None:
        places = [place for place in await self._places(limit=limit) if "" < _life(place) < head.life]
        await self._table.write(deletes=map(self._at, places))

    async def _places(self, **parameters: Any) -> list[str]:
        found = await self._range(" ", "\x7f", ProjectionExpression="#place", **parameters)
        return [item["place"]["S"] for item in found]

    async def _keep(self, head: Head) -> None:
        # The server is no longer to collect the items of this life.
        for place in await self._places(FilterExpression="attribute_exists(expires_at)"):
            if _life(place) == head.life:
                forget = {"UpdateExpression": "REMOVE expires_at", "ConditionExpression": "attribute_exists(place)"}
                await self._table.on_item("update_item", Key=self._at(place), **forget)


def _found(item: Item) -> Found:
    return Found(item["place"]["S"].partition(":")[2], item)


def _life(place: str) -> str:
    return place.partition(":")[2][:LIFE_CHARACTERS]


def _marker(life: str, lane: Lane, id_: str) -> str:
    return f"ids:{life}.{lane}.{digest(id_)}"


def _pieces(item: Item) -> Iterable[str]:
    """Return the places of the items that a body lies in."""
    count = int(item["pieces"]["N"]) if "pieces" in item else 0
    return (f"pieces:{item['token']['S']}.{number:06}" for number in range(count))


def _expiring(head: Head) -> Item:
    """Return the attribute by which DynamoDB collects an item, in whole seconds."""
    return {"expires_at": {"N": str(ceil(head.collect_at.timestamp()))}} if head.collect_at else {}


def _unless_changed(mark: Item) -> Item:
    if not mark:
        return {"ConditionExpression": "attribute_not_exists(place)"}
    return {
        "ConditionExpression": "#mark = :mark",
        "ExpressionAttributeNames": {"#mark": "mark"},
        "ExpressionAttributeValues": {":mark": mark["mark"]},
    }
