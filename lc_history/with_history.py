"""A runnable with a memory: one read before it, one write after it, each turn exactly once.

It takes the place of ``RunnableWithMessageHistory``, with the same keys in ``configurable``, and needs nothing that
langchain-core 2.0 removes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    BaseMessageChunk,
    HumanMessage,
    message_chunk_to_message,
)
from langchain_core.messages.ai import add_ai_message_chunks
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig, ensure_config
from typing_extensions import override

from lc_history.bridge import complete, drive, drive_each, each, either
from lc_history.errors import HistoryError
from lc_history.histories import ChatHistories, history_factory_config
from lc_history.model import DEFAULT_USER
from lc_history.strategies.view import Strategy, View
from lc_history.transcript import Transcript

PARTIAL = "lc_history_partial"
"""In ``response_metadata`` of an answer that was cut off: the stream was cancelled, abandoned or failed."""

CALLS = {"tool_calls", "function_call", "tool_use", "tool_call", "tool_call_chunk", "input_json_delta"}
"""Where providers put the calls of an answer, beside ``tool_calls``."""


def with_history(
    runnable: Runnable[Any, Any],
    histories: ChatHistories,
    *,
    input_messages_key: str | None = None,
    history_messages_key: str | None = None,
    output_messages_key: str | None = None,
) -> WithHistory:
    """Return the runnable with a memory.

    A call names its conversation in ``config["configurable"]``: ``session_id``, and ``user_id`` where there are many
    users. A ``turn_id`` makes a retried turn the same turn: the stored answer is returned and the model not called.

    What a caller can rely on: the user's message is kept when the model raises; a stream that is cut off is stored
    as a partial answer marked so; a save that fails reaches the caller; a turn does not undo an erasure that
    happened while it was under way (`ConflictError`).

    input_messages_key: where the new messages stand in an input that is a dict.
    history_messages_key: where the runnable wants the history; without it, history and input are one list.
    output_messages_key: where the answer stands in an output that is a dict.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> chat = with_history(FakeListChatModel(responses=["Hello Ann."]), ChatHistories.open("memory://"))
    >>> chat.invoke("I am Ann.", {"configurable": {"session_id": "s1"}}).content
    'Hello Ann.'
    """
    return WithHistory(runnable, histories, _Keys(input_messages_key, history_messages_key, output_messages_key))


@dataclass(frozen=True, slots=True)
class _Keys:
    """Where messages stand in the runnable's input and output."""

    input: str | None
    history: str | None
    output: str | None

    def asked(self, value: Any) -> list[BaseMessage]:
        """Return the new messages of an input."""
        if isinstance(value, dict):
            key = self.input or (next(iter(value)) if len(value) == 1 else "input")
            if key not in value:
                message = f"the input has no key {key!r} (it has {sorted(value)}): name it with input_messages_key="
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
                message = f"the output has no key {key!r} (it has {sorted(value)}): name it with output_messages_key="
                raise ValueError(message)
            value = value[key]
        return [
            message_chunk_to_message(one) if isinstance(one, BaseMessageChunk) else one
            for one in _messages(value, AIMessage)
        ]


@dataclass(slots=True)
class _Turn:
    """One turn under way: what was asked, what the model is to see, and an answer from an earlier try."""

    transcript: Transcript
    turn_id: str | None
    asked: list[BaseMessage]
    view: View
    answer: list[BaseMessage]

    @classmethod
    async def begin(
        cls, transcript: Transcript, strategy: Strategy, turn_id: str | None, asked: list[BaseMessage]
    ) -> _Turn:
        """Read what the model is to see; what an earlier try of this turn has left is no part of it."""
        view = await strategy.view(transcript, asked, turn_id=turn_id)
        answer = [one for one in view.retried if one.belongs_to(turn_id, "out")]
        if turn_id is not None and not answer and not view.whole:
            answer = await transcript.stored(turn_id, "out")
        said = [one.message for one in answer]
        return cls(transcript, turn_id, asked, view, said)

    async def keep(self, answers: Sequence[BaseMessage], *, part: str = "out") -> list[BaseMessage]:
        """Store the turn, and return the answers that stand: another try of the same turn may have been first."""
        placed = await complete(
            self.transcript.append(
                [*self.asked, *answers],
                ids=None if self.turn_id is None else self._ids(len(answers), part),
                not_erased_since=self.view.last_seq,
            )
        )
        seqs, new = placed.seqs[len(self.asked) :], placed.new[len(self.asked) :]
        if all(new):
            return list(answers)
        return (await self.transcript.read(after=seqs[0] - 1, before=seqs[-1] + 1)).messages

    async def keep_what_there_is(self, answers: Sequence[BaseMessage], error: BaseException) -> None:
        """Store the user's words and what was answered before the error, which goes on to the caller."""
        try:
            await self.keep([_partial(message) for message in answers], part="partial")
        except HistoryError as failure:
            error.add_note(f"Besides, the turn could not be stored: {failure}")

    def _ids(self, answers: int, part: str) -> list[str]:
        asked = [f"{self.turn_id}/in/{number}" for number in range(len(self.asked))]
        return asked + [f"{self.turn_id}/{part}/{number}" for number in range(answers)]


