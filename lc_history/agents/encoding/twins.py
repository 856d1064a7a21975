"""Messages of one thread as they were last read or written, so that what has not changed is not coded again.

Only copies are handed out, which share nothing that can change with their original: what a graph does to one never
shows in another. A message is taken for unchanged only if it is equal down to the types of its values.
"""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any, Final, NamedTuple

from langchain_core.messages import BaseMessage

from lc_history.codec.shapes import BUILD, BY_CLASS

_ATOMS: Final = frozenset((str, int, float, bool, bytes, type(None)))


class _Original(NamedTuple):
    message: BaseMessage
    name: bytes
    shapes: tuple[tuple[str, Any], ...]
    """The types inside each field that holds others than strings: 1, 1.0 and True are equal, and coded differently."""


class Originals:
    """The messages of one thread by the name of their body, and by their own id."""

    def __init__(self) -> None:
        self._by_name: dict[bytes, _Original] = {}
        self._by_id: dict[str, _Original] = {}

    def keep(self, name: bytes, message: BaseMessage) -> None:
        """Remember a message, of which nobody else holds a part, unless another process would read it otherwise."""
        values = message.__dict__
        if not all(map(_is_plain, (*values.values(), message.__pydantic_extra__))):
            return
        shapes = tuple((field, _shape(value)) for field, value in values.items() if type(value) not in _ATOMS and value)
        self._by_name[name] = original = _Original(message, name, shapes)
        if message.id is not None:
            self._by_id[message.id] = original

    def twin_of(self, name: bytes) -> BaseMessage | None:
        """Return a copy of a message; None if it is not known."""
        original = self._by_name.get(name)
        return None if original is None else twin(original.message)

    def name_of(self, message: BaseMessage) -> bytes | None:
        """Return the name of a message that is as it was; None if it is new or has changed."""
        original = self._by_id.get(message.id or "")
        if original is None or type(message) is not type(original.message):
            return None
        values = message.__dict__
        if values != original.message.__dict__ or message.__pydantic_extra__ != original.message.__pydantic_extra__:
            return None
        for field, shape in original.shapes:
            if _shape(values[field]) != shape:
                return None
        return original.name


def twin(message: BaseMessage) -> BaseMessage:
    """Return an independent message of the same content."""
    fields = message.__dict__.copy()
    for name, value in fields.items():
        if value is None or type(value) is str:  # most are
            continue
        fields[name] = _fresh(value)
    extra = _fresh(message.__pydantic_extra__ or {})
    if type(message) in BY_CLASS:
        return BUILD(type(message), fields, message.__pydantic_fields_set__.copy(), extra)
    made = copy(message)  # pydantic's own, six times as slow
    made.__dict__.update(fields)
    object.__setattr__(made, "__pydantic_extra__", extra)
    return made


def _fresh(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {name: _fresh(item) for name, item in value.items()} if value else {}
    if kind is list:
        return [_fresh(item) for item in value] if value else []
    return value if kind in _ATOMS else deepcopy(value)


def _is_plain(value: Any) -> bool:
    """Tell whether a value comes back from its bytes as what it was: LangGraph gives back no documents."""
    kind = type(value)
    if kind is dict or kind is list:
        return all(map(_is_plain, value.values() if kind is dict else value))
    return kind in _ATOMS


def _shape(value: Any) -> Any:
    kind = type(value)
    if kind is list:
        return [_shape(item) for item in value]
    if kind is dict:
        return [(name, _shape(item)) for name, item in value.items()]
    return kind
