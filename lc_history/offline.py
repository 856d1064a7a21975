"""A chat model for when there is none: it has no wits, says so, and shows what it was given to remember."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from typing_extensions import override


class OfflineChatModel(BaseChatModel):
    """Answers without a network, from the messages it is sent alone.

    >>> OfflineChatModel().invoke("I am Ann.").text
    'I am an offline model, with no wits but a memory. You have told me one thing: "I am Ann."'
    """

    @property
    @override
    def _llm_type(self) -> str:
        return "lc-history-offline"

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(_answer(messages)))])

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for word in re.findall(r"\S+\s*", _answer(messages)):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))


def _answer(messages: list[BaseMessage]) -> str:
    heard = [message.text for message in messages if isinstance(message, HumanMessage)]
    if not heard:
        return "I am an offline model, with no wits but a memory. You have told me nothing yet."
    begin = "I am an offline model, with no wits but a memory. You have told me"
    if len(heard) == 1:
        return f'{begin} one thing: "{heard[0]}"'
    return f'{begin} {len(heard)} things. The first was "{heard[0]}", the one before this "{heard[-2]}"'
