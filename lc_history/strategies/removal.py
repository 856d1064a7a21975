"""What is not shown at all: what was removed, by LangGraph's ``RemoveMessage`` for one or all, and what says nothing.

The transcript keeps it all as it was said. To have a message gone for good, erase it. The rest is shown as it can be
sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from langchain_core.messages import AIMessage, BaseMessage, RemoveMessage, ToolMessage

from lc_history.model import ALL_MESSAGES
from lc_history.reading import Said
from lc_history.strategies.characters import writable
from lc_history.strategies.repair import answerable, says_nothing

REMOVED: Final = "[Removed.]"
"""Stands in place of a result that was removed while its call was not: no provider takes one without the other."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What was removed: the messages of these ids, and everything up to that number."""

    ids: frozenset[str] = frozenset()
    through: int = 0


NOTHING: Final = Removal()


def remaining(said: Sequence[Said], later: Removal = NOTHING) -> tuple[list[Said], Removal]:
    """Return what is still shown of a stretch of conversation, and all that was removed in it or later.

    What says nothing is left out too, half characters are replaced, and calls that nothing can answer are dropped.
    An id that was said again after it was removed is shown: the latest word counts.
    """
    doubtful = [  # few are, and what removes is among them: it has no content
        one
        for one in said
        if not (content := one.message.content)
        or not isinstance(content, str)
        or not content.isascii()
        or content.isspace()
        or (type(one.message) is AIMessage and (one.message.tool_calls or one.message.invalid_tool_calls))
        or (type(one.message) is ToolMessage and not one.message.tool_call_id.isascii())
    ]
    changed = {one.seq: shown for one in doubtful if (shown := _as_shown(one)) is not one}
    heard = [left for one in said if (left := changed.get(one.seq, one))] if changed else list(said)
    if later is NOTHING and not any(isinstance(one.message, RemoveMessage) for one in doubtful):
        return heard, later
    return _remaining(heard, later)


def remaining_with(
    earlier: Sequence[Said], incoming: Sequence[BaseMessage], last_seq: int
) -> tuple[list[Said], list[BaseMessage], Removal]:
    """Return what is still shown of what was said and of what comes in now, which may remove some of both.

    What a person says now goes on as it is, even if it is nothing.
    """
    shown = map(_presentable, incoming)
    incoming = [one for one in shown if one.type == "human" or not says_nothing(one)]
    if not any(isinstance(message, RemoveMessage) for message in incoming):
        left, removal = remaining(earlier)
        return left, incoming, removal
    now = [Said(last_seq + 1, "", datetime.now(UTC), message) for message in incoming]
    asked, later = _remaining(now, NOTHING)
    left, removal = remaining(earlier, replace(later, through=min(later.through, last_seq)))
    return left, [one.message for one in asked], removal


def _remaining(said: Sequence[Said], later: Removal) -> tuple[list[Said], Removal]:
    ids, through, left = set(later.ids), later.through, list[Said]()
    for one in reversed(said):
        if one.seq <= through:
            break
        if not isinstance(one.message, RemoveMessage):
            left += _unless_named(one, ids)
        elif one.message.id == ALL_MESSAGES:
            through = one.seq
        else:
            ids.add(str(one.message.id))
    return left[::-1], Removal(frozenset(ids), through)


def _as_shown(one: Said) -> Said | None:
    message = _presentable(one.message)
    if says_nothing(message):
        return None
    return one if message is one.message else one._replace(message=message)


def _presentable(message: BaseMessage) -> BaseMessage:
    """Return the message as it can be sent."""
    return answerable(writable(message))


def _unless_named(one: Said, ids: set[str]) -> list[Said]:
    if one.message.id not in ids:
        return [one]
    if not isinstance(one.message, ToolMessage):
        return []
    return [one._replace(message=one.message.model_copy(update={"content": REMOVED, "artifact": None}))]
