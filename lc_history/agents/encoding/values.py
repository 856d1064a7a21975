"""How a channel's value becomes the bytes of a row, and again a value, when its row is known.

LangGraph's saver gives a serializer the value alone. What is stored here depends on its row (a seal is bound to it,
references need its thread), so a value travels in as `Placed`, which names the row, and comes back as `Stored`,
still closed; `Values` opens it once the row is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # a snapshot is a value in this wrapping
from typing_extensions import override

from lc_history.agents.encoding.references import GROUP, fold, levels_of, reference, split, unfold
from lc_history.agents.encoding.twins import Originals
from lc_history.errors import DecodeError
from lc_history.privacy.keyring import Keyring, bind

MESSAGES: Final = "messages"
MESSAGE: Final = "message"
SNAPSHOT: Final = "snapshot-of-messages"
SEALED: Final = "sealed:"
_FOLDED: Final = (MESSAGES, MESSAGE, SNAPSHOT)
FOLDED_KINDS: Final = [*_FOLDED, *(SEALED + kind for kind in _FOLDED)]
"""The types of rows that refer to bodies."""


class MissingBodyError(DecodeError):
    """A message's body is not there; retention may have removed it with its checkpoint a moment ago."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A value on its way in, and the row that it will stand in."""

    value: Any
    place: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A value on its way out: what its row holds."""

    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Values(SerializerProtocol):
    """Turns the values of one thread into rows; keeps the bodies of messages apart, each once.

    serde: LangGraph's serializer, for everything that is not a message list, and for each message.
    keys: seals every value, bound to its row; without, nothing sealed can be read.
    """

    serde: SerializerProtocol
    thread_id: str
    keys: Keyring | None = None
    originals: Originals = field(default_factory=Originals)
    stored: Mapping[bytes, tuple[str, bytes]] = field(default_factory=dict)
    """Bodies that are known to have been stored before."""
    bodies: dict[bytes, tuple[str, bytes]] = field(default_factory=dict)
    """By reference, the type and body of what the values written so far refer to and is new, not sealed yet."""
    direct: set[bytes] = field(default_factory=set)
    """Those that the values hold themselves; groups among them refer to the others."""

    @override
    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        snapshot = isinstance(obj, _DeltaSnapshot)
        inner = obj.value if snapshot else obj
        value, place = (inner.value, inner.place) if isinstance(inner, Placed) else (inner, b"")
        if isinstance(value, list) and value and isinstance(value[0], Stored):
            value = [self.serde.loads_typed((one.kind, one.body)) for one in value]  # LangGraph moves old sends
        if isinstance(value, BaseMessage):
            kind, body = MESSAGE, self._fold([value])
        elif are_messages(value):
            kind = SNAPSHOT if snapshot else MESSAGES
            body = self._fold(value)
        else:
            kind, body = self.serde.dumps_typed(_DeltaSnapshot(value) if snapshot else value)
        return self.sealed(Stored(kind, body), place)

    @override
    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        return Stored(*data)

    def opened(self, stored: Stored, place: bytes) -> Stored:
        """Return what a row holds with its seal taken off; refused with keys if it is not sealed, or not to it."""
        if self.keys is None:
            if stored.kind.startswith(SEALED):
                raise DecodeError(f"thread {self.thread_id!r} is sealed: open the checkpointer with its keys")
            return stored
        kind = stored.kind.removeprefix(SEALED)
        context = bind("value", kind) + place
        try:
            if kind not in _FOLDED:
                return Stored(kind, self.keys.open(bytes(stored.body), context))
            names, seal = _parted(bytes(stored.body))
            self.keys.open(seal, context + names)
        except DecodeError as error:
            raise DecodeError(f"a value of thread {self.thread_id!r} is {error}") from error
        return Stored(kind, names)

    def value_of(self, stored: Stored, bodies: Mapping[bytes, tuple[str, bytes]]) -> Any:
        """Return the value of an opened row; `DecodeError` if a message is missing."""
        if stored.kind not in _FOLDED:
            return self.serde.loads_typed((stored.kind, stored.body))
        try:
            messages = self._messages(unfold(stored.body, bodies), bodies)
        except KeyError as error:
            raise MissingBodyError(
                f"the body {error.args[0].hex()} of a message of thread {self.thread_id!r} is missing"
            ) from error
        if stored.kind == MESSAGE:
            return messages[0]
        return _DeltaSnapshot(messages) if stored.kind == SNAPSHOT else messages

    def _messages(self, names: Sequence[bytes], bodies: Mapping[bytes, tuple[str, bytes]]) -> list[Any]:
        known = map(self.originals.named, names)
        return [self._read(name, bodies) if one is None else one.twin() for name, one in zip(names, known, strict=True)]

    def _read(self, name: bytes, bodies: Mapping[bytes, tuple[str, bytes]]) -> Any:
        message = self.serde.loads_typed(bodies[name])
        if isinstance(message, BaseMessage):
            self.originals.keep(name, message, bodies[name])
        return message

    def body_row(self, name: bytes) -> tuple[str, bytes, str, bytes]:
        """Return the row of a kept body."""
        kind, body = self.bodies[name]
        sealed = self.keys is not None and kind != GROUP  # a group names bodies, and is named by its hash
        kept = self.keys.seal(body, self._body_place(name, kind)) if sealed and self.keys else body
        return self.thread_id, name, kind, kept

    def opened_body(self, name: bytes, kind: str, body: bytes) -> tuple[str, bytes]:
        """Return a body from its row, after making sure that it is the one of that name."""
        if self.keys is not None and kind != GROUP:
            try:
                body = self.keys.open(body, self._body_place(name, kind))
            except DecodeError as error:
                raise DecodeError(f"a message of thread {self.thread_id!r} is {error}") from error
        if reference(kind, body) != name:
            raise DecodeError(f"the body {name.hex()} of a message of thread {self.thread_id!r} was altered")
        return kind, body

    def _fold(self, messages: Sequence[BaseMessage]) -> bytes:
        beginning = self.originals.beginning(messages)
        names = beginning.names
        if not all(map(self.stored.__contains__, names)):
            new = {name for name in names if name not in self.stored}
            self.bodies.update((one.name, one.body) for one in map(self.originals.named, new) if one)
        more = [self._keep_message(message) for message in messages[len(names) :]]
        self.originals.wrote(beginning, more)
        folded = fold([*names, *more], self._keep)
        self.direct.update(split(folded[1 + folded[0] :]))
        return folded

    def _keep_message(self, message: BaseMessage) -> bytes:
        if (known := self.originals.of(message)) is None:
            body = self.serde.dumps_typed(message)
            name = self._keep(*body)
            self.originals.keep(name, message, body)
            return name
        if known.name not in self.stored:
            self.bodies[known.name] = known.body
        return known.name

    def _keep(self, kind: str, body: bytes) -> bytes:
        name = reference(kind, body)
        if name not in self.stored:
            self.bodies[name] = (kind, body)
        return name

    def sealed(self, stored: Stored, place: bytes) -> tuple[str, bytes]:
        """Return what a row of that place is to hold."""
        kind, body = stored.kind, stored.body
        if self.keys is None:
            return kind, body
        context = bind("value", kind) + place
        if kind in _FOLDED:  # readable, so that what nobody refers to can be found; authenticated all the same
            seal = self.keys.seal(b"", context + body)
            return SEALED + kind, seal + body + len(seal).to_bytes(2, "big")
        return SEALED + kind, self.keys.seal(body, context)

    def _body_place(self, name: bytes, kind: str) -> bytes:
        return bind("body", self.thread_id, kind) + name


def are_messages(value: Any) -> TypeGuard[list[BaseMessage]]:
    """Tell whether a value is a list of messages, and of nothing else."""
    kinds = set(map(type, value)) if isinstance(value, list) else ()
    return bool(kinds) and all(issubclass(kind, BaseMessage) for kind in kinds)


def references_in(folded: bytes) -> set[bytes]:
    """Return the references that a folded list holds itself."""
    return {name for level in levels_of(folded) for name in level}


def is_folded(stored: Stored) -> bool:
    """Tell whether an opened row refers to bodies."""
    return stored.kind in _FOLDED


def folded_of(kind: str, blob: bytes) -> bytes:
    """Return the references in a row that has them, without opening its seal."""
    return _parted(blob)[0] if kind.startswith(SEALED) else blob


def _parted(blob: bytes) -> tuple[bytes, bytes]:
    at = int.from_bytes(blob[-2:], "big")
    return blob[at:-2], blob[:at]
