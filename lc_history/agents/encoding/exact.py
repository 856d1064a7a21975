"""Values with lone surrogates, which msgpack cannot hold: as JSON that can.

Plain data, LangChain's own messages, and what LangGraph hands to tasks and to people; nothing else is built when it is
read. An item is a scalar, or a list that begins with its kind.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, Final

from langchain_core.messages import BaseMessage
from langgraph.types import Command, Interrupt, Send

from lc_history.codec import Codec

_CODEC: Final = Codec()
_SCALARS: Final = frozenset((str, int, float, bool, type(None)))
_FIELDS: Final[dict[type[Any], tuple[str, ...]]] = {
    Command: ("graph", "update", "resume", "goto"),
    Interrupt: ("value", "id", "response_schema"),
    Send: ("node", "arg", "timeout"),
}
_BY_NAME: Final = {kind.__name__: kind for kind in _FIELDS}


def has_lone_surrogate(value: Any) -> bool:
    """Tell whether a text in a value is none that UTF-8 could hold."""
    if isinstance(value, str):
        return not value.isascii() and not _encodes(value)
    if isinstance(value, bytes | int | float | None):
        return False
    return any(map(has_lone_surrogate, _parts(value)))


def dumps(value: Any) -> bytes:
    """Return a value as bytes that `loads` turns into an equal one; `TypeError` or `ValueError` if it cannot."""
    return json.dumps(_told(value), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def loads(body: bytes) -> Any:
    """Return the value of such bytes."""
    return _meant(json.loads(body.decode("utf-8", "surrogatepass")))


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value, *value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if type(value) in _FIELDS or is_dataclass(value):
        return [getattr(value, name) for name in _FIELDS.get(type(value), getattr(value, "__dataclass_fields__", ()))]
    if isinstance(value, BaseMessage):
        return (*value.__dict__.values(), value.__pydantic_extra__)
    return ()


def _told(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list or kind is tuple:
        return [kind.__name__, *map(_told, value)]
    if kind is dict:
        return ["dict", *([_told(key), _told(item)] for key, item in value.items())]
    if kind is bytes:
        return ["bytes", b64encode(value).decode()]
    if kind in _FIELDS:
        return [kind.__name__, *(_told(getattr(value, name)) for name in _FIELDS[kind])]
    if isinstance(value, BaseMessage):
        return ["message", _CODEC.encode(value).decode("utf-8", "surrogatepass")]
    raise TypeError(f"a {kind.__name__} cannot be told exactly")


def _meant(item: Any) -> Any:
    if not isinstance(item, list):
        return item
    kind, *rest = item
    match kind:
        case "message":
            return _CODEC.decode(rest[0].encode("utf-8", "surrogatepass"))
        case "bytes":
            return b64decode(rest[0])
        case "dict":
            return {_meant(key): _meant(value) for key, value in rest}
        case "list" | "tuple":
            return [*map(_meant, rest)] if kind == "list" else (*map(_meant, rest),)
    made = _BY_NAME[kind]
    return made(**dict(zip(_FIELDS[made], map(_meant, rest), strict=True)))
