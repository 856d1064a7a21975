"""A chat history that goes on as an agent's thread."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.constants import START
from langgraph.pregel import Pregel
from langgraph.types import StateUpdate

from lc_history.agents.threads.words import CHANNEL
from lc_history.bridge import drive, either
from lc_history.errors import ConflictError
from lc_history.history import ChatHistory
from lc_history.strategies.repair import repair

Graph = Pregel[Any, Any, Any, Any]


def adopt(history: ChatHistory, graph: Graph, thread_id: str) -> list[BaseMessage]:
    """Make an existing chat history the beginning of a thread, and return its messages as the agent will see them.

    Calls without results are answered on the way, as a provider demands. Adopting it again changes nothing.
    `ConflictError` if the thread holds other messages already. The thread belongs to the history's user.
    """
    return drive(aadopt(history, graph, thread_id))


async def aadopt(history: ChatHistory, graph: Graph, thread_id: str) -> list[BaseMessage]:
    """Do what `adopt` does, without blocking."""
    key = history.transcript.key
    config: RunnableConfig = {"configurable": {"thread_id": thread_id, "user_id": key.user_id}}
    state = await either(lambda: graph.get_state(config), lambda: graph.aget_state(config))
    there = list(state.values.get(CHANNEL, ()))
    said = (await history.transcript.read()).messages
    if there:
        if not {message.id for message in said} <= {message.id for message in there}:
            raise ConflictError(f"thread {thread_id!r} has messages of its own: adopt {key} under a new thread's name")
        return there
    messages = repair(said).messages
    steps = [[StateUpdate({CHANNEL: messages}, START)], [StateUpdate(None, "__end__")]]
    if messages:
        await either(lambda: graph.bulk_update_state(config, steps), lambda: graph.abulk_update_state(config, steps))
    return messages
