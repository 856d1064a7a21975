"""A chat model for agents where there is none: it does what it is literally told, with the tools that it has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid5

import orjson
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from typing_extensions import override

from lc_history.offline import OfflineChatModel

_NAMESPACE: Final = UUID("0b8f4f1e-6f0b-5f39-8a59-95a8f5d3c0c4")
_SENTENCES: Final = re.compile(r"[;\n]|[.!?](?:\s|$)|\bthen\b", re.IGNORECASE)
_PARTS: Final = re.compile(r",|\band\b", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")


class OfflineToolModel(OfflineChatModel):
    """Calls the tools whose names are words of what the person says, and reports what they gave.

    Sentences are steps, one after the other; the parts of a sentence, between commas and "and", are calls side by
    side. Numbers go to parameters that are numbers, the words after the tool's name to the others. What it does
    depends on the conversation alone, so another process goes on as this one would have.

        "look up tea, coffee; write a report"   two calls of look_up at once, then one of write_report
    """

    @override
    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        answer = _next(messages, kwargs.get("tools", ()))
        if answer is None:
            return super()._generate(messages, stop, run_manager)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    @override
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answer = _next(messages, kwargs.get("tools", ()))
        if answer is None:
            yield from super()._stream(messages, stop, run_manager)
            return
        for word in re.findall(r"\S+\s*", answer.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        calls = [
            tool_call_chunk(name=call["name"], args=orjson.dumps(call["args"]).decode(), id=call["id"], index=index)
            for index, call in enumerate(answer.tool_calls)
        ]
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=calls, chunk_position="last"))


def _next(messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]]) -> AIMessage | None:
    """Return the next step of what the person asked for, its report at the end, or None if it asks for no tool."""
    place = max(at for at, message in enumerate(messages) if isinstance(message, HumanMessage))
    asked, since = messages[place], messages[place + 1 :]
    steps = _steps(asked.text, tools)
    done = sum(isinstance(message, AIMessage) for message in since)
    if not steps:
        return None
    if done < len(steps):
        calls = [
            ToolCall(name=name, args=args, id=str(uuid5(_NAMESPACE, f"{asked.id} {place} {done} {index}")))
            for index, (name, args) in enumerate(steps[done])
        ]
        return AIMessage("", tool_calls=calls)
    results = [f"{message.name}: {message.text}" for message in since if isinstance(message, ToolMessage)]
    return AIMessage("\n".join(("I am an offline model. This is what my tools gave:", *results)))


def _steps(text: str, tools: Sequence[Mapping[str, Any]]) -> list[list[tuple[str, dict[str, Any]]]]:
    steps = []
    for sentence in _SENTENCES.split(text):
        calls, tool, words = [], None, ""
        for part in _PARTS.split(sentence):
            named = _named(part, tools)
            tool, words = named or (tool, part)
            if tool is not None and (words.strip() or named):
                calls.append((tool["name"], _arguments(tool, words)))
        if calls:
            steps.append(calls)
    return steps


def _named(part: str, tools: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], str] | None:
    """Return the tool whose name stands in the text, all of it before part of it, and what follows it there."""
    known = [tool["function"] for tool in tools]
    whole = [(tool, tool["name"].replace("_", " ")) for tool in known]
    first = [(tool, tool["name"].split("_")[0]) for tool in known]
    for tool, name in (*whole, *first):
        if found := re.search(rf"\b{re.escape(name)}\b", part, re.IGNORECASE):
            return tool, part[found.end() :]
    return None


def _arguments(tool: Mapping[str, Any], words: str) -> dict[str, Any]:
    wanted = tool["parameters"].get("properties", {})
    numeric = [name for name, schema in wanted.items() if schema.get("type") in ("integer", "number")]
    numbers = dict(zip(numeric, _NUMBER.findall(words), strict=False))
    for number in numbers.values():
        words = words.replace(number, "", 1)
    rest = re.sub(r"^(to|for|about)\b", "", " ".join(words.split())).strip()
    return {name: orjson.loads(numbers.get(name, "0")) if name in numeric else rest for name in wanted}
