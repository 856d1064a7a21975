"""Messages of one thread as they were last read or written, so that what has not changed is not coded again.

Only copies are handed out, which share nothing that can change with their original: what a graph does to one never
shows in another. A message is taken for unchanged only if it is equal down to the types of its values.
"""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any, Final, NamedTuple

from langchain_core.messages import BaseMessage

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
        """Remember a message, of which nobody else holds any part."""
        values = message.__dict__
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
        return original.name if all(_shape(values[field]) == shape for field, shape in original.shapes) else None


def twin(message: BaseMessage) -> BaseMessage:
    """Return an independent message of the same content."""
    made = copy(message)  # pydantic's own: new, with a new dict of the same field values
    fields = made.__dict__
    for name, value in fields.items():
        if type(value) not in _ATOMS:
            fields[name] = _fresh(value)
    return made


def _fresh(value: Any) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is list:
        return [_fresh(item) for item in value] if value else []
    if kind is dict:
        return {name: _fresh(item) for name, item in value.items()} if value else {}
    return deepcopy(value)


def _shape(value: Any) -> Any:
    kind = type(value)
    if kind is list:
        return [_shape(item) for item in value]
    if kind is dict:
        return [(name, _shape(item)) for name, item in value.items()]
    return kind
