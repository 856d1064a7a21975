"""LangChain agents with a conversation that outlives them: `HistoryMiddleware`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from typing_extensions import override

from lc_history.bridge import drive
from lc_history.errors import extra
from lc_history.histories import ChatHistories
from lc_history.model import DEFAULT_USER
from lc_history.transcript import Transcript

with extra("agents"):
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langgraph.config import get_config


class HistoryMiddleware(AgentMiddleware[Any, Any, Any]):
    """Shows the model what was said before, and stores what is said now, each message once.

    It hooks the model call alone: no checkpoint more, the agent's state untouched. What the user said is stored
    before the model is asked, and every answer and tool result before the next step, so that nothing is lost when a
    later step fails. The conversation is the config's ``session_id`` or else its ``thread_id``, of its ``user_id``.

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
        asked, last_seq = drive(_remember(transcript, request.messages))
        response = handler(request.override(messages=asked))
        drive(transcript.append(response.result, not_erased_since=last_seq))
        return response

    @override
    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        transcript = self._transcript()
        asked, last_seq = await _remember(transcript, request.messages)
        response = await handler(request.override(messages=asked))
        await transcript.append(response.result, not_erased_since=last_seq)
        return response

    def _transcript(self) -> Transcript:
        configurable = get_config().get("configurable", {})
        session_id = configurable.get("session_id") or configurable.get("thread_id")
        if session_id is None:
            message = "which conversation? Give its session_id (or thread_id) in config['configurable']"
            raise ValueError(message)
        return self._histories.session(session_id, user_id=configurable.get("user_id", DEFAULT_USER)).transcript


async def _remember(transcript: Transcript, messages: Sequence[BaseMessage]) -> tuple[list[Any], int]:
    """Store what is new, and return everything said so far and the number it has come to."""
    found = await transcript.read()
    placed = await transcript.append(messages, not_erased_since=found.last_seq)
    present = {message.id for message in messages}
    said = [message for message in found.messages if message.id not in present]
    return [*said, *messages], max(found.last_seq, *placed.seqs)
