"""The words of a thread, on their way into the transcript that `ChatHistories` lists: once, with a checkpoint.

What a checkpoint holds and its parent did not was newly said. So nothing that a state drops, sums up or rewrites is
lost, a branch adds only what is new in it, and what was erased from the transcript does not come back with the state.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any, Final

from langchain_core.messages import BaseMessage, ChatMessage, RemoveMessage
from langgraph.checkpoint.base import Checkpoint, CheckpointTuple, DeltaChannelHistory
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # a snapshot is a value in this wrapping
from langgraph.types import Overwrite
from typing_extensions import override

from lc_history.agents.checkpoints.address import Address
from lc_history.agents.encoding.values import are_messages
from lc_history.bridge import Lock, settle
from lc_history.codec import Codec, as_data
from lc_history.codec.shapes import BY_CLASS
from lc_history.errors import ConflictError
from lc_history.model import MESSAGES, Entry, SessionKey
from lc_history.postgres import Postgres
from lc_history.privacy.keyring import Keyring
from lc_history.store import every_record
from lc_history.stores.postgres import PostgresStore
from lc_history.stores.postgres.turn import Turn
from lc_history.transcript import QUARANTINED, Policy, Transcript

CHANNEL: Final = "messages"
"""Where an agent's words stand. A graph without this channel speaks in all that hold lists of messages."""
_MOST_IDS: Final = 500_000
_MOST_STEPS: Final = 10_000
"""Steps under way whose messages are remembered until the checkpoint comes that they lead to."""


@dataclass(frozen=True, slots=True)
class Words:
    """What one checkpoint says: the turn to append, if anything is new."""

    turn: Turn | None
    remember: Callable[[], None]
    """Called once it is committed."""


class Speech:
    """Finds what is new in a checkpoint; remembers the messages of those that were read or written, by thread."""

    def __init__(self, database: Postgres, policy: Policy, keys: Keyring | None) -> None:
        self._store, self._policy = PostgresStore(database), replace(policy, keys=keys)
        self._threads: OrderedDict[str, tuple[set[str], set[str]]] = OrderedDict()
        self._written: OrderedDict[tuple[str, str], list[tuple[str, BaseMessage]]] = OrderedDict()
        self._size, self._lock = 0, Lock()

    def knows_parent(self, where: Address) -> bool:
        """Tell whether the messages of the checkpoint that a config points to are known here."""
        return where.checkpoint_id is None or where.checkpoint_id in self._known(where.thread_id)[0]

    def of(self, where: Address, checkpoint: Checkpoint) -> Words:
        """Return what a checkpoint says beyond its parent."""
        before = self._known(where.thread_id)[1] if where.checkpoint_id is not None else set()
        written = self._written.get((where.thread_id, where.checkpoint_id or ""), ())
        whole = checkpoint["channel_values"]
        changes = [one for name, one in written if name in _speaking(checkpoint) and name not in whole]
        found = _identified((*_messages_in(checkpoint, but=before), *changes))
        new = {name: message for name, message in found.items() if name not in before and _is_said(message)}
        turn = self._turn(where.user_id, where.thread_id, new)
        return Words(turn, partial(self._said, where, checkpoint["id"], found.keys()))

    def heard(self, where: Address, found: CheckpointTuple) -> bool:
        """Remember the messages of a checkpoint that is stored, and so were said; False where it has only changes."""
        if where.namespace:
            return True
        if (where.thread_id, found.checkpoint["id"]) not in self._written:
            pending = [(channel, value) for _, channel, value in found.pending_writes or ()]
            self.wrote(where, found.checkpoint["id"], pending)
        if changed_in(found):
            return found.checkpoint["id"] in self._known(where.thread_id)[0]
        said = _identified(_messages_in(found.checkpoint, but=self._known(where.thread_id)[1]))
        self.remember(where.thread_id, found.checkpoint["id"], said)
        return True

    def heard_changes(self, where: Address, history: Mapping[str, DeltaChannelHistory]) -> None:
        """Remember what a stored checkpoint holds whose messages are kept as changes."""
        if not where.namespace and where.checkpoint_id is not None:
            self.remember(where.thread_id, where.checkpoint_id, _identified(_messages_along(history)))

    def wrote(self, where: Address, checkpoint_id: str | None, writes: Iterable[tuple[str, Any]]) -> None:
        """Remember what a step writes after a checkpoint: the next one says it, and may not hold it."""
        said = [(channel, message) for channel, value in writes for message in _messages_of([value])]
        if where.namespace or checkpoint_id is None or not said:
            return
        with self._lock:
            self._written.setdefault((where.thread_id, checkpoint_id), []).extend(said)
            while len(self._written) > _MOST_STEPS:
                self._written.popitem(last=False)

    async def copied(
        self, connection: Any, source: SessionKey, target: SessionKey, *, until: Container[str] | None
    ) -> Turn | None:
        """Return what another thread's transcript begins with: what was said up to the last of these; None: all.

        It is read in the transaction of the connection. `ConflictError` if something was said there already.
        """
        store = _StoreWithin(self._store.database, connection)
        old, new = (Transcript(store, key, self._policy) for key in (source, target))
        records = [one async for one in every_record(store, old.key) if one.body != QUARANTINED]
        there = await store.describe(new.key)
        if there is not None and there.count:
            raise ConflictError(f"{new.key} holds messages already: nothing was copied there; give another name")
        if until is not None:
            end = max((place for place, one in enumerate(records, 1) if one.id in until), default=0)
            records = records[:end]
        entries = [Entry(one.id, new.sealed(old.opened(one, MESSAGES), MESSAGES, one.id)) for one in records]
        return Turn(new.key, entries, MESSAGES, self._policy.expiry, None, None, create=True) if entries else None

    def _said(self, where: Address, checkpoint_id: str, ids: Iterable[str]) -> None:
        self._written.pop((where.thread_id, where.checkpoint_id or ""), None)
        self.remember(where.thread_id, checkpoint_id, ids)

    def remember(self, thread_id: str, checkpoint_id: str, ids: Iterable[str]) -> None:
        """Remember which messages a stored checkpoint holds; the least recently used threads are forgotten first."""
        with self._lock:
            checkpoints, known = self._threads.setdefault(thread_id, (set(), set()))
            self._threads.move_to_end(thread_id)
            before = len(checkpoints) + len(known)
            checkpoints.add(checkpoint_id)
            known.update(ids)
            self._size += len(checkpoints) + len(known) - before
            while self._size > _MOST_IDS and self._threads:
                _, (some, others) = self._threads.popitem(last=False)
                self._size -= len(some) + len(others)

    def _known(self, thread_id: str) -> tuple[set[str], set[str]]:
        return self._threads.get(thread_id, (set(), set()))

    def _turn(self, user_id: str, thread_id: str, new: Mapping[str, BaseMessage]) -> Turn | None:
        if not new:
            return None
        transcript = Transcript(self._store, SessionKey(user_id, thread_id), self._policy)
        messages, ids = list(new.values()), list(new)
        try:
            entries = transcript.entries(messages, ids=ids)
        except TypeError:  # the state keeps more than JSON can: documents, dates, objects and messages of other classes
            entries = transcript.entries(list(map(_told, messages)), ids=ids)
        return Turn(transcript.key, entries, MESSAGES, self._policy.expiry, None, None, create=True)


