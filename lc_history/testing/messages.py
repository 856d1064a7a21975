"""Messages of every kind for property tests, and a comparison that is stricter than ``==``.

@given(messages())
def test_survives(message):
    assert difference(message, stored_and_read(message)) is None
"""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from functools import cache
from struct import pack
from typing import Any, Final
from uuid import UUID

from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
)

CLASSES: Final[tuple[type[BaseMessage], ...]] = (
    *(HumanMessage, AIMessage, SystemMessage, ToolMessage, FunctionMessage, ChatMessage, RemoveMessage),
    *(HumanMessageChunk, AIMessageChunk, SystemMessageChunk, ToolMessageChunk, FunctionMessageChunk, ChatMessageChunk),
)
"""Every class that LangChain makes messages of."""


def difference(one: Any, other: Any, path: str = "message") -> str | None:
    """Return where two messages, or values in them, differ in type, value, bits or order of keys; None if nowhere."""
    if type(one) is not type(other):
        return f"{path}: {type(one).__name__} against {type(other).__name__}"
    if isinstance(one, float):
        return None if pack(">d", one) == pack(">d", other) else f"{path}: {one!r} against {other!r}"
    if isinstance(one, BaseMessage | dict):
        left, right = dict(one), dict(other)  # of a message: its fields, then the extra ones
    elif isinstance(one, list | tuple):
        left, right = dict(enumerate(one)), dict(enumerate(other))
    else:
        return None if one == other else f"{path}: {one!r} against {other!r}"
    if list(left) != list(right):
        return f"{path}: keys {list(left)!r} against {list(right)!r}"
    inner = (difference(left[key], right[key], f"{path}[{key!r}]") for key in left)
    return next(filter(None, inner), None)


def identical(one: object, other: object) -> bool:
    """Tell whether two messages, or values in them, are the same in type, value, bits and order of keys."""
    return difference(one, other) is None


@cache  # hypothesis looks each strategy through before it first draws from it
def texts(max_size: int = 20) -> st.SearchStrategy[str]:
    """Texts of any code points, NUL and lone surrogates among them."""
    nasty = st.sampled_from(["", "\x00", "\ud800", "\ud83d\ude00", "😀", "é", "e\u0301", "\u2028", '"\\', "null", "1"])
    return st.one_of(
        st.text(max_size=max_size), nasty, st.text(st.characters(exclude_categories=()), max_size=max_size)
    )


@cache
def plain_data(max_leaves: int = 8) -> st.SearchStrategy[Any]:
    """Any data that a codec must keep: JSON's types with all their values, infinities and 200-bit integers too."""
    integers = st.one_of(st.integers(), st.integers(-(2**200), 2**200), st.sampled_from([2**63, 2**64, -(2**63) - 1]))
    floats = st.one_of(st.floats().filter(lambda value: value == value), st.sampled_from([-0.0, float("nan"), 1e400]))  # noqa: PLR0124  no NaN but Python's own
    leaves = st.one_of(st.none(), st.booleans(), integers, floats, texts(), st.sampled_from(LOOKALIKES))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts(8), inner, max_size=4)),
        max_leaves=max_leaves,
    )


LOOKALIKES: Final[tuple[dict[str, Any], ...]] = (
    {"lc": 1, "type": "constructor", "id": ["langchain_core", "messages", "SystemMessage"], "kwargs": {"content": "x"}},
    {"lc": 1, "type": "secret", "id": ["PATH"]},
    {"lc": 1, "type": "not_implemented", "id": ["os", "system"], "repr": "x"},
    {"type": "human", "data": {"content": "x"}},
    {"__type__": "tuple", "value": [1]},
    {"py/object": "os.system"},
)
"""Data that looks like what some serialiser would bring to life."""


class _Colour(Enum):
    RED = "red"


class _Level(IntEnum):
    HIGH = 3


class _Word(StrEnum):
    YES = "yes"


class _Text(str):
    __slots__ = ()


class _Number(int):
    pass


FOREIGN: Final[tuple[Any, ...]] = (
    *((), (1, 2), {1}, frozenset([1]), {1: "a"}, {None: 1}, {True: 1}, {_Text("a"): 1}, b"x", bytearray(b"x")),
    *(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.date(2026, 1, 1), dt.time(1)),
    *(dt.timedelta(1), Decimal("1.0"), UUID(int=1), 1j, range(3), object(), ..., int, len),
    *(_Colour.RED, _Level.HIGH, _Word.YES, _Text("x"), _Number(1), OrderedDict(a=1), HumanMessage("x")),
)
"""Values that JSON changes or does not know: a codec keeps them identical or refuses them."""

