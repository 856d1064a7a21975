"""What is read back from a checkpoint: LangGraph's serializer, which builds only classes that were allowed."""

from __future__ import annotations

from collections.abc import Sequence

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer


def strict_serializer(allow: Sequence[type]) -> JsonPlusSerializer:
    """Return a serializer that builds LangGraph's safe types and these; other rows cannot import or call anything."""
    return JsonPlusSerializer(allowed_msgpack_modules=tuple(allow) or None)
