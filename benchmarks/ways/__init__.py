"""The ways to keep a conversation that are compared: ours, the peers', the raw driver's, and the floor."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

from langchain_core.messages import BaseMessage

from lc_history import ChatHistories

Role = Literal["ours", "variant", "peer", "raw", "floor"]


class Way:
    """One way, on one server. A verb that it does not have is None."""

    name: str
    role: Role
    note = ""
    """What it leaves out, or pays for: stated beside its row."""
    append: Callable[[str, list[BaseMessage]], Any] | None = None
    read: Callable[[str], Any] | None = None
    last: Callable[[str], Any] | None = None
    """The last 20."""
    request: Callable[[str], Any] | None = None
    """A request with an object of its own: open, read everything."""

    fill: Callable[[str, int], Any] | None = None
    """A session of so many messages, where that goes faster than by appending."""

    def close(self) -> None:
        """Release the connections."""


class Ours(Way):
    """The face that LangChain uses, with a fresh object for every call."""

    name, role = "**lc-history**", "ours"

    def __init__(self, url: str, **options: Any) -> None:
        self.histories = ChatHistories.open(url, **options)
        self.histories.migrate()

    def append(self, session: str, messages: list[BaseMessage]) -> None:
        self.histories.session(session).add_messages(messages)

    def read(self, session: str) -> list[BaseMessage]:
        return self.histories.session(session).messages

    def last(self, session: str) -> list[BaseMessage]:
        return self.histories.session(session).last(20)

    request = read

    def close(self) -> None:
        self.histories.close()


class OursAsync(Way):
    """The same object by its other door."""

    name, role = "**lc-history**", "ours"

    def __init__(self, url: str, **options: Any) -> None:
        self.histories = ChatHistories.open(url, **options)

    async def append(self, session: str, messages: list[BaseMessage]) -> None:
        await self.histories.session(session).aadd_messages(messages)

    async def read(self, session: str) -> list[BaseMessage]:
        return await self.histories.session(session).aget_messages()

    async def last(self, session: str) -> list[BaseMessage]:
        return await self.histories.session(session).alast(20)

    request = read

    async def aclose(self) -> None:
        await self.histories.aclose()


class LangChainPeer(Way):
    """Somebody else's BaseChatMessageHistory; one object per session is kept, but for `request`."""

    role = "peer"
    note = "reads everything for the last 20"

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make, self._made = make, {}

    def _history(self, session: str) -> Any:
        if session not in self._made:
            self._made[session] = made(self._make, session)
        return self._made[session]

    def append(self, session: str, messages: list[BaseMessage]) -> None:
        self._history(session).add_messages(messages)

    def read(self, session: str) -> list[BaseMessage]:
        return self._history(session).messages

    def last(self, session: str) -> list[BaseMessage]:
        return self.read(session)[-20:]

    def request(self, session: str) -> list[BaseMessage]:
        return made(self._make, session).messages


class LangChainPeerAsync(LangChainPeer):
    """The same by its async methods."""

    async def append(self, session: str, messages: list[BaseMessage]) -> None:
        await self._history(session).aadd_messages(messages)

    async def read(self, session: str) -> list[BaseMessage]:
        return await self._history(session).aget_messages()

    async def last(self, session: str) -> list[BaseMessage]:
        return (await self.read(session))[-20:]

    async def request(self, session: str) -> list[BaseMessage]:
        return await made(self._make, session).aget_messages()


class AgentsPeer(Way):
    """A session of openai-agents: plain dicts in, plain dicts out."""

    role = "peer"
    note = "keeps dicts as they come: no message is built or checked"

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make, self._made = make, {}

    def _session(self, session: str) -> Any:
        if session not in self._made:
            self._made[session] = self._make(session)
        return self._made[session]

    async def append(self, session: str, messages: list[BaseMessage]) -> None:
        from benchmarks.conversation import as_items

        await self._session(session).add_items(as_items(messages))

    async def read(self, session: str) -> list[Any]:
        return await self._session(session).get_items()

    async def last(self, session: str) -> list[Any]:
        return await self._session(session).get_items(limit=20)


def made(make: Callable[[str], Any], session: str) -> Any:
    """Return a peer's object; most are deprecated by now, and say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(session)
