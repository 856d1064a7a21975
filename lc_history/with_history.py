"""A runnable with a memory: one read before it, one write after it, each turn exactly once.

It takes the place of ``RunnableWithMessageHistory``, with the same keys in ``configurable``, and needs nothing that
langchain-core 2.0 removes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import merge_configs
from typing_extensions import override

from lc_history.bridge import complete, drive, drive_each, each, either
from lc_history.errors import ConflictError, HistoryError
from lc_history.histories import ChatHistories, history_factory_config
from lc_history.model import DEFAULT_USER, Appended, check_name
from lc_history.privacy.actor import acting, still_acting_as
from lc_history.strategies.view import Strategy, View
from lc_history.transcript import Transcript, give_ids
from lc_history.turn_shape import Outcome, TurnShape

logger = logging.getLogger("lc_history")

_ID = attrgetter("id")

RIVALS = 20
"""How many other turns may come between before the answers of a turn that has an id cannot be stored."""


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
    users. A ``turn_id`` makes a retried turn the same turn: the stored answer is returned, in the form that its output
    schema declares, and the model not called.

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
    if not isinstance(runnable, Runnable):
        message = f"expected a runnable, not a {type(runnable).__name__}: a function becomes one as RunnableLambda(...)"
        raise TypeError(message)
    if not isinstance(histories, ChatHistories):
        message = f"expected ChatHistories, not a {type(histories).__name__}: ChatHistories.open(url) gives them"
        raise TypeError(message)
    return WithHistory(runnable, histories, TurnShape(input_messages_key, history_messages_key, output_messages_key))


@dataclass(slots=True)
class _Turn:
    """One turn under way: what was asked, what the model is to see, and an answer from an earlier try."""

    transcript: Transcript
    turn_id: str | None
    asked: list[BaseMessage]
    view: View
    answer: list[BaseMessage]
    actor: str | None
    """Who began it, and so who stores it, whoever reads a stream to its end or drops it."""

    @classmethod
    async def begin(
        cls, transcript: Transcript, strategy: Strategy, turn_id: str | None, asked: list[BaseMessage]
    ) -> _Turn:
        """Read what the model is to see; what an earlier try of this turn has left is no part of it."""
        give_ids(asked)  # by which it is known again where the runnable answers with the whole conversation
        view = await strategy.view(transcript, asked, turn_id=turn_id)
        answer = [one for one in view.retried if one.belongs_to(turn_id, "out")]
        if turn_id is not None and not answer and not view.whole:
            answer = await transcript.stored(turn_id, "out")
        said = [one.message for one in answer]
        return cls(transcript, turn_id, asked, view, said, acting())

    async def keep(self, answers: Sequence[BaseMessage], *, part: str = "out") -> list[BaseMessage]:
        """Store the turn, and return the answers that stand: another try of the same turn may have been first."""
        with still_acting_as(self.actor):
            return await complete(self._kept(answers, part))

    async def keep_what_there_is(self, answers: Sequence[BaseMessage], error: BaseException) -> None:
        """Store the user's words and what was answered before the error, which goes on to the caller."""
        try:
            await self.keep(answers, part="partial")
        except (HistoryError, TypeError, ValueError) as failure:  # the latter two from what cannot be encoded
            error.add_note(f"Besides, the turn could not be stored: {failure}")
            if isinstance(error, GeneratorExit):  # which nobody catches
                logger.warning("a turn of %s was cut off and could not be stored: %s", self.transcript.key, failure)

    async def _kept(self, answers: Sequence[BaseMessage], part: str) -> list[BaseMessage]:
        # One answer has one id, and the first of two tries wins. Of several, those that the first try does not have
        # would stand behind it, so they are stored only if nobody was.
        seen = self.view.last_seq if self.turn_id is not None and len(answers) > 1 else None
        for left in reversed(range(RIVALS)):
            try:
                placed = await self.transcript.append(
                    [*self.asked, *answers],
                    ids=None if self.turn_id is None else self._ids(len(answers), part),
                    expected_seq=seen,
                    not_erased_since=self.view.last_seq,
                )
            except ConflictError:
                latest = (await self.transcript.read(last=1)).last_seq
                if seen is None or seen == latest or not left:  # it was erased, or there is no end of other turns
                    raise
                if stands := await self._stands(part):
                    return stands
                seen = latest
            else:
                return await self._first(answers, placed, part)
        raise AssertionError  # the last round has returned or raised

    async def _first(self, answers: Sequence[BaseMessage], placed: Appended, part: str) -> list[BaseMessage]:
        seqs, new = placed.seqs[len(self.asked) :], placed.new[len(self.asked) :]
        if all(new):
            return list(answers)
        if self.turn_id is not None:
            return await self._stands(part)
        there = await self.transcript.read(after=min(seqs) - 1, before=max(seqs) + 1)
        return [one.message for one in there.said if one.seq in seqs]

    async def _stands(self, part: str) -> list[BaseMessage]:
        return [one.message for one in await self.transcript.stored(str(self.turn_id), part)]

    def _ids(self, answers: int, part: str) -> list[str]:
        asked = [f"{self.turn_id}/in/{number}" for number in range(len(self.asked))]
        return asked + [f"{self.turn_id}/{part}/{number}" for number in range(answers)]


