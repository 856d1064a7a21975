"""One conversation as messages: redacted, encoded, sealed and appended to a store; opened and decoded again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from json import loads
from typing import Any, Literal
from uuid import uuid4

import orjson
from langchain_core.messages import BaseMessage, RemoveMessage

from lc_history.bridge import breathe
from lc_history.codec import Codec
from lc_history.codec.plain import exact_json
from lc_history.errors import ConflictError, DecodeError
from lc_history.model import (
    ALL_MESSAGES,
    MESSAGES,
    Appended,
    Entry,
    Expiry,
    Lane,
    Record,
    SessionInfo,
    SessionKey,
    several,
)
from lc_history.privacy.audit import Action, AuditTrail
from lc_history.privacy.keyring import Keyring, bound_to, is_sealed
from lc_history.reading import Label, Note, Reading, Said, Unreadable
from lc_history.store import Store

logger = logging.getLogger("lc_history")

SLICE = 200
"""Messages decoded before the event loop gets a turn: about 2 ms."""

QUARANTINED = b"\x00quarantined"
"""The body left in place of one that `doctor` has set aside."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is done to messages on their way into the store and out of it, the same for all sessions of a kind.

    redact: applied to every message before it is stored; returns the message to keep.
    keys: seals every body, bound to its place; then nothing unsealed is read.
    expiry: how long a session lives; None keeps it.
    audit: where it is recorded who did what, before it is done; what cannot be recorded is not done.
    unreadable: "raise" a `DecodeError`, or "report" it (a warning in the log, and in `Reading.unreadable`) and read
        on. A wrong key or a damaged seal always raises.
    """

    redact: Callable[[BaseMessage], BaseMessage] | None = None
    keys: Keyring | None = None
    expiry: Expiry | None = None
    audit: AuditTrail | None = None
    unreadable: Literal["raise", "report"] = "raise"
    codec: Codec = field(default_factory=Codec)

    def __post_init__(self) -> None:
        if self.unreadable not in ("raise", "report"):
            raise ValueError(f"unreadable must be 'raise' or 'report', not {self.unreadable!r}")


class Transcript:
    """One conversation of one user, whole and append-only.

    >>> from langchain_core.messages import HumanMessage
    >>> from lc_history.bridge import drive
    >>> from lc_history.stores.memory import MemoryStore
    >>> transcript = Transcript(MemoryStore(), SessionKey("ann", "s1"))
    >>> drive(transcript.append([HumanMessage("hello")])).seqs
    (1,)
    >>> drive(transcript.read()).messages[0].content
    'hello'
    """

    def __init__(self, store: Store, key: SessionKey, policy: Policy | None = None) -> None:
        self.store, self.key, self.policy = store, key, policy or Policy()

    async def append(
        self,
        messages: Sequence[BaseMessage],
        *,
        ids: Sequence[str] | None = None,
        expected_seq: int | None = None,
        not_erased_since: int | None = None,
    ) -> Appended:
        """Append messages as one atomic turn, each id once, and return their numbers and which were new.

        A message without an id gets one here, so that appending the same object again changes nothing.
        ids: the idempotency keys, where they are to differ from the messages' own ids.
        Conditions and errors are those of `Store.append`.
        """
        said = list(messages)  # an iterator gives them once
        if not all(isinstance(one, BaseMessage) for one in said):
            raise TypeError(f"expected a list of messages, not {messages!r:.80}: make each a HumanMessage")
        give_ids(said)
        names = [record_id(message) for message in said] if ids is None else several("ids", ids, str)
        entries = self.entries(said, ids=names)
        await self.record("append", ids=names)
        return await self.store.append(
            self.key,
            entries,
            expiry=self.policy.expiry,
            expected_seq=expected_seq,
            not_erased_since=not_erased_since,
        )

    def entries(self, messages: Sequence[BaseMessage], *, ids: Sequence[str]) -> list[Entry]:
        """Return messages as they are stored: redacted, encoded, and sealed to their ids."""
        return [
            Entry(name, self.sealed(self._encoded(message), MESSAGES, name))
            for message, name in zip(messages, ids, strict=True)
        ]

    async def read(
        self,
        *,
        after: int = 0,
        before: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> Reading:
        """Return the messages with ``after < seq < before``: all, the first so many or the last so many."""
        await self.record("read", after=after, before=before, first=first, last=last)
        found = await self.store.read(self.key, after=after, before=before, first=first, last=last)
        said: list[Said] = []
        unreadable: list[Unreadable] = []
        decode, sealed = self.policy.codec.decode, self.policy.keys is not None
        for end in range(SLICE, len(found.records) + SLICE, SLICE):
            for record in found.records[end - SLICE : end]:
                seq, name, body, created_at = record
                try:
                    said.append(Said(seq, name, created_at, decode(self.opened(record, MESSAGES) if sealed else body)))
                except DecodeError as error:
                    unreadable.append(self._unreadable(record, error))
            if end <= len(found.records):
                await breathe()
        return Reading(said, found.last_seq, unreadable)

    async def find(self, ids: Sequence[str]) -> list[int]:
        """Return the numbers of those messages, or nothing unless all of them are there; reads no body."""
        try:
            probe = [Entry(name, b"") for name in several("ids", ids, str)]
            return list((await self.store.append(self.key, probe, expected_seq=-1, create=False)).seqs)
        except ConflictError:  # "the conditions are judged only if an entry is new"
            return []

    async def stored(self, turn_id: str, part: str) -> list[Said]:
        """Return what a turn of that id has stored in one of its parts, however long ago; up to 100 messages."""
        for seq in await self.find([f"{turn_id}/{part}/0"]):
            later = await self.read(after=seq - 1, first=100)
            return list(takewhile(lambda one: one.belongs_to(turn_id, part), later.said))
        return []

    async def erase(self, *, through: int | None = None) -> int:
        """Erase the session with everything that belongs to it, or its messages up to a number; return how many.

        Summaries tell of what is erased, so they go too; a strategy makes them anew from what is left.
        """
        await self.record("erase", through=through)
        erased = await self.store.delete(self.key, through=through)
        if through is not None:
            await self.forget("summaries")
        return erased

    async def forget(self, lane: Lane) -> None:
        """Erase the side records of one lane."""
        await self.record("erase", lane=lane)
        if last_seq := (await self.store.read(self.key, lane=lane, last=1)).last_seq:
            await self.store.delete(self.key, through=last_seq, lane=lane)

    async def note(self, lane: Lane, note_id: str, value: Any, *, not_erased_since: int | None = None) -> bool:
        """Keep JSON data beside the conversation, once per id; return whether it was new.

        `ConflictError` where the session is gone: a side record never brings one back.
        """
        entry = Entry(note_id, self.sealed(orjson.dumps(value), lane, note_id))
        await self.record("append", lane=lane, ids=[note_id])
        placed = await self.store.append(self.key, [entry], lane=lane, not_erased_since=not_erased_since, create=False)
        return placed.new[0]

    async def notes(self, lane: Lane, *, last: int | None = None) -> list[Note]:
        """Return the side records of one lane, ascending."""
        await self.record("read", lane=lane, last=last)
        found = await self.store.read(self.key, lane=lane, last=last)
        return [Note(record.seq, record.id, orjson.loads(self.opened(record, lane))) for record in found.records]

    async def info(self) -> tuple[SessionInfo, Label] | None:
        """Return what is known of the session without reading a message; None where there is none."""
        info = await self.store.describe(self.key)
        return None if info is None else (info, self.label(info))

    async def describe(
        self, label: Label | None = None, *, archived: bool | None = None, create: bool = False
    ) -> tuple[SessionInfo, Label] | None:
        """Change the label or archive the session; None where there is none."""
        description = None if label is None else self.description(label)
        if label is not None or archived is not None:
            await self.record("describe", label=None if label is None else True, archived=archived)
        info = await self.store.describe(self.key, description=description, archived=archived, create=create)
        return None if info is None else (info, self.label(info))

    async def record(self, action: Action, **detail: Any) -> None:
        """Record in the audit trail, where there is one, what is about to be done; None in the detail is left out."""
        if self.policy.audit is not None:
            await self.policy.audit.before(self.store, self.key, action, **detail)

    def description(self, label: Label) -> bytes:
        """Return a label as a store keeps it; `TypeError` for what would not come back as it is, such as a tuple."""
        data = {"title": label.title, "tags": list(label.tags), "metadata": label.metadata}
        return self.sealed(exact_json(data), "description", "")

    def label(self, info: SessionInfo) -> Label:
        """Read the label out of a session's description."""
        if not info.description:
            return Label()
        record = Record(0, "", info.description, info.created_at)
        data = loads(self.opened(record, "description").decode("utf-8", "surrogatepass"))
        return Label(data["title"], tuple(data["tags"]), data["metadata"])

    def _encoded(self, message: BaseMessage) -> bytes:
        return self.policy.codec.encode(self.policy.redact(message) if self.policy.redact else message)

    def sealed(self, body: bytes, lane: str, name: str) -> bytes:
        """Return a body as it is stored: sealed and bound to its place, where there are keys."""
        keys = self.policy.keys
        return keys.seal(body, bound_to(self.key, lane, name)) if keys else body

    def opened(self, record: Record, lane: str) -> bytes:
        """Return a stored body as it was given; `DecodeError` when a key is missing or the seal is damaged."""
        keys = self.policy.keys
        if keys is None:
            if is_sealed(record.body):
                raise DecodeError(f"record {record.seq} of {self.key} is sealed: give keys=, the keyring that did it")
            return record.body
        try:
            return keys.open(record.body, bound_to(self.key, lane, record.id))
        except DecodeError as error:
            message = f"record {record.seq} of {self.key} cannot be opened: {error}"
            raise DecodeError(message) from error

    def _unreadable(self, record: Record, error: DecodeError) -> Unreadable:
        """Return a record that is read past, or raise what keeps it from being read."""
        if record.body == QUARANTINED:
            return Unreadable(record.seq, record.id, "set aside by the doctor")
        self.opened(record, MESSAGES)  # a wrong key or a damaged seal always raises
        message = f"message {record.seq} of {self.key} cannot be read: {error}; see 'lc-history doctor'"
        if self.policy.unreadable == "raise":
            raise DecodeError(message) from error
        logger.warning(message)
        return Unreadable(record.seq, record.id, str(error))


def give_ids(messages: Iterable[BaseMessage]) -> None:
    """Give each message that has no id one, by which it is known from then on."""
    for message in messages:
        if not message.id:  # some servers answer with an empty one
            message.id = str(uuid4())


def record_id(message: BaseMessage) -> str:
    """Return the idempotency key of a message: its id, apart from what it may remove; all can be removed again."""
    if not isinstance(message, RemoveMessage):
        return str(message.id)
    return f"remove:{message.id}" + (f":{uuid4()}" if message.id == ALL_MESSAGES else "")