def _told(message: BaseMessage) -> BaseMessage:
    """Return a message as a transcript can hold it: of the class of LangChain's that it comes from, as plain data."""
    shapes = map(BY_CLASS.get, type(message).__mro__)
    kind: type[BaseMessage] = next((shape.cls for shape in shapes if shape is not None), ChatMessage)
    if kind is not type(message):
        fields = {name: value for name, value in message.__dict__.items() if name in kind.model_fields}
        fields.pop("type", None)
        role = {"role": message.type} if kind is ChatMessage else {}
        message = kind.model_construct(**{**role, **fields, **(message.__pydantic_extra__ or {})})
    return as_data(message, otherwise=repr)


class _StoreWithin(PostgresStore):
    """The sessions as a transaction sees them."""

    def __init__(self, database: Postgres, connection: Any) -> None:
        super().__init__(database)
        self._connection = connection

    @override
    async def _rows(self, text: str, parameters: dict[str, Any]) -> list[Any]:
        cursor = await self.database.execute(self._connection, text, parameters)
        rows: list[Any] = await settle(cursor.fetchall())
        return rows


def ids_in(checkpoint: Checkpoint, history: Mapping[str, DeltaChannelHistory] | None = None) -> set[str]:
    """Return the ids of a checkpoint's messages as the transcript has them; history: where it keeps changes."""
    return set(_identified((*_messages_in(checkpoint, but=()), *_messages_along(history or {}))))


def changed_in(found: CheckpointTuple) -> list[str]:
    """Return the channels of messages that a stored checkpoint names without holding them, as with a DeltaChannel."""
    checkpoint, whole = found.checkpoint, found.checkpoint["channel_values"]
    changing = found.metadata.get("counters_since_delta_snapshot") or ()
    names = [CHANNEL] if CHANNEL in checkpoint["channel_versions"] else changing
    return [name for name in names if name not in whole]


def _speaking(checkpoint: Checkpoint) -> Container[str]:
    versions = checkpoint["channel_versions"]
    return (CHANNEL,) if CHANNEL in versions else versions


def _messages_along(history: Mapping[str, DeltaChannelHistory]) -> Iterable[BaseMessage]:
    for entry in [history[CHANNEL]] if CHANNEL in history else history.values():
        yield from _messages_of([entry.get("seed"), *(value for _, _, value in entry["writes"])])


def _messages_of(values: Iterable[Any]) -> Iterable[BaseMessage]:
    """Yield the messages among values that were written to a channel, one by one or in lists."""
    for value in values:
        inner = value.value if isinstance(value, _DeltaSnapshot | Overwrite) else value
        yield from (one for one in (inner if isinstance(inner, list) else [inner]) if isinstance(one, BaseMessage))


def _messages_in(checkpoint: Checkpoint, *, but: Container[str | None]) -> Iterable[BaseMessage]:
    """Yield the messages of a checkpoint whose ids are not among these."""
    values = checkpoint["channel_values"]
    only = [CHANNEL] if CHANNEL in checkpoint["channel_versions"] else values
    for name in only:
        value = values.get(name)
        value = value.value if isinstance(value, _DeltaSnapshot) else value
        if are_messages(value):
            yield from [one for one in value if one.id not in but]


def _identified(messages: Iterable[BaseMessage]) -> dict[str, BaseMessage]:
    """Return messages by id; where a reducer gave none, by content, the same content as often as it is there."""
    found: dict[str, BaseMessage] = {}
    alike: Counter[str] = Counter()
    for message in messages:
        name = message.id
        if not name:
            content = sha256(Codec().encode(as_data(message, otherwise=repr))).hexdigest()[:32]
            name = f"{content}/{alike[content]}"
            alike[content] += 1
        found.setdefault(name, message)
    return found


def _is_said(message: BaseMessage) -> bool:
    """Tell whether somebody said it: a summary that stands for older messages in the state was not."""
    summary = message.additional_kwargs.get("lc_source") == "summarization"  # so LangChain's middleware marks its own
    return not summary and not isinstance(message, RemoveMessage)
