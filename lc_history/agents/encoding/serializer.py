"""What is read back from a checkpoint: LangGraph's serializer, which builds only classes that were allowed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from typing_extensions import override

from lc_history.agents.encoding.exact import dumps, has_lone_surrogate, loads
from lc_history.errors import DecodeError
from lc_history.model import several

_refused: ContextVar[list[str] | None] = ContextVar("lc_history_refused", default=None)


_MSGPACK: Final = "msgpack"
_EXACT: Final = b"\xc1"
"""What no msgpack begins with, before a value that it cannot hold."""
_REPLACED: Final = b"?"
"""What LangGraph puts in the place of a lone surrogate."""


class StrictSerializer(JsonPlusSerializer):
    """Refuses a value with a class that was not allowed, where LangGraph's would give a dict in its place.

    Lone surrogates come back as they were, except in objects of classes that neither LangChain nor LangGraph has made.
    """

    @override
    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        try:
            kind, body = super().dumps_typed(obj)
        except TypeError:  # as a key of a dict, it is not even replaced
            if not has_lone_surrogate(obj):
                raise
            return _MSGPACK, _EXACT + dumps(obj)
        if kind == _MSGPACK and _REPLACED in body and has_lone_surrogate(obj):
            with suppress(TypeError, ValueError):
                return _MSGPACK, _EXACT + dumps(obj)
        return kind, body

    @override
    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        if data[0] == _MSGPACK and data[1][:1] == _EXACT:
            return loads(bytes(data[1][1:]))
        refused: list[str] = []
        token = _refused.set(refused)
        try:
            value = super().loads_typed(data)
        finally:
            _refused.reset(token)
        if refused:
            raise DecodeError(
                f"a checkpoint holds a {refused[0]}, which the graph's state does not name: the class was moved or "
                "renamed, or give it to open_checkpointer(url, allow=[...])"
            )
        return value


def strict_serializer(allow: Sequence[type]) -> StrictSerializer:
    """Return a serializer that builds LangGraph's safe types and these; other rows cannot import or call anything."""
    return StrictSerializer(allowed_msgpack_modules=several("allow", allow, type) or None)


def _note(event: SerdeEvent) -> None:
    refused = _refused.get()
    if refused is not None and event["kind"].endswith("blocked"):
        refused.append(f"{event['module']}.{event['name']}")


register_serde_event_listener(_note)
