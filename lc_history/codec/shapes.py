"""LangChain's message classes: what each one keeps, and how it is built again without validation.

Validation would be wrong, not only slow: it drops the ``extras`` of tool calls and parses
``additional_kwargs["tool_calls"]`` a second time. A bare build sets what pydantic would have set; it is compared with
a validated message at import, and where pydantic or LangChain has changed, pydantic's own `model_construct` steps in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import UnionType
from typing import Any, Final, Literal, Union, cast, get_args, get_origin, is_typeddict

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
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lc_history.codec.plain import JSON_TYPES, check_plain
from lc_history.errors import DecodeError

REQUIRED: Final = object()
"""Stands for the default of a field that has none."""

Build = Callable[[type[BaseMessage], dict[str, Any], set[str], dict[str, Any]], BaseMessage]
"""Makes a message of a class from all its fields, the names of those that were set, and its extra fields."""


class Shape:
    """One message class: its fields, the JSON types and the default of each."""

    def __init__(self, cls: type[BaseMessage], build: Build) -> None:
        self.cls, self._build = cls, build
        self.tag: str = cls.model_fields["type"].default
        self._kinds = {name: _kinds(field.annotation) for name, field in cls.model_fields.items()}
        self._blank = {name: _default(field) for name, field in cls.model_fields.items()}
        self._required = [name for name, field in cls.model_fields.items() if field.is_required()]
        self._containers = [(name, type(value)) for name, value in self._blank.items() if value in ({}, [])]
        self._stored = [(name, kinds, self._blank[name]) for name, kinds in self._kinds.items() if name != "type"]

    def fields_of(self, message: BaseMessage) -> dict[str, Any]:
        """Return the message's type, its fields that differ from their defaults, and its extra fields."""
        state = message.__dict__
        if len(state) != len(self._blank) or state.get("type") != self.tag:
            raise TypeError(self._unlike(state))
        fields: dict[str, Any] = {"type": self.tag}
        for name, kinds, default in self._stored:
            value = state.get(name)
            if value is default:
                continue
            kind = type(value)
            if kind not in kinds:
                raise TypeError(self._wrong_kind(name, value))
            if value != default or kind is not type(default):
                fields[name] = value
        if message.__pydantic_extra__:
            fields.update(message.__pydantic_extra__)
        return fields

    def build(self, fields: dict[str, Any]) -> BaseMessage:
        """Return a new message with these fields, which it takes over; unknown ones become extra fields."""
        state = self._blank.copy()
        extra: dict[str, Any] = {}
        for name, value in fields.items():
            kinds = self._kinds.get(name)
            if kinds is None:
                extra[name] = value
            elif type(value) in kinds:
                state[name] = value
            else:
                raise DecodeError(f"damaged: {name} of the {self.tag} message is of type {type(value).__name__}")
        for name in self._required:
            if name not in fields:
                raise DecodeError(f"damaged: the {self.tag} message has no {name}")
        for name, container in self._containers:
            if name not in fields:
                state[name] = container()
        return self._build(self.cls, state, set(fields), extra)

    def _unlike(self, state: dict[str, Any]) -> str:
        return (
            f"{self.cls.__name__} {state.get('id')!r} does not have the type or the fields of its class: "
            f"build it with its constructor, and add fields only as extra ones"
        )

    def _wrong_kind(self, name: str, value: object) -> str:
        check_plain(value, name)  # a foreign type has a better message
        kinds = " or ".join(sorted(kind.__name__ for kind in self._kinds[name]))
        return f"{name} is of type {type(value).__name__}: a {self.cls.__name__} keeps {kinds} there"


def _default(field: FieldInfo) -> Any:
    return REQUIRED if field.is_required() else field.get_default(call_default_factory=True)


def _kinds(annotation: Any) -> frozenset[type]:
    """Return the JSON types that a field's values can have."""
    if annotation in JSON_TYPES:
        return frozenset([annotation])
    origin = get_origin(annotation)
    if origin in JSON_TYPES:
        return frozenset([cast(type, origin)])
    if origin in (Union, UnionType):
        return frozenset().union(*map(_kinds, get_args(annotation)))
    if origin is Literal:
        return frozenset(map(type, get_args(annotation)))
    return frozenset([dict]) if is_typeddict(annotation) else JSON_TYPES


def build_with_pydantic(
    cls: type[BaseMessage], state: dict[str, Any], named: set[str], extra: dict[str, Any]
) -> BaseMessage:
    """Build a message through pydantic's own unvalidated constructor."""
    return cls.model_construct(named, **state, **extra)


def _setter(slot: str) -> Any:
    return getattr(vars(BaseModel).get(slot), "__set__", None)  # None: not pydantic 2 as we know it


_set_state, _set_extra = _setter("__dict__"), _setter("__pydantic_extra__")
_set_named, _set_private = _setter("__pydantic_fields_set__"), _setter("__pydantic_private__")


def build_bare(cls: type[BaseMessage], state: dict[str, Any], named: set[str], extra: dict[str, Any]) -> BaseMessage:
    """Build a message by filling the four slots that pydantic 2 has: three times as fast."""
    message: BaseMessage = object.__new__(cls)
    _set_state(message, state)
    _set_named(message, named)
    _set_extra(message, extra)
    _set_private(message, None)
    return message


def trusted_build(bare: Build = build_bare) -> Build:
    """Return the bare build if it still makes what validation makes, else pydantic's own."""
    try:
        same = all(_is_like_validated(bare, cls) for cls in CLASSES)
    except (AttributeError, TypeError):  # pydantic keeps a model's state elsewhere
        same = False
    return bare if same else build_with_pydantic


def _is_like_validated(build: Build, cls: type[BaseMessage]) -> bool:
    for extra in ({}, {"x": [1]}):
        validated = cls(content="", id="1", tool_call_id="2", role="3", name="4", **extra)
        built = build(cls, dict(validated.__dict__), set(validated.model_fields_set), dict(validated.model_extra or {}))
        if not all(
            getattr(built, slot) == getattr(validated, slot)
            and type(getattr(built, slot)) is type(getattr(validated, slot))
            for slot in BaseModel.__slots__
        ):
            return False
        if (
            built != validated
            or built.model_copy(deep=True) != validated
            or built.model_dump() != validated.model_dump()
        ):
            return False
    return True


CLASSES: Final[tuple[type[BaseMessage], ...]] = (
    *(HumanMessage, AIMessage, SystemMessage, ToolMessage, FunctionMessage, ChatMessage, RemoveMessage),
    *(HumanMessageChunk, AIMessageChunk, SystemMessageChunk, ToolMessageChunk, FunctionMessageChunk, ChatMessageChunk),
)
"""Chunks are kept as the chunks they are: a partial answer, too, comes back as what it was."""


def shapes(build: Build) -> Iterable[Shape]:
    """Return the shape of every class, built in this way."""
    return [Shape(cls, build) for cls in CLASSES]


BUILD: Final = trusted_build()
"""Makes a message of a class in `BY_CLASS` from what is known to be valid."""
_SHAPES: Final = shapes(BUILD)
BY_CLASS: Final[dict[type, Shape]] = {shape.cls: shape for shape in _SHAPES}
BY_TAG: Final[dict[str, Shape]] = {shape.tag: shape for shape in _SHAPES}
