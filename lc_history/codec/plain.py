"""Plain data: what JSON gives back exactly, and a refusal with path and remedy for everything else."""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from json import dumps
from math import isfinite, isnan, nan
from struct import pack
from types import NoneType
from typing import Any, Final
from uuid import UUID

from langchain_core.messages import BaseMessage
from pydantic import BaseModel

JSON_TYPES: Final[frozenset[type]] = frozenset([str, int, float, bool, NoneType, list, dict])
"""The types that JSON tells apart; subclasses of them it does not."""
MAX_DEPTH: Final = 250
"""Lists and dicts within each other: orjson writes 254."""
MAX_INTEGER_BITS: Final = 2048
"""Python reads integers of any allowed setting of `sys.set_int_max_str_digits` up to this."""

_NAN: Final = pack(">d", nan)


def suits_orjson(values: Iterable[Any]) -> bool:
    """Tell whether orjson gives these values back exactly: JSON types throughout, and finite floats.

    Keys other than str, integers beyond 64 bits and lone surrogates it refuses by itself.
    """
    for value in values:
        kind = type(value)
        if kind is str or kind is int or kind is bool or value is None:  # faster than a look into a set
            continue
        if kind is dict:
            if not suits_orjson(value.values()):
                return False
        elif kind is list:
            if not suits_orjson(value):
                return False
        elif kind is not float or not isfinite(value):
            return False
    return True


def exact_json(fields: dict[str, Any]) -> bytes:
    """Return the JSON of plain data that orjson refuses, in Python's dialect of it; foreign values are refused."""
    check_plain(fields)
    return dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def check_plain(value: object, path: str = "", depth: int = 0) -> None:
    """Raise `TypeError` or `ValueError`, with the path, at the first value that JSON would not give back exactly."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{path[:80]}... is nested more than {MAX_DEPTH} deep, or contains itself: flatten it")
    kind = type(value)
    if isinstance(value, dict) and kind is dict:
        for key, child in value.items():
            if type(key) is not str:
                raise TypeError(f"{path} has a key of type {type(key).__name__}: {_remedy(key)}{_HINT}")
            check_plain(child, _step(path, key), depth + 1)
    elif isinstance(value, list) and kind is list:
        for index, child in enumerate(value):
            check_plain(child, f"{path}[{index}]", depth + 1)
    elif isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise ValueError(f"{path} is an integer of more than {MAX_INTEGER_BITS} bits: keep it as str")
    elif isinstance(value, float) and isnan(value) and pack(">d", value) != _NAN:
        raise ValueError(f"{path} is a NaN with a payload or sign of its own: use math.nan")
    elif kind not in JSON_TYPES:
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        raise TypeError(f"{path} is of type {name}: {_remedy(value)}{_HINT}")


def _step(path: str, key: str) -> str:
    if not key.isidentifier():
        return f"{path}[{key!r}]"
    return f"{path}.{key}" if path else key


_HINT: Final = "; or let lc_history.codec.as_data convert the message before it is stored (redact=as_data)"

_REMEDIES: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (Enum, "keep its .value"),
    ((str, int, float), "keep a plain str, int or float"),
    ((tuple, set, frozenset), "keep a list"),
    (Mapping, "keep a plain dict"),
    ((bytes, bytearray, memoryview), "keep base64 text"),
    ((date, time), "keep its .isoformat()"),
    ((Decimal, UUID), "keep its str()"),
    (BaseModel, "keep its .model_dump(mode='json')"),
    (object, "keep plain data (str, int, float, bool, None, list, dict with str keys)"),
)


def _remedy(value: object) -> str:
    if type(value) in JSON_TYPES:  # as a key
        return "use str keys"
    return next(remedy for kinds, remedy in _REMEDIES if isinstance(value, kinds))


def as_data(message: BaseMessage, *, otherwise: Callable[[Any], Any] = lambda value: value) -> BaseMessage:
    """Return the message with plain data in place of Python's richer types, as a ready ``redact=`` callable.

    Tuples and sets become lists, keys str, enums their values, bytes base64 text, dates ISO text, decimals and UUIDs
    str, pydantic models and dataclasses dicts. What has no such form stays, and is refused when it is stored, unless
    ``otherwise`` makes something of it: ``repr``.

    >>> from langchain_core.messages import HumanMessage
    >>> as_data(HumanMessage("seen", additional_kwargs={"size": (640, 480)})).additional_kwargs
    {'size': [640, 480]}
    """
    copy = message.model_copy()
    for fields in (copy.__dict__, copy.__pydantic_extra__ or {}):
        fields.update({name: _plain(value, otherwise) for name, value in fields.items()})
    return copy


def _plain(value: Any, otherwise: Callable[[Any], Any]) -> Any:  # noqa: C901, PLR0911  one line for each kind
    if isinstance(value, Enum):
        return _plain(value.value, otherwise)
    for kind in (str, int, float):
        if isinstance(value, kind):
            return value if type(value) in JSON_TYPES else kind(value)
    if isinstance(value, Mapping):
        return {str(_plain(key, otherwise)): _plain(child, otherwise) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child, otherwise) for child in value]
    if isinstance(value, set | frozenset):
        return [_plain(child, otherwise) for child in sorted(value, key=repr)]
    if isinstance(value, bytes | bytearray | memoryview):
        return b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(), otherwise)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value), otherwise)
    return value if value is None else otherwise(value)
