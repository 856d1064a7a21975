"""Where the messages of a turn stand: in what goes into a runnable, in what it answers, and in what it streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    BaseMessageChunk,
    HumanMessage,
    RemoveMessage,
    message_chunk_to_message,
)
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable
from typing_extensions import override

PARTIAL = "lc_history_partial"
"""In ``response_metadata`` of an answer that was cut off: the stream was cancelled, abandoned or failed."""

CALLS = {"tool_calls", "function_call", "tool_use", "tool_call", "tool_call_chunk", "input_json_delta"}
"""Where providers put the calls of an answer, beside ``tool_calls``."""


@dataclass(frozen=True, slots=True)
class TurnShape:
    """Where messages stand in the runnable's input and output."""

    input: str | None = None
    history: str | None = None
    output: str | None = None

    def asked(self, value: Any) -> list[BaseMessage]:
        """Return the new messages of an input."""
        if isinstance(value, dict):
            key = self.input or (next(iter(value)) if len(value) == 1 else "input")
            if key not in value:
                message = f"the input has no key {key!r} (it has {list(value)}): name it with input_messages_key="
                raise ValueError(message)
            value = value[key]
        messages = _messages(value, HumanMessage)
        if not messages:
            message = "the input holds no message: a turn begins with what the user says"
            raise ValueError(message)
        return messages

    def sent(self, value: Any, history: list[BaseMessage], asked: list[BaseMessage]) -> Any:
        """Return the runnable's input: the given one, with the history in its place."""
        if self.history:
            if not isinstance(value, dict):
                message = f"history_messages_key={self.history!r} needs an input that is a dict, not {_kind(value)}"
                raise ValueError(message)
            return {**value, self.history: history}
        if isinstance(value, dict):
            key = self.input or (next(iter(value)) if len(value) == 1 else "input")
            return {**value, key: [*history, *asked]}
        return [*history, *asked]

    def answered(self, value: Any) -> list[BaseMessage]:
        """Return the messages of an output."""
        if isinstance(value, dict):
            key = self.output or (next(iter(value)) if len(value) == 1 else "output")
            if key not in value:
                message = f"the output has no key {key!r} (it has {list(value)}): name it with output_messages_key="
                raise ValueError(message)
            value = value[key]
        return [_without_chunk(one) for one in _messages(value, AIMessage)]

    def declared(self, runnable: Runnable[Any, Any]) -> tuple[str | None, str | None]:
        """Return where a runnable says that its answer stands, and the JSON type it says the answer has."""
        try:
            schema = runnable.get_output_jsonschema()
        except Exception:  # noqa: BLE001  whatever somebody's types raise: it does not say
            schema = {}
        parts = schema.get("properties", {}) if schema.get("type") == "object" else {}
        lists = [name for name, part in parts.items() if part.get("type") == "array"]
        key = self.output or (next(iter(parts)) if len(parts) == 1 else "messages" if "messages" in lists else None)
        return key, (parts.get(key, {}) if key else schema).get("type")

    def cut_off(self, chunks: Sequence[Any]) -> list[BaseMessage]:
        """Return the messages of a stream that did not end, the last one marked as a partial answer."""
        try:
            found = self.answered(whole(chunks))
        except ValueError:  # an agent's steps, or pieces with their metadata
            found = _told_apart(_messages_within(chunks))
        cut = map(_partial, found[-1:])
        return [*found[:-1], *(one for one in cut if one.content)]  # providers refuse an answer without a word


