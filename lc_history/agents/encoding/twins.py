"""Messages of one thread as they were last read or written, so that what has not changed is not coded again.

Only copies are handed out, which share nothing that can change with their original: what a graph does to one never
shows in another. A message is taken for unchanged only if it is equal down to the types of its values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from operator import attrgetter
from typing import Any, Final, NamedTuple, cast

from langchain_core.messages import BaseMessage

from lc_history.agents.encoding.references import GROUP_SIZE
from lc_history.codec.shapes import BUILD, BY_CLASS

_ATOMS: Final = frozenset((str, int, float, bool, type(None)))
_CODED_ALIKE: Final = frozenset((str, type(None)))
"""Types whose values are coded alike if they are equal; 1, 1.0 and True are equal, and coded differently."""
_STATE, _EXTRA = attrgetter("__dict__"), attrgetter("__pydantic_extra__")

Body = tuple[str, bytes]
"""The type of a message's body, and its bytes."""


class Original(NamedTuple):
    """A message that nobody else holds a part of, with what is needed to compare it and to copy it."""

    message: BaseMessage
    name: bytes
    body: Body
    kind: type[BaseMessage]
    state: dict[str, Any]
    """The message's ``__dict__``."""
    extra: dict[str, Any] | None
    given: set[str]
    """The names of the fields that were given when it was made."""
    shapes: tuple[tuple[str, Any], ...]
    """The types inside each field in which equal values may be coded differently; the extra ones are under ""."""
    changing: tuple[tuple[str, Callable[[], Any]], ...] | None
    """The fields that can change from within, each with what makes a copy of its own; None: ask `twin`."""

    def twin(self) -> BaseMessage:
        """Return a copy of the message."""
        if self.changing is None:
            return twin(self.message)
        fields = self.state.copy()
        for field, fresh in self.changing:
            fields[field] = fresh()
        return BUILD(self.kind, fields, self.given.copy(), {})

    def has_shapes_of(self, message: BaseMessage) -> bool:
        """Tell whether an equal message is coded alike."""
        return all(
            _shape(message.__dict__[field] if field else message.__pydantic_extra__) == shape
            for field, shape in self.shapes
        )


class Written(NamedTuple):
    """The beginning of a list as it was last written: the names of its messages, and what these must be equal to."""

    names: tuple[bytes, ...] = ()
    kinds: tuple[type, ...] = ()
    states: tuple[dict[str, Any], ...] = ()
    extras: tuple[dict[str, Any] | None, ...] = ()
    shaped: tuple[tuple[int, Original], ...] = ()
    """The places of those that may be equal and coded differently."""

    def begins(self, messages: Sequence[BaseMessage]) -> bool:
        """Tell whether a list begins with all of these messages as they were: at the speed of C where it does."""
        some = messages[: len(self.names)]
        equal = (
            tuple(map(type, some)) == self.kinds
            and _equal(tuple(map(_STATE, some)), self.states)
            and _equal(tuple(map(_EXTRA, some)), self.extras)
        )
        return equal and all(one.has_shapes_of(some[place]) for place, one in self.shaped)

    def with_more(self, new: Sequence[Original]) -> Written:
        """Return a longer beginning."""
        return Written(
            (*self.names, *(one.name for one in new)),
            (*self.kinds, *(one.kind for one in new)),
            (*self.states, *(one.state for one in new)),
            (*self.extras, *(one.extra for one in new)),
            (*self.shaped, *((place, one) for place, one in enumerate(new, len(self.names)) if one.shapes)),
        )


class Originals:
    """The messages of one thread by the name of their body, and by their own id."""

    def __init__(self) -> None:
        self._by_name: dict[bytes, Original] = {}
        self._by_id: dict[str, Original] = {}
        self._written = Written()

    def keep(self, name: bytes, message: BaseMessage, body: Body) -> None:
        """Remember a copy of a message, unless another process would read it otherwise."""
        if type(message) not in BY_CLASS or not all(map(_is_plain, (message.__dict__, message.__pydantic_extra__))):
            return
        message = twin(message)
        state, extra = message.__dict__, message.__pydantic_extra__
        parts = (*state.items(), ("", extra))
        odd = ((field, value) for field, value in parts if type(value) not in _CODED_ALIKE and value not in ([], {}))
        shapes = tuple((field, _shape(value)) for field, value in odd)
        changing = None
        if not extra:
            changing = tuple((field, _copier(value)) for field, value in state.items() if type(value) not in _ATOMS)
        self._by_name[name] = original = Original(
            message, name, body, type(message), state, extra, message.__pydantic_fields_set__, shapes, changing
        )
        if message.id is not None:
            self._by_id[message.id] = original

    def named(self, name: bytes) -> Original | None:
        """Return the message whose body has this name; None if it is not known."""
        return self._by_name.get(name)

    def of(self, message: BaseMessage) -> Original | None:
        """Return what is known of a message that is as it was; None if it is new or has changed."""
        state = message.__dict__
        original = self._by_id.get(state.get("id") or "")
        if original is None or type(message) is not original.kind:
            return None
        same = _equal(state, original.state) and _equal(message.__pydantic_extra__, original.extra)
        return original if same and (not original.shapes or original.has_shapes_of(message)) else None

    def beginning(self, messages: Sequence[BaseMessage]) -> Written:
        """Return what of a list is as it was when it was last written, or nothing: a long list is compared at once."""
        last = self._written
        return last if len(messages) > GROUP_SIZE and last.begins(messages) else Written()

    def wrote(self, beginning: Written, more: Sequence[bytes]) -> None:
        """Remember a list, if it is long: the beginning that was known of it, and the names after that."""
        if more and len(beginning.names) + len(more) > GROUP_SIZE:
            known = takewhile(lambda one: one is not None, map(self._by_name.get, more))
            self._written = beginning.with_more(cast("list[Original]", list(known)))


def twin(message: BaseMessage) -> BaseMessage:
    """Return an independent message of the same plain content."""
    fields = message.__dict__.copy()
    for name, value in fields.items():
        if value is None or type(value) is str:  # most are
            continue
        fields[name] = _fresh(value)
    extra = _fresh(message.__pydantic_extra__ or {})
    return BUILD(type(message), fields, message.__pydantic_fields_set__.copy(), extra)


def _fresh(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {name: _fresh(item) for name, item in value.items()} if value else {}
    if kind is list:
        return [_fresh(item) for item in value] if value else []
    return value


def _copier(value: Any) -> Callable[[], Any]:
    """Return what makes copies of a plain list or dict that does not change: its own method, where that is enough."""
    items = value.values() if type(value) is dict else value
    copier: Callable[[], Any] = value.copy
    return copier if all(type(item) in _ATOMS for item in items) else partial(_fresh, value)


def _is_plain(value: Any) -> bool:
    """Tell whether a value comes back from its bytes as what it was: LangGraph gives back no documents."""
    kind = type(value)
    if kind is dict:
        return all(type(name) is str for name in value) and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if kind is list else kind in _ATOMS


def _equal(value: Any, other: Any) -> bool:
    try:
        return bool(value == other)
    except Exception:  # noqa: BLE001 - an array in it does not tell: it is no plain value, and so another
        return False


def _shape(value: Any) -> Any:
    kind = type(value)
    if kind is list:
        return [_shape(item) for item in value]
    if kind is dict:
        return [(name, _shape(item)) for name, item in value.items()]
    return kind if kind is not float or value else str(value)  # 0.0 and -0.0 are equal