CONTENT_BLOCKS: Final[tuple[dict[str, Any], ...]] = (
    {"type": "text", "text": "x", "annotations": [{"type": "citation", "url": "https://x.example", "start_index": 0}]},
    {"type": "image", "base64": "aGk=", "mime_type": "image/png"},
    {"type": "image_url", "image_url": {"url": "https://x.example/1.png", "detail": "low"}},
    {"type": "audio", "url": "https://x.example/1.wav", "extras": {"rate": 16000.0}},
    {"type": "reasoning", "reasoning": "thus", "extras": {"signature": "c2ln"}},
    {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
    {"type": "non_standard", "value": {"a": [None, True, 1.5]}},
    {"type": "server_tool_call", "name": "search", "args": {"q": "x"}, "id": "s1"},
    {"type": "tool_use", "id": "t1", "name": "x", "input": {}},
)
"""One of every family that providers send."""


_DATA: Final = st.dictionaries(texts(8), plain_data(), max_size=3)
_CONTENT: Final = st.one_of(
    texts(), texts(2000), st.lists(st.one_of(texts(), st.sampled_from(CONTENT_BLOCKS), _DATA), max_size=4)
)
_METADATA: Final = st.fixed_dictionaries({}, optional={"additional_kwargs": _DATA, "response_metadata": _DATA})
_EXTRA: Final = st.dictionaries(st.sampled_from(["x", "lc", "text_", "föö"]), plain_data(), max_size=2)


@st.composite
def messages(draw: st.DrawFn, *, classes: tuple[type[BaseMessage], ...] = CLASSES) -> BaseMessage:
    """Messages of all classes, with any content, metadata, tool calls, artifacts and extra fields."""
    cls = draw(st.sampled_from(classes))
    given: dict[str, Any] = {"id": draw(texts() if cls is RemoveMessage else st.none() | texts())}
    if cls is not RemoveMessage:
        given["content"] = draw(_CONTENT)
    required = {"tool_call_id", "role"} & set(cls.model_fields)
    given |= {name: draw(texts()) for name in required}
    if cls.model_fields["name"].is_required() or draw(st.booleans()):
        given["name"] = draw(texts())
    given |= draw(_METADATA)
    given |= draw(_EXTRA)
    if issubclass(cls, ToolMessage):
        given["status"] = draw(st.sampled_from(["success", "error"]))
        given["artifact"] = draw(plain_data())
    message = cls(**given)
    if isinstance(message, AIMessage):
        _add_calls(draw, message)
    return message


_CALL_ID: Final = st.none() | texts()
_CALL_DATA: Final = st.dictionaries(texts(8), plain_data(4), max_size=3)
_CALL: Final = {"name": texts(), "args": _CALL_DATA, "id": _CALL_ID, "type": st.just("tool_call")}
_CALLS: Final = st.lists(st.fixed_dictionaries(_CALL, optional={"extras": _CALL_DATA}), max_size=2)
_INVALID: Final = {"name": texts(), "args": texts(), "id": _CALL_ID, "error": st.none() | texts()}
_INVALID_CALLS: Final = st.lists(st.fixed_dictionaries(_INVALID), max_size=1)
_CHUNK: Final = {"name": texts(), "args": texts(), "id": _CALL_ID, "index": st.integers(0, 3)}
_CHUNKS: Final = st.lists(st.fixed_dictionaries(_CHUNK), max_size=2)
_COUNT: Final = st.integers(0, 2**70)
_DETAILS: Final = {"input_token_details": st.dictionaries(st.sampled_from(["cache_read", "audio"]), _COUNT)}
_USAGE: Final = st.none() | st.fixed_dictionaries(
    dict.fromkeys(("input_tokens", "output_tokens", "total_tokens"), _COUNT), optional=_DETAILS
)


def _add_calls(draw: st.DrawFn, message: AIMessage) -> None:
    """Add calls and counts by assignment: validation would drop the extras."""
    message.tool_calls = draw(_CALLS)  # type: ignore[arg-type]  # a TypedDict is a dict
    message.invalid_tool_calls = draw(_INVALID_CALLS)  # type: ignore[arg-type]  # as above
    message.usage_metadata = draw(_USAGE)  # type: ignore[assignment]  # as above
    if isinstance(message, AIMessageChunk):
        message.tool_call_chunks = draw(_CHUNKS)  # type: ignore[arg-type]  # as above
        message.chunk_position = draw(st.sampled_from([None, "last"]))
