"""What a conversation would have cost under a strategy: each call of the model is planned again, none is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from lc_history.errors import ContextOverflowError
from lc_history.model import SessionKey
from lc_history.store import Store
from lc_history.strategies.recall.words import words
from lc_history.strategies.tokens import TokenCounter, estimate_messages
from lc_history.strategies.view import Strategy
from lc_history.transcript import Transcript

RARE: Final = 3
"""In how few messages a word was said to be one that an answer takes from somewhere."""

KEPT: Final = 0.5
"""How much of a prompt has to begin the next one, else the prefix counts as broken."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The figures of a conversation under one strategy; tokens are those of the prompts."""

    calls: int
    tokens: int
    cached_tokens: int
    """Those that began the prompt before too: what a provider's prefix cache can serve."""
    largest_tokens: int
    breaks: int
    """How often a prompt did not begin with even half of the one before."""
    recall: float | None
    """Of the rare words that answers take up again, the share that the prompt held; None where there are none."""
    refused: int = 0
    """How many calls more could not be made, because the current turn alone was over the budget."""

    @property
    def cached_share(self) -> float:
        """The part of all tokens that a prefix cache can serve."""
        return self.cached_tokens / self.tokens if self.tokens else 0.0

    def cost(self, price: float, cached_price: float) -> float:
        """Return what the prompts cost, at prices for a million tokens and for a million cached ones."""
        return ((self.tokens - self.cached_tokens) * price + self.cached_tokens * cached_price) / 1e6


async def replay(
    messages: Sequence[BaseMessage],
    strategy: Strategy,
    *,
    store: Store,
    count: TokenCounter = estimate_messages,
) -> Replayed:
    """Say a conversation again, turn by turn, and measure what the model would have been sent for each answer.

    store: an empty one, which is filled with the conversation.
    """
    transcript = Transcript(store, SessionKey("replay", "replay"))
    sizes = _Sizes(count)
    said: Counter[str] = Counter()
    before: list[BaseMessage] = []
    tokens: list[int] = []
    cached = breaks = held = taken = refused = 0
    for turn in _turns(messages):
        for at, answer in enumerate(turn):
            if not isinstance(answer, AIMessage) or not at:
                continue
            try:
                prompt = (await strategy.view(transcript, turn[:at])).prompt
            except ContextOverflowError:
                refused += 1
                continue
            shared = sizes.shared(before, prompt)
            breaks += shared < KEPT * sizes.total(before)
            cached += shared
            tokens.append(sizes.total(prompt))
            before = prompt
            rare = {word for word in words(answer.text) if 0 < said[word] <= RARE}
            if rare:
                held += len(rare & {word for message in prompt for word in words(message.text)})
                taken += len(rare)
        await transcript.append(turn)
        for message in turn:
            said.update(set(words(message.text)))
    recall = held / taken if taken else None
    return Replayed(len(tokens), sum(tokens), cached, max(tokens, default=0), breaks, recall, refused)


class _Sizes:
    """Counts each message once, however many prompts it is in."""

    def __init__(self, count: TokenCounter) -> None:
        self._count = count
        self._known: dict[tuple[str | None, str], int] = {}

    def total(self, messages: Sequence[BaseMessage]) -> int:
        return sum(map(self._of, messages))

    def shared(self, one: Sequence[BaseMessage], other: Sequence[BaseMessage]) -> int:
        """Return the tokens that both begin with."""
        same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
        return self.total([message for message, _ in same])

    def _of(self, message: BaseMessage) -> int:
        name = (message.id, message.text)
        if name not in self._known:
            self._known[name] = self._count([message])
        return self._known[name]


def _turns(messages: Sequence[BaseMessage]) -> list[list[BaseMessage]]:
    """Return the turns, system messages at the head in the first one."""
    turns: list[list[BaseMessage]] = [[]]
    for message in messages:
        if isinstance(message, HumanMessage) and any(not isinstance(one, SystemMessage) for one in turns[-1]):
            turns.append([])
        turns[-1].append(message)
    return turns