class WithHistory(Runnable[Any, Any]):
    """A runnable with a memory; made by `with_history`."""

    def __init__(self, runnable: Runnable[Any, Any], histories: ChatHistories, keys: _Keys) -> None:
        self._runnable, self._histories, self._keys = runnable, histories, keys

    @property
    @override
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        return [*self._runnable.config_specs, *history_factory_config]

    @override
    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        config = ensure_config(config)
        turn = await self._begin(input, config)
        if turn.answer:
            return self._given_back(turn.answer)
        sent = self._keys.sent(input, turn.view.messages, turn.view.current)
        try:
            output = await either(
                lambda: self._runnable.invoke(sent, config, **kwargs),
                lambda: self._runnable.ainvoke(sent, config, **kwargs),
            )
        except BaseException as error:
            await turn.keep_what_there_is([], error)
            raise
        answers = self._answers(turn, output)
        stands = await turn.keep(answers)
        return output if stands == answers else self._given_back(stands)

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return drive(self.ainvoke(input, config, **kwargs))

    @override
    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        config = ensure_config(config)
        turn = await self._begin(input, config)
        if turn.answer:
            yield self._given_back(turn.answer)
            return
        sent = self._keys.sent(input, turn.view.messages, turn.view.current)
        chunks: list[Any] = []
        streamed = each(
            lambda: self._runnable.stream(sent, config, **kwargs),
            lambda: self._runnable.astream(sent, config, **kwargs),
        )
        try:
            async with aclosing(streamed):
                async for chunk in streamed:
                    chunks.append(chunk)
                    yield chunk
        except BaseException as error:  # the model's own, a cancellation, or GeneratorExit from who stopped reading
            await turn.keep_what_there_is(self._answers(turn, _whole(chunks)) if chunks else [], error)
            raise
        await turn.keep(self._answers(turn, _whole(chunks)) if chunks else [])

    @override
    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Generator[Any, None, None]:
        return drive_each(self.astream(input, config, **kwargs))

    async def _begin(self, value: Any, config: RunnableConfig) -> _Turn:
        configurable = config.get("configurable", {})
        if "session_id" not in configurable:
            example = "{'configurable': {'session_id': '...'}}"
            message = f"which conversation? Give its session_id in the config: {example}"
            raise ValueError(message)
        user_id = configurable.get("user_id", DEFAULT_USER)
        history = self._histories.session(configurable["session_id"], user_id=user_id)
        asked, turn_id = self._keys.asked(value), configurable.get("turn_id")
        return await _Turn.begin(history.transcript, self._histories.strategy, turn_id, asked)

    def _answers(self, turn: _Turn, output: Any) -> list[BaseMessage]:
        """Return what the output adds: an agent answers with the whole conversation."""
        known = {message.id for message in (*turn.view.prompt, *turn.asked)} - {None}
        return [message for message in self._keys.answered(output) if message.id not in known]

    def _given_back(self, answers: list[BaseMessage]) -> Any:
        """Return stored answers in the shape that the runnable would have given them."""
        value: Any = answers[0] if len(answers) == 1 else answers
        if isinstance(value, BaseMessage) and self._answers_with_text():
            value = value.text
        return {self._keys.output: value} if self._keys.output else value

    def _answers_with_text(self) -> bool:
        try:
            return self._runnable.OutputType is str
        except TypeError:  # a runnable that does not say what it answers with
            return False


def _messages(value: Any, kind: type[BaseMessage]) -> list[BaseMessage]:
    """Return the messages in a text, a message or a list of messages."""
    if isinstance(value, str):
        return [kind(content=value)]
    if isinstance(value, BaseMessage):
        return [value]
    if isinstance(value, list | tuple) and all(isinstance(one, BaseMessage) for one in value):
        return list(value)
    message = f"expected a text, a message or a list of messages, not {type(value).__name__}"
    raise ValueError(message)


def _whole(chunks: Sequence[Any]) -> Any:
    """Join what was streamed; where pieces cannot be joined the last one is the whole."""
    if all(isinstance(chunk, str) for chunk in chunks):
        return "".join(chunks)
    if all(isinstance(chunk, AIMessageChunk) for chunk in chunks):
        return add_ai_message_chunks(*chunks)
    whole = chunks[0]
    for chunk in chunks[1:]:
        try:
            whole = whole + chunk
        except TypeError:
            whole = chunk
    return whole


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