class Outcome(BaseCallbackHandler):
    """Hears what a runnable has answered as a whole, whatever it streams: an agent streams steps, not its answer.

    Only a runnable that is one run says so. One that calls others side by side, and is no run itself, does not.
    """

    run_inline = True

    def __init__(self) -> None:
        self._runs: set[UUID] = set()
        self._outermost: list[UUID] = []
        self._output: Any = None

    @override
    def on_chain_start(self, *_: Any, run_id: UUID, **kwargs: Any) -> None:
        if kwargs.get("parent_run_id") not in self._runs:
            self._outermost.append(run_id)
        self._runs.add(run_id)

    on_chat_model_start: Any = on_chain_start
    on_llm_start: Any = on_chain_start
    on_retriever_start: Any = on_chain_start
    on_tool_start: Any = on_chain_start

    @override
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        if run_id in self._outermost:
            self._output = outputs

    def after(self, chunks: Sequence[Any]) -> Any:
        """Return the whole answer of a stream that has ended; a model that is no chain is heard by its chunks."""
        return whole(chunks) if self._output is None or len(self._outermost) > 1 else self._output


def whole(chunks: Sequence[Any]) -> Any:
    """Join what was streamed; where pieces cannot be joined the last one is the whole."""
    if not chunks:
        return []
    if all(isinstance(chunk, str) for chunk in chunks):
        return "".join(chunks)
    if all(isinstance(chunk, AIMessageChunk) for chunk in chunks):
        return add_ai_message_chunks(*chunks)
    joined = chunks[0]
    for chunk in chunks[1:]:
        try:
            joined = joined + chunk
        except TypeError:
            joined = chunk
    return joined


def _messages(value: Any, kind: type[BaseMessage]) -> list[BaseMessage]:
    """Return the messages in a text, a message or a list of messages."""
    if isinstance(value, str):
        return [kind(content=value)]
    if isinstance(value, BaseMessage):
        return [value]
    if isinstance(value, list | tuple) and all(isinstance(one, BaseMessage) for one in value):
        return list(value)
    message = f"expected a text, a message or a list of messages, not {_kind(value)}"
    if isinstance(value, PromptValue):
        message += ": put the prompt inside, with_history(prompt | model, ...), so that it is not stored each turn"
    elif isinstance(value, list | tuple):
        message += ": langchain_core.messages.convert_to_messages() makes messages of them"
    raise ValueError(message)


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        others = sorted({type(one).__name__ for one in value if not isinstance(one, BaseMessage)})
        return f"a {type(value).__name__} with {', '.join(others)}"
    return type(value).__name__


def _messages_within(value: Any) -> Iterator[BaseMessage]:
    """Yield the messages in what was streamed, however it is wrapped: by node, by mode, with metadata."""
    if isinstance(value, BaseMessage):
        if not isinstance(value, RemoveMessage):
            yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _messages_within(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _messages_within(one)


def _told_apart(pieces: Iterator[BaseMessage]) -> list[BaseMessage]:
    """Join the chunks of one message, and let a later state of a message stand for an earlier one."""
    found: dict[str, BaseMessage] = {}
    for number, piece in enumerate(pieces):
        name = piece.id or next(reversed(found), f"{number}") if _is_chunk(piece) else piece.id or f"{number}"
        before = found.get(name)
        joins = _is_chunk(piece) and type(before) is type(piece)
        found[name] = before + piece if joins else piece  # type: ignore[operator,assignment]  # two chunks of a kind
    return [_without_chunk(one) for one in found.values()]


def _is_chunk(message: BaseMessage) -> bool:
    return isinstance(message, BaseMessageChunk)


def _without_chunk(message: BaseMessage) -> BaseMessage:
    return message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message


def _partial(message: BaseMessage) -> BaseMessage:
    """Mark an answer that was cut off; a call that it only began to make is not kept as a call."""
    update: dict[str, Any] = {"response_metadata": {**message.response_metadata, PARTIAL: True}}
    if isinstance(message, AIMessage):
        kwargs = {name: value for name, value in message.additional_kwargs.items() if name not in CALLS}
        update |= {"tool_calls": [], "invalid_tool_calls": [], "additional_kwargs": kwargs}
        if isinstance(message.content, list):
            blocks = message.content
            update["content"] = [one for one in blocks if isinstance(one, str) or one.get("type") not in CALLS]
    return message.model_copy(update=update)
