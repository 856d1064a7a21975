"""A conversation as plain text, for a model that is to summarise it, and for what is recalled of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import orjson
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from lc_history.reading import Said
from lc_history.strategies.tokens import estimate

CHARACTERS_PER_TOKEN = 2
"""A floor: no prose, code or JSON has fewer; where Han has, a piece is larger than it was to be."""


def rendered(said: Said) -> str:
    """Return who said a message, when, and its words, calls or result, in a line or more.

    >>> from datetime import UTC, datetime
    >>> rendered(Said(1, "m1", datetime(2026, 3, 1, 9, 30, tzinfo=UTC), HumanMessage("Good morning.")))
    '[2026-03-01 09:30] User: Good morning.'
    """
    return f"[{said.created_at:%Y-%m-%d %H:%M}] {spoken(said.message)}"


def spoken(message: BaseMessage) -> str:
    """Return who said a message, and its words, calls or result."""
    if isinstance(message, ToolMessage):
        return f"Result of {message.name or 'a tool'}: {message.text}"
    who = "User" if isinstance(message, HumanMessage) else "Assistant" if isinstance(message, AIMessage) else "System"
    calls = message.tool_calls if isinstance(message, AIMessage) else []
    called = [f"calls {call['name']}({orjson.dumps(call['args'], default=str).decode()})" for call in calls]
    return f"{who}: {' '.join(filter(None, [message.text, *called]))}"


def in_chunks(lines: Sequence[str], chunk_tokens: int) -> Iterator[str]:
    """Yield all of the lines, together in chunks of at most about so many tokens; a line too long is split."""
    longest = chunk_tokens * CHARACTERS_PER_TOKEN
    pieces = [line[at : at + longest] for line in lines for at in range(0, len(line), longest)]
    chunk: list[str] = []
    room = chunk_tokens
    for piece in pieces:
        tokens = estimate(piece)
        if chunk and tokens > room:
            yield "\n".join(chunk)
            chunk, room = [], chunk_tokens
        chunk.append(piece)
        room -= tokens
    if chunk:
        yield "\n".join(chunk)


def clipped(text: str, most_tokens: int, size: Callable[[str], int] = estimate) -> str:
    """Return the text, or as much of its beginning as has at most so many tokens, nothing where even that is more."""
    shown = len(text)
    while shown > 0 and (tokens := size(text[:shown])) > most_tokens:
        shown = min(shown - 1, shown * most_tokens // tokens)
    return text if shown == len(text) else f"{text[: shown - 1]}…" if shown > 0 else ""
