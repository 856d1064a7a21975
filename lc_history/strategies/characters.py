"""Text that can be sent: half a character, a lone surrogate, makes every prompt that holds it fail before it is sent.

People paste them and models write them; the transcript keeps them, and a view shows U+FFFD in their place.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from langchain_core.messages import BaseMessage

_SENT: Final[tuple[str, ...]] = ("content", "tool_calls", "invalid_tool_calls", "tool_call_id")
_OPTIONS: Final = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS


def writable(message: BaseMessage) -> BaseMessage:
    """Return the message, or a copy without lone surrogates in its content, its calls and the call that it answers."""
    fields = message.__dict__
    update = {name: _mended(fields[name]) for name in _SENT if name in fields and not is_writable(fields[name])}
    return message.model_copy(update=update) if update else message


def mended(text: str) -> str:
    """Return a text with U+FFFD in place of each lone surrogate."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_writable(value: Any) -> bool:
    """Tell whether there is no lone surrogate in a text, or in JSON data."""
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
