"""A chat model that refuses what a provider refuses: the only part of an agent that a test may fake."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from typing_extensions import override

from lc_history.strategies.repair import problems


class RefusedError(ValueError):
    """What a provider answers with status 400; the message says which rule was broken."""


def echo(messages: Sequence[BaseMessage]) -> AIMessage:
    """Say again what the person said last."""
    return AIMessage(next(m.text for m in reversed(messages) if isinstance(m, HumanMessage)))


class StrictChatModel(BaseChatModel):
    """Gives the answer that a function makes of the messages, once they are as a provider wants them.

    The answer may depend on the conversation only, never on how often the model was asked: another process that
    goes on with the conversation is answered alike. Streams word by word.

    >>> StrictChatModel().invoke("hello").text
    'hello'
    >>> StrictChatModel().invoke([])
    Traceback (most recent call last):
    lc_history.testing.models.RefusedError: 400: there is nothing to answer: no message but system messages
    """

    answer: Callable[[Sequence[BaseMessage]], AIMessage] = echo
    seconds: float = 0.0
    """How long the model takes to answer."""

    @classmethod
    def scripted(cls, *answers: AIMessage) -> StrictChatModel:
        """Return a model that answers in turn; whose turn it is shows in the number of answers given so far."""
        return cls(answer=lambda messages: answers[sum(isinstance(m, AIMessage) for m in messages)].model_copy())

    @property
    @override
    def _llm_type(self) -> str:
        return "lc-history-strict"

    @override
    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[getattr(tool, "name", tool) for tool in tools], **kwargs)

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answered(messages))])

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        said = self._answered(messages)
        for word in re.findall(r"\S+\s*", said.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        calls = [
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
            for index, call in enumerate(said.tool_calls)
        ]
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=calls, chunk_position="last"))

    def _answered(self, messages: Sequence[BaseMessage]) -> AIMessage:
        if refused := problems(messages):
            raise RefusedError(f"400: {'; '.join(refused)}")
        time.sleep(self.seconds)
        return self.answer(messages)
