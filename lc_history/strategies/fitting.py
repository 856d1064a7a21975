"""Making the current turn fit: its oldest tool results go first, then long arguments, never what a person said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from lc_history.strategies.repair import without_call_blocks

CLEARED: Final = "[Cleared to make room. Call the tool again if this is needed.]"

ARGUMENT_CHARACTERS: Final = 200
"""What is left of a long text in a call's arguments."""

Size = Callable[[Sequence[BaseMessage]], int]


def fitted(turn: Sequence[BaseMessage], room_tokens: int, *, size: Size, low: float) -> list[BaseMessage]:
    """Return the turn with as little left out as brings it down to the room, or as far down as it goes.

    The results of the latest calls stay: a model that lost them would call again, for ever. What is cleared grows in
    steps of ``1 - low`` of the room, so that most calls of a long turn begin with the same bytes as the one before.
    """
    over = size(turn) - room_tokens
    if over <= 0:
        return list(turn)
    step = max((1 - low) * room_tokens, 1)
    goal = ceil(over / step) * step
    latest = next((at for at in reversed(range(len(turn))) if isinstance(turn[at], AIMessage)), len(turn))
    shorter = list(turn)
    for shorten, places in ((_without_result, range(latest)), (_with_short_arguments, range(len(turn)))):
        for at in places:
            if goal > 0:
                change = shorten(shorter[at])
                goal -= size([shorter[at]]) - size([change])
                shorter[at] = change
    return shorter


def _without_result(message: BaseMessage) -> BaseMessage:
    if not isinstance(message, ToolMessage) or (len(message.text) <= len(CLEARED) and isinstance(message.content, str)):
        return message
    return message.model_copy(update={"content": CLEARED, "artifact": None})


def _with_short_arguments(message: BaseMessage) -> BaseMessage:
    if not isinstance(message, AIMessage) or not message.tool_calls:
        return message
    calls = [{**call, "args": _short(call["args"])} for call in message.tool_calls]
    if calls == message.tool_calls:
        return message
    return without_call_blocks(message.model_copy(update={"tool_calls": calls}))


def _short(value: Any) -> Any:
    """Return JSON data with its long texts cut."""
    if isinstance(value, str) and len(value) > ARGUMENT_CHARACTERS:
        return f"{value[:ARGUMENT_CHARACTERS]}… [{len(value) - ARGUMENT_CHARACTERS} characters left out]"
    if isinstance(value, dict):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list) else value
