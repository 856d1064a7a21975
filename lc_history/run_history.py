"""A conversation as one run of ``RunnableWithMessageHistory`` sees it."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import ensure_config
from typing_extensions import override

from lc_history.bridge import door
from lc_history.history import ChatHistory
from lc_history.strategies.view import Full, Strategy, View
from lc_history.transcript import Transcript


class RunHistory(ChatHistory):
    """A conversation as one run of ``RunnableWithMessageHistory`` sees it: both of its reads are one snapshot.

    That runnable reads the history when it begins and again when it ends, and cuts its input by the length of the
    second read: with another writer in between it would drop the user's words. Outside a run, reads are fresh, and
    of the whole conversation; within it they are what the strategy shows.
    """

    def __init__(self, transcript: Transcript, strategy: Strategy | None = None) -> None:
        super().__init__(transcript)
        self._strategy = strategy or Full()
        self._snapshot: View | None = None

    @override
    async def aget_messages(self) -> list[BaseMessage]:
        if ensure_config().get("configurable", {}).get("message_history") is not self:
            return await super().aget_messages()
        seen: View = self._snapshot or await self._strategy.view(self.transcript)
        self._snapshot = seen
        return seen.messages

    @override
    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        seen, self._snapshot = self._snapshot, None
        if seen is None:
            await super().aadd_messages(messages)
        else:
            await self.transcript.append(_once(list(messages), seen.messages), not_erased_since=seen.last_seq)

    add_messages = door(aadd_messages)


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
