"""Histories that every provider accepts: each call followed by its results, each result after its call.

A run that was killed, cancelled or interrupted leaves a tool call without a result, and from then on every provider
answers 400. The rules are kept twice here, on purpose: `problems` says what a provider would refuse, `repair` mends
what concerns calls and results, a view leaves out what is no message, and property tests hold them against each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID, uuid5

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage

from lc_history.strategies.characters import mended

REPAIRED: Final = "lc_history_repaired"
"""The mark, in ``additional_kwargs``, of a result that no tool gave."""

SUMMARY: Final = "lc_history_summary"
"""The mark, in ``additional_kwargs``, of a message that stands for earlier ones and may open a conversation."""

UNFINISHED: Final = (
    "No result: the run was stopped before this call had answered. "
    "It may or may not have taken effect; check before calling again."
)

_NAMESPACE: Final = UUID("5d0f4dc8-52a5-5b0e-9c43-3b1f1a3a8c55")

Call = tuple[str | None, str]
"""What names a call: the id of its message and its own. Some servers count their calls anew in every answer."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that `repair` did to the result of a call.

    answered: there was none, and one was added. dropped: it belonged to no call, or was a second one.
    moved: it did not stand right after its call.
    """

    kind: Literal["answered", "dropped", "moved"]
    tool_call_id: str
    message_id: str | None
    """The message that was added, dropped or moved."""

    def __str__(self) -> str:
        return f"{self.kind} the result of call {self.tool_call_id!r} (message {self.message_id!r})"


@dataclass(frozen=True, slots=True)
class Repaired:
    """A history that providers accept, and what was changed to make it so."""

    messages: list[BaseMessage]
    changes: tuple[Change, ...] = ()


def repair(messages: Sequence[BaseMessage], *, answers: Mapping[Call, ToolMessage] | None = None) -> Repaired:
    """Return the history with exactly one result after each call, and none without a call.

    A valid history comes back with the very same messages. A call without a result gets the one in `answers`, or an
    error marked `REPAIRED` whose id follows from the call, so that every replica makes the same bytes. No message
    that is given is altered.

    >>> from langchain_core.messages import AIMessage, HumanMessage
    >>> call = {"name": "pay", "args": {}, "id": "c1"}
    >>> history = [HumanMessage("pay"), AIMessage("", tool_calls=[call]), HumanMessage("and?")]
    >>> [message.type for message in repair(history).messages]
    ['human', 'ai', 'tool', 'human']
    """
    if _is_valid(messages):
        return Repaired(list(messages))
    results = _results_by_position(messages)
    kept: list[BaseMessage] = []
    changes: list[Change] = []
    for position, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            continue  # it is placed where its call stands, or nowhere
        kept.append(message)
        if isinstance(message, AIMessage) and message.tool_calls + message.invalid_tool_calls:
            found = results.get(position, {})
            in_place = _results_after(messages, position)
            kept += [messages[at] for at in found.values()]
            changes += [Change("moved", call, messages[at].id) for call, at in found.items() if at not in in_place]
            for call in call_names(message):
                if call not in found:
                    answer = (answers or {}).get((message.id, call)) or unfinished(message, call)
                    kept.append(answer)
                    changes.append(Change("answered", call, answer.id))
    placed = {at for found in results.values() for at in found.values()}
    changes += [
        Change("dropped", message.tool_call_id, message.id)
        for position, message in enumerate(messages)
        if isinstance(message, ToolMessage) and position not in placed
    ]
    return Repaired(kept, tuple(changes))


def says_nothing(message: BaseMessage) -> bool:
    """Tell whether a message has neither words nor anything else: Anthropic refuses every prompt with one in it."""
    content = message.content
    blank = not content or content.isspace() if isinstance(content, str) else all(map(_is_blank, content))
    if not blank or getattr(message, "tool_calls", None) or getattr(message, "invalid_tool_calls", None):
        return False
    return not isinstance(message, ToolMessage | RemoveMessage) and not any(message.additional_kwargs.values())


def answerable(message: BaseMessage) -> BaseMessage:
    """Return the message, or a copy without the calls that no result can answer.

    They have no id, or another's, or stand in the content alone, where some providers repeat the calls of a message.
    """
    if not isinstance(message, AIMessage) or not _is_ambiguous(message):
        return message
    seen: set[str | None] = {None, ""}
    kept: dict[str, list[Any]] = {}
    for kind in ("tool_calls", "invalid_tool_calls"):
        kept[kind] = []
        for call in getattr(message, kind):
            if call["id"] not in seen:
                kept[kind].append(call)
                seen.add(call["id"])
    return without_call_blocks(message.model_copy(update=kept))


def without_call_blocks(message: AIMessage) -> AIMessage:
    """Return the message without the calls that its content repeats; providers are sent its ``tool_calls`` instead."""
    if isinstance(message.content, str) or not any(map(_is_call, message.content)):
        return message
    return message.model_copy(update={"content": [block for block in message.content if not _is_call(block)]})


def problems(messages: Sequence[BaseMessage]) -> list[str]:
    """Return what a provider would refuse in this prompt, a sentence each; nothing when it is fine.

    >>> problems([])
    ['there is nothing to answer: no message but system messages']
    """
    spoken = [message for message in messages if not isinstance(message, SystemMessage)]
    if not spoken:
        return ["there is nothing to answer: no message but system messages"]
    found: list[str] = []
    if not isinstance(spoken[0], HumanMessage) and not spoken[0].additional_kwargs.get(SUMMARY):
        found.append(f"the first message is neither a person's nor a summary, but of type {spoken[0].type!r}")
    waiting: set[str] = set()
    for message in messages:
        if isinstance(message, RemoveMessage):
            found.append(f"an instruction to remove {message.id!r} is no message")
        elif says_nothing(message):
            found.append(f"a message of type {message.type!r} says nothing")
        if _is_ambiguous(message):
            found.append("two calls of one answer have the same id, or one has none, or stands in the content alone")
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in waiting:
                found.append(f"a result for {message.tool_call_id!r} follows no call that waits for it")
            waiting.discard(message.tool_call_id)
            continue
        found += _unanswered(waiting)
        waiting = set(call_names(message)) if isinstance(message, AIMessage) else set()
    return found + _unanswered(waiting)


def unanswered(messages: Sequence[BaseMessage]) -> list[tuple[AIMessage, str]]:
    """Return the calls that have no result anywhere in the history, with the messages that made them."""
    results = _results_by_position(messages)
    return [
        (message, call)
        for position, message in enumerate(messages)
        if isinstance(message, AIMessage)
        for call in call_names(message)
        if call not in results.get(position, {})
    ]


def call_names(message: AIMessage) -> dict[str, str]:
    """Return the calls of a message that want a result: the ids and the names of their tools.

    Calls whose arguments could not be parsed are among them: they are sent back to the provider like the others.
    """
    calls = (*message.tool_calls, *message.invalid_tool_calls)
    return {call["id"]: call["name"] or "" for call in calls if call["id"]}


def unfinished(message: AIMessage, call: str, *, text: str = UNFINISHED) -> ToolMessage:
    """Return the marked error that stands for the missing result of a call; the same one each time."""
    return ToolMessage(
        text,
        tool_call_id=call,
        name=call_names(message)[call] or None,
        status="error",
        id=str(uuid5(_NAMESPACE, mended(f"{message.id}\n{call}"))),
        additional_kwargs={REPAIRED: True},
    )


def _results_by_position(messages: Sequence[BaseMessage]) -> dict[int, dict[str, int]]:
    """For the position of each message that calls: where the one result of each call stands, in order.

    A result belongs to the latest call of its id before it. Of several, what a tool gave goes before what `repair`
    once put in its place, and the first before the others.
    """
    owner: dict[str, int] = {}
    results: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for position, message in enumerate(messages):
        if isinstance(message, AIMessage):
            owner.update(dict.fromkeys(call_names(message), position))
        elif isinstance(message, ToolMessage) and message.tool_call_id in owner:
            call = message.tool_call_id
            own = results[owner[call]]
            if call not in own or (_is_repaired(messages[own[call]]) and not _is_repaired(message)):
                own.pop(call, None)  # so that the order of the places stays that of the history
                own[call] = position
    return results


def _results_after(messages: Sequence[BaseMessage], position: int) -> range:
    end = position + 1
    while end < len(messages) and isinstance(messages[end], ToolMessage):
        end += 1
    return range(position + 1, end)


def _is_valid(messages: Sequence[BaseMessage]) -> bool:
    """Tell whether every call is followed by its one result and every result follows its call; false when in doubt.

    Nearly every history is valid, and this is all that one costs: an isinstance that fails is ten times as slow.
    """
    waiting: list[str | None] = []
    for message in messages:
        kind = type(message)
        if kind is ToolMessage:
            if message.tool_call_id not in waiting:  # type: ignore[attr-defined] # it is one
                return False
            waiting.remove(message.tool_call_id)  # type: ignore[attr-defined]
        elif waiting or (kind is not AIMessage and kind is not HumanMessage and kind is not SystemMessage):
            return False
        elif kind is AIMessage:
            if message.invalid_tool_calls:  # type: ignore[attr-defined]
                return False
            if message.tool_calls:  # type: ignore[attr-defined]
                waiting = [call["id"] for call in message.tool_calls]  # type: ignore[attr-defined]
                if len(set(waiting)) < len(waiting):
                    return False
    return not waiting


def _is_ambiguous(message: BaseMessage) -> bool:
    """Tell whether a message makes a call without an id, or two of one id, or one that its content alone knows of."""
    if not isinstance(message, AIMessage):
        return False
    ids = [call["id"] for call in (*message.tool_calls, *message.invalid_tool_calls)]
    if not all(ids) or len(set(ids)) < len(ids):
        return True
    if isinstance(message.content, str):
        return False
    repeated = [block.get("call_id") or block.get("id") for block in message.content if _is_call(block)]  # type: ignore[union-attr] # a call is a dict
    return len(set(repeated)) < len(repeated) or not set(repeated) <= set(ids)


def _is_call(block: str | dict[Any, Any]) -> bool:
    return isinstance(block, dict) and block.get("type") in ("tool_use", "tool_call", "function_call")


def _is_blank(block: str | dict[Any, Any]) -> bool:
    text = block if isinstance(block, str) else block.get("text") if block.get("type") == "text" else None
    return text is not None and not text.strip()


def _is_repaired(message: BaseMessage) -> bool:
    return bool(message.additional_kwargs.get(REPAIRED))


def _unanswered(calls: Iterable[str]) -> list[str]:
    return [f"call {call!r} has no result right after it" for call in sorted(calls)]
