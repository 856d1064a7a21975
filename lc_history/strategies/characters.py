"""Text that can be sent: half a character, a lone surrogate, makes every prompt that holds it fail before it is sent.

People paste them and models write them; the transcript keeps them, and a view shows U+FFFD in their place.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from langchain_core.messages import AIMessage, BaseMessage

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS


def writable(message: BaseMessage) -> BaseMessage:
    """Return the message, or a copy without lone surrogates in its content and in the arguments of its calls."""
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    if _is_writable(message.content) and all(_is_writable(call["args"]) for call in calls):
        return message
    update: dict[str, Any] = {"content": _mended(message.content)}
    if calls:
        update["tool_calls"] = [{**call, "args": _mended(call["args"])} for call in calls]
    return message.model_copy(update=update)


def mended(text: str) -> str:
    """Return a text with U+FFFD in place of each lone surrogate."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_writable(value: Any) -> bool:
    if not value or (isinstance(value, str) and value.isascii()):
        return True
    try:
        orjson.dumps(value, default=str, option=_OPTIONS)
    except TypeError:
        return False
    return True


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, dict):
        return {_mended(name): _mended(inner) for name, inner in value.items()}
    return [_mended(inner) for inner in value] if isinstance(value, list) else value
