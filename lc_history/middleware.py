"""LangChain agents with a conversation that outlives them, or with a window over their own state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from typing_extensions import override

from lc_history.bridge import drive
from lc_history.errors import extra
from lc_history.histories import ChatHistories
from lc_history.model import DEFAULT_USER
from lc_history.strategies import View, Window
from lc_history.transcript import Transcript

with extra("agents"):
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse, ToolCallRequest
    from langgraph.config import get_config
    from langgraph.types import Command


STORED = "lc_history_seq"
"""In ``response_metadata`` of an answer in the agent's state: its number in the store, where it is without this."""


class HistoryMiddleware(AgentMiddleware[Any, Any, Any]):
    """Shows the model what was said before, and stores what is said now, each message once.

    It hooks the calls of model and tools alone: no checkpoint more, and nothing in the agent's state but the mark
    `STORED` on its answers. What the user said and what tools gave is stored before the model is asked, and every
    answer before the next step, so that nothing is lost when a later step fails; what a tool gives that returns
    directly, at once. What was erased is not stored again from the agent's state: a turn that was under way ends with
    a `ConflictError`, and the next one begins the conversation anew.
    The conversation is the config's ``session_id`` or else its ``thread_id``, of its ``user_id``.

        agent = create_agent(model, tools, middleware=[HistoryMiddleware(histories)])
        agent.invoke({"messages": "I am Ann."}, {"configurable": {"session_id": "s1", "user_id": "ann"}})
    """

    def __init__(self, histories: ChatHistories) -> None:
        super().__init__()
        self._histories = histories

    @override
    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        transcript = self._transcript()
        view = drive(self._remembered(transcript, request.messages))
        return drive(_stored(transcript, handler(request.override(messages=cast("list[Any]", view.prompt))), view))

    @override
    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        transcript = self._transcript()
        view = await self._remembered(transcript, request.messages)
        return await _stored(transcript, await handler(request.override(messages=cast("list[Any]", view.prompt))), view)

    def _transcript(self) -> Transcript:
        configurable = get_config().get("configurable", {})
        session_id = configurable.get("session_id") or configurable.get("thread_id")
        if session_id is None:
            message = "which conversation? Give its session_id (or thread_id) in config['configurable']"
            raise ValueError(message)
        return self._histories.session(session_id, user_id=configurable.get("user_id", DEFAULT_USER)).transcript

    @override
    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        return drive(_result_stored(self._transcript(), request, handler(request)))

    @override
    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        return await _result_stored(self._transcript(), request, await handler(request))

    async def _remembered(self, transcript: Transcript, messages: Sequence[BaseMessage]) -> View:
        """Store what is new, and return what the model is to see: of earlier turns what is stored, not the state."""
        answered = _answered(messages)
        new = messages[answered + 1 :]
        goes_on = answered >= 0 and not any(isinstance(message, HumanMessage) for message in new)
        await transcript.append(new, not_erased_since=_number(messages[answered]) if goes_on else None)
        people = [at for at, message in enumerate(messages) if isinstance(message, HumanMessage)]
        return await self._histories.strategy.view(transcript, messages[people[-1] if people else 0 :])


async def _stored(transcript: Transcript, response: ModelResponse[Any], view: View) -> ModelResponse[Any]:
    """Store an answer, and return it marked: what comes before it in the agent's state is stored, or was erased."""
    placed = await transcript.append(response.result, not_erased_since=view.last_seq)
    return replace(response, result=[_marked(*one) for one in zip(response.result, placed.seqs, strict=True)])


async def _result_stored(
    transcript: Transcript, request: ToolCallRequest, result: ToolMessage | Command[Any]
) -> ToolMessage | Command[Any]:
    """Store what a tool gave that returns directly: the model is not asked again, which would have stored it.

    Nothing else is stored here: where that fails, a resumed agent would call the tool a second time.
    """
    if isinstance(result, ToolMessage) and request.tool is not None and request.tool.return_direct:
        messages = request.state["messages"]
        answered = _answered(messages)
        since = _number(messages[answered]) if answered >= 0 else None
        await transcript.append([result], not_erased_since=since)
    return result


def _answered(messages: Sequence[BaseMessage]) -> int:
    """Return where the latest answer stands that is stored; -1 where there is none."""
    return next((at for at in reversed(range(len(messages))) if _number(messages[at])), -1)


def _marked(message: BaseMessage, seq: int) -> BaseMessage:
    if not isinstance(message, AIMessage):
        return message
    return message.model_copy(update={"response_metadata": {**message.response_metadata, STORED: seq}})


def _number(message: BaseMessage) -> int | None:
    seq = message.response_metadata.get(STORED)
    return seq if isinstance(seq, int) else None


class WindowMiddleware(AgentMiddleware[Any, Any, Any]):
    """Shows the model a window of the messages that the agent's own state holds; the state stays whole.

    agent = create_agent(model, tools, middleware=[WindowMiddleware(Window(budget_tokens=8000))])
    """

    def __init__(self, window: Window) -> None:
        super().__init__()
        self._window = window

    @override
    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        return handler(self._narrowed(request))

    @override
    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        return await handler(self._narrowed(request))

    def _narrowed(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        return request.override(messages=cast("list[Any]", self._window.over(request.messages)))
