"""What the ledger can answer for calls that a history left open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.types import Command

from lc_history.agents.effects.rows import Effects, key_of
from lc_history.strategies.repair import Call, call_names, unfinished

IN_DOUBT: Final = (
    "The outcome of this call is unknown: the run was stopped while the tool was at work. "
    "It may or may not have taken effect; check before calling it again."
)
NOT_BEGUN: Final = "This call was not executed: the run was stopped before the tool began."


def key_of_call(thread_id: str, namespace: str, message: AIMessage, call: str) -> str:
    """Return the key of a tool call's effect.

    The arguments are those that the history shows. A fork that changes them asks for another effect; a middleware
    that adds something to them on the way, such as the time, does not.
    """
    asked = [(one["name"], one["args"]) for one in message.tool_calls if one["id"] == call]
    return key_of(thread_id, namespace, message.id, call, asked)


async def known_answers(
    effects: Effects, calls: Sequence[tuple[AIMessage, str]], *, thread_id: str, namespace: str, absent: str | None
) -> dict[Call, ToolMessage]:
    """Return the answers to open calls: what came of them, or that it is unknown, and then that is kept.

    absent: what to say of a call that the ledger has never seen; None leaves it open.
    """
    keys = {key_of_call(thread_id, namespace, message, call): (message, call) for message, call in calls}
    found = await effects.find(thread_id, list(keys))
    answers: dict[Call, ToolMessage] = {}
    for key, (message, call) in keys.items():
        standing = found.get(key)
        answer = None if standing is None else result_message(standing.result, call)
        if standing is not None and standing.state == "started":
            answer = unfinished(message, call, text=IN_DOUBT)
            await effects.give_up(thread_id, key, answer)
        if answer is None and (absent is not None or standing is not None):
            answer = unfinished(message, call, text=absent or IN_DOUBT)
        if answer is not None:
            answers[message.id, call] = answer
    return answers


def result_message(result: Any, call: str) -> ToolMessage | None:
    """Return the result message for a call out of what a tool returned: a message, a command or a list of them."""
    for message in _messages(result):
        if isinstance(message, ToolMessage) and message.tool_call_id == call:
            return message
    return None


def asking_message(messages: Iterable[Any], tool_call: Any) -> AIMessage:
    """Return the latest message that makes this call, or one that stands for it where the state has none."""
    for message in reversed(list(messages)):
        if isinstance(message, AIMessage) and tool_call["id"] in call_names(message):
            return message
    return AIMessage("", tool_calls=[tool_call])


def _messages(result: Any) -> Iterable[Any]:
    if isinstance(result, Command):
        update = result.update
        result = update.get("messages", ()) if isinstance(update, dict) else update
    if not isinstance(result, list | tuple):
        return [result]
    return [message for one in result for message in _messages(one)]
