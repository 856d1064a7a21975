"""A conversation as one run of ``RunnableWithMessageHistory`` sees it."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import currentframe
from itertools import islice
from traceback import walk_stack
from typing import Final

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import ensure_config
from typing_extensions import override

from lc_history.bridge import door
from lc_history.history import ChatHistory
from lc_history.strategies.view import Full, Strategy, View
from lc_history.transcript import Transcript

_ENDINGS: Final = {"_exit_history", "_aexit_history"}
"""Where ``RunnableWithMessageHistory`` reads for the second time, to cut its input by the length of what it gets."""
_DEPTH: Final = 5
"""Calls from there to the question who it is, by the longer door."""


class RunHistory(ChatHistory):
    """A conversation as one run of ``RunnableWithMessageHistory`` sees it: both of its reads are one snapshot.

    That runnable reads the history when it begins and again when it ends, and cuts its input by the length of the
    second read: with another writer in between it would drop the user's words. Outside a run, reads are fresh, and
    of the whole conversation; within it they are what the strategy shows. An object that is kept serves one run after
    the other, not two at once.
    """

    def __init__(self, transcript: Transcript, strategy: Strategy | None = None) -> None:
        super().__init__(transcript)
        self._strategy = strategy or Full()
        self._snapshot: View | None = None

    @override
    async def aget_messages(self) -> list[BaseMessage]:
        if not self._is_in_a_run():
            return await super().aget_messages()
        seen = self._snapshot if _a_run_ends() else None
        self._snapshot = seen or await self._strategy.view(self.transcript)
        messages: list[BaseMessage] = self._snapshot.messages
        return messages

    @override
    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        if self._snapshot is None or not self._is_in_a_run():
            await super().aadd_messages(messages)
            return
        seen, self._snapshot = self._snapshot, None
        await self.transcript.append(_once(list(messages), seen.messages), not_erased_since=seen.last_seq)

    add_messages = door(aadd_messages)

    def _is_in_a_run(self) -> bool:
        return ensure_config().get("configurable", {}).get("message_history") is self


def _a_run_ends() -> bool:
    """Tell whether it is at its end that a run reads.

    A run that fails never comes to it, and nothing that it passes on tells it from the next: only who calls does.
    """
    callers = islice(walk_stack(currentframe()), _DEPTH)
    return any(frame.f_code.co_name in _ENDINGS for frame, _ in callers)


def _once(messages: Sequence[BaseMessage], seen: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return what a run has added: an agent answers with the whole conversation, its input included.

    Left out are messages that the run has read, and an input without an id that comes again with one.
    """
    known = {message.id for message in seen}
    echoed = [message for message in messages if message.id and message.id not in known]
    added: list[BaseMessage] = []
    for message in messages:
        if message.id is None and isinstance(message, HumanMessage):
            again = next((one for one in echoed if one.content == message.content and type(one) is type(message)), None)
            if again is not None:
                echoed.remove(again)
                continue
        if message.id is None or message.id not in known:
            added.append(message)
    return added
