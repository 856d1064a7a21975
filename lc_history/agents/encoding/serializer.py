"""What is read back from a checkpoint: LangGraph's serializer, which builds only classes that were allowed."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from typing_extensions import override

from lc_history.errors import DecodeError
from lc_history.model import several

_refused: ContextVar[list[str] | None] = ContextVar("lc_history_refused", default=None)


class StrictSerializer(JsonPlusSerializer):
    """Refuses a value with a class that was not allowed, where LangGraph's would give a dict in its place."""

    @override
    def loads_typed(self, data: tuple[str, bytes]) -> Any:
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
