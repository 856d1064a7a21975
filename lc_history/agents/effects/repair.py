"""Threads that are never stuck: what a crash, a cancellation or an interrupt left open is answered, nothing is lost.

LangGraph drops a superstep under way when new input arrives: calls stay without results, and the results of parallel
calls that had finished are gone. Here they are applied first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.constants import END, START
from langgraph.pregel import Pregel
from langgraph.types import Overwrite, StateSnapshot, StateUpdate
from typing_extensions import override

from lc_history.agents.checkpoints.checkpointer import Checkpointer
from lc_history.agents.effects.answers import known_answers
from lc_history.agents.effects.execution import effects_of
from lc_history.bridge import drive, either
from lc_history.strategies.repair import Call, Change, Repaired, problems, repair, unanswered

__all__ = [
    "Change",
    "RepairMessages",
    "Repaired",
    "arepair_thread",
    "asettle_thread",
    "problems",
    "repair",
    "repair_thread",
    "settle_thread",
]

Graph = Pregel[Any, Any, Any, Any]

NOT_ANSWERED: Final = (
    "This call was not executed: it waited for a person's answer, and the user wrote something else instead."
)


class RepairMessages(AgentMiddleware[Any, Any, Any]):
    """Shows the model a history that its provider accepts; the agent's state stays as it is.

    `ToolLedger` does this too, and knows more of what happened; this is for agents without one.
    """

    @override
    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        return handler(_repaired(request))

    @override
    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        return await handler(_repaired(request))


def repair_thread(graph: Graph, config: RunnableConfig) -> Repaired:
    """Answer every call that a thread has left open, and return its messages and what was changed.

    Finished parallel calls get their own results, calls that the ledger knows get its answer, the others an error
    that says so. A thread that waits for a person is left alone.
    """
    return drive(arepair_thread(graph, config))


async def arepair_thread(graph: Graph, config: RunnableConfig) -> Repaired:
    """Do what `repair_thread` does, without blocking."""
    state = await _state_of(graph, config)
    if state.interrupts:
        return Repaired(_messages_of(state.values))
    return await _settled(graph, config, state)


def settle_thread(graph: Graph, config: RunnableConfig) -> Repaired:
    """Prepare a thread for a new message of its user: nothing finished is lost, and no call is left open.

    Call it before the new input. It does what `repair_thread` does, and takes the new message for a refusal to
    answer what the thread may be waiting for.
    """
    return drive(asettle_thread(graph, config))


async def asettle_thread(graph: Graph, config: RunnableConfig) -> Repaired:
    """Do what `settle_thread` does, without blocking."""
    return await _settled(graph, config, await _state_of(graph, config))


async def _settled(graph: Graph, config: RunnableConfig, state: StateSnapshot) -> Repaired:
    if START in state.next:  # the run broke off before it had taken in what the user wrote
        await _take_in_what_was_given(graph, config)
        state = await _state_of(graph, config)
    messages = _messages_of(state.values)  # with the results of finished tasks, as LangGraph shows them
    finished = [task.result for task in state.tasks if task.result is not None]
    unfinished = [task.name for task in state.tasks if task.result is None]
    repaired = repair(messages, answers=await _known(graph, config, state))
    steps = [[StateUpdate(None, END)]] if finished else []  # takes those results and drops the other tasks
    if repaired.changes:
        steps += _steps(messages, repaired.messages, unfinished)
    for step in steps:
        await _update(graph, config, step)
    kept = [message for result in finished for message in _messages_of(result) if isinstance(message, ToolMessage)]
    found = [Change("answered", message.tool_call_id, message.id) for message in kept]
    return Repaired(repaired.messages, (*found, *repaired.changes))


async def _take_in_what_was_given(graph: Graph, config: RunnableConfig) -> None:
    saver: Any = graph.checkpointer
    head = await either(lambda: saver.get_tuple(config), lambda: saver.aget_tuple(config))
    await _update(graph, config, [StateUpdate(head.checkpoint["channel_values"][START], START)])


async def _known(graph: Graph, config: RunnableConfig, state: StateSnapshot) -> dict[Call, ToolMessage]:
    """Return what the ledger knows of the open calls, if the thread has one."""
    calls, saver = unanswered(_messages_of(state.values)), graph.checkpointer
    if not calls or not isinstance(saver, Checkpointer):
        return {}
    where = config["configurable"]
    return await known_answers(
        effects_of(saver),
        calls,
        thread_id=str(where["thread_id"]),
        namespace=where.get("checkpoint_ns", ""),
        absent=NOT_ANSWERED if state.interrupts else None,
    )


def _steps(before: list[BaseMessage], after: list[BaseMessage], unfinished: list[str]) -> list[list[StateUpdate]]:
    """Return the updates that store the messages: as what the unfinished node gives, where they are all it lacks."""
    if unfinished and after[: len(before)] == before:
        return [[StateUpdate({"messages": after[len(before) :]}, unfinished[0])]]
    rewritten = [StateUpdate({"messages": Overwrite(after)}, START)]
    return [rewritten] if unfinished else [rewritten, [StateUpdate(None, END)]]


async def _update(graph: Graph, config: RunnableConfig, step: list[StateUpdate]) -> None:
    await either(lambda: graph.bulk_update_state(config, [step]), lambda: graph.abulk_update_state(config, [step]))


async def _state_of(graph: Graph, config: RunnableConfig) -> StateSnapshot:
    return await either(lambda: graph.get_state(config), lambda: graph.aget_state(config))


def _messages_of(values: Any) -> list[BaseMessage]:
    found = values.get("messages", ()) if isinstance(values, dict) else ()
    return list(found) if isinstance(found, list | tuple) else [found]


def _repaired(request: ModelRequest[Any]) -> ModelRequest[Any]:
    repaired = repair(request.messages)
    messages: Any = repaired.messages
    return request.override(messages=messages) if repaired.changes else request
