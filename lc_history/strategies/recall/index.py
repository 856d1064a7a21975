"""What is searched: the turns of conversations, each a passage, in an index that holds no text of them to show.

An index says where something was said. What is shown is then read from the transcript itself, so that nothing that
was erased or has expired, and nothing of another user, ever comes back through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from langchain_core.messages import HumanMessage, RemoveMessage, SystemMessage

from lc_history.model import SessionKey
from lc_history.reading import Said
from lc_history.strategies.rendering import spoken

Scope = Literal["session", "user"]
"""Where to search: in this conversation, or in all of this user's that are indexed."""


class SearchFailedError(Exception):
    """What an index asks for its answer, such as a model of embeddings, failed or took too long."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A turn as it is indexed: the numbers of its first and last message, and its words."""

    first_seq: int
    last_seq: int
    text: str


@dataclass(frozen=True, slots=True)
class Hit:
    """Where something was found, and how well it fits: more is better, within one search."""

    key: SessionKey
    first_seq: int
    last_seq: int
    score: float


class Index(Protocol):
    """Finds turns."""

    async def through(self, key: SessionKey) -> int:
        """Return up to which number a conversation is indexed."""
        ...

    async def add(self, key: SessionKey, passages: Sequence[Passage], *, after: int, through: int) -> bool:
        """Add the turns with ``after < seq <= through``; False, and nothing added, unless it stands at ``after``."""
        ...

    async def search(self, key: SessionKey, query: str, *, scope: Scope, limit: int) -> list[Hit]:
        """Return at most so many turns, the best first; only this user's, and only this session's if so scoped."""
        ...

    async def forget(self, key: SessionKey) -> None:
        """Remove a conversation from the index."""
        ...


def passages(said: Sequence[Said]) -> list[Passage]:
    """Return the turns of a stretch of conversation: a person's words and all that follows from them."""
    turns: list[list[Said]] = []
    for one in said:
        if isinstance(one.message, SystemMessage | RemoveMessage):
            continue
        if not turns or isinstance(one.message, HumanMessage):
            turns.append([])
        turns[-1].append(one)
    return [Passage(turn[0].seq, turn[-1].seq, "\n".join(spoken(one.message) for one in turn)) for turn in turns]