class WithHistory(Runnable[Any, Any]):
    """A runnable with a memory; made by `with_history`."""

    def __init__(self, runnable: Runnable[Any, Any], histories: ChatHistories, shape: TurnShape) -> None:
        self._runnable, self._histories, self._shape = runnable, histories, shape

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
        sent = self._shape.sent(input, turn.view.messages, turn.view.current)
        try:
            output = await either(
                lambda: self._runnable.invoke(sent, config, **kwargs),
                lambda: self._runnable.ainvoke(sent, config, **kwargs),
            )
            answers = _added(turn, self._shape.answered(output))
        except BaseException as error:
            await turn.keep_what_there_is([], error)
            raise
        stands = await self._keep(turn, answers)
        return output if stands == answers else self._given_back(stands)

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return drive(self.ainvoke(input, config, **kwargs))

    @override
    def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncGenerator[Any, None]:
        return self._streamed(acting(), input, config, **kwargs)

    async def _streamed(
        self, actor: str | None, value: Any, config: RunnableConfig | None, /, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """Answer as `astream` does, for who has asked for it: who reads it may be another, and be in another task."""
        config = ensure_config(config)
        with still_acting_as(actor):
            turn = await self._begin(value, config)
        if turn.answer:
            yield self._given_back(turn.answer)
            return
        sent = self._shape.sent(value, turn.view.messages, turn.view.current)
        chunks: list[Any] = []
        outcome = Outcome()
        heard = merge_configs(config, {"callbacks": [outcome]})
        streamed = each(
            lambda: self._runnable.stream(sent, heard, **kwargs),
            lambda: self._runnable.astream(sent, heard, **kwargs),
        )
        try:
            async with aclosing(streamed):
                async for chunk in streamed:
                    chunks.append(chunk)
                    yield chunk
            answers = _added(turn, self._shape.answered(outcome.after(chunks)))
        except BaseException as error:  # the model's own, a cancellation, or GeneratorExit from who stopped reading
            await turn.keep_what_there_is(_added(turn, self._shape.cut_off(chunks)), error)
            raise
        await self._keep(turn, answers)

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
        asked, turn_id = self._shape.asked(value), configurable.get("turn_id")
        if turn_id is not None:
            check_name("turn_id", turn_id)
        return await _Turn.begin(history.transcript, self._histories.strategy, turn_id, asked)

    async def _keep(self, turn: _Turn, answers: list[BaseMessage]) -> list[BaseMessage]:
        try:
            return await turn.keep(answers)
        except (TypeError, ValueError) as error:  # the answer is too large, or holds what cannot be stored
            await turn.keep_what_there_is([], error)
            raise
        except KeyboardInterrupt:  # in the middle of a blocking save: the ids make it the same one again
            await turn.keep(answers)
            raise

    def _given_back(self, answers: list[BaseMessage]) -> Any:
        """Return stored answers in the shape that the runnable would have given them."""
        key, kind = self._shape.declared(self._runnable)
        value: Any = answers[0] if len(answers) == 1 and kind != "array" else answers
        if isinstance(value, BaseMessage) and kind == "string":
            value = value.text
        return {key: value} if key else value


def _added(turn: _Turn, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return what an output adds: an agent answers with the whole conversation."""
    sent = (*turn.view.prompt, *turn.asked)
    if set(map(_ID, messages)).isdisjoint(map(_ID, sent)):  # which a model's answer always is
        return list(messages)
    known = set(map(_ID, sent))
    return [message for message in messages if message.id is None or message.id not in known]
