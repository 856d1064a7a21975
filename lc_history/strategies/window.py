"""The latest turns, within a budget: cut rarely and deep, so that the provider's prefix cache keeps its worth.

A window that drops its oldest turn with every new one changes the beginning of every prompt, and the provider caches
nothing. This one lets the conversation grow to the budget, then cuts it to about half, on a turn border, and notes
in the session where: every process and every retry shows the same bytes.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from math import ceil, inf
from typing import Final

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage
from typing_extensions import override

from lc_history.errors import ConflictError, ContextOverflowError
from lc_history.reading import Said
from lc_history.strategies.fitting import Size, fitted
from lc_history.strategies.removal import Removal, remaining, remaining_with
from lc_history.strategies.repair import says_nothing
from lc_history.strategies.tokens import TokenCounter, calibration, estimate_messages
from lc_history.strategies.view import Strategy, View, apart, continues, opening, sendable, turn_borders
from lc_history.transcript import Transcript

logger = logging.getLogger("lc_history")

FIRST_READ: Final = 512
"""How many messages are read, from the end, of a conversation that was never cut."""

MAX_SYSTEM_MESSAGES: Final = 8
"""How many system messages a conversation may begin with, once it is too long to be read whole."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a window begins: the number of its first message, and those of the system messages before it.

    removed_through: everything up to this number was removed.
    """

    begins_at: int = 0
    system: Sequence[int] = ()
    removed_through: int = 0


@dataclass(frozen=True, slots=True)
class _Heard:
    """What was read for one view."""

    cut: Cut
    system: list[Said]
    spoken: list[Said]
    retried: list[Said]
    last_seq: int
    begins_at: int
    whole: bool
    asked: list[BaseMessage]
    removal: Removal

    def number(self, message: BaseMessage) -> int:
        """Return the number of what was said, or the next one for what has just come in; never one beyond that."""
        number = next((one.seq for one in self.spoken if one.message is message), self.spoken[-1].seq + 1)
        return min([number, *(one.seq for one in self.retried[:1])])


@dataclass(frozen=True, slots=True)
class _Plan:
    """How large the messages are, and where turns begin."""

    sums: list[int]
    borders: list[int]
    system: int
    size: Size

    def tokens(self, start: int, end: int) -> int:
        return self.sums[end] - self.sums[start]

    def turns(self, start: int, end: int) -> int:
        return bisect_left(self.borders, end) - bisect_left(self.borders, start)


class Window(Strategy):
    """Shows the latest turns.

    budget_tokens: how large the prompt may be. Leave room for what is added elsewhere: a system prompt of the chain,
        descriptions of tools, the answer.
    turns: how many turns may be shown, the current one included.
    low: how much of either is left after a cut.
    count: counts tokens; without it they are estimated, and calibrated by what the provider has told.
    name: windows of one name share their cuts.

    >>> from lc_history import ChatHistories
    >>> from lc_history.bridge import drive
    >>> history = ChatHistories.open("memory://").session("s1")
    >>> history.add_messages([HumanMessage(f"number {number}") for number in range(9)])
    >>> [message.text for message in drive(Window(turns=4).view(history.transcript)).messages]
    ['number 7', 'number 8']
    """

    def __init__(
        self,
        *,
        budget_tokens: int | None = None,
        turns: int | None = None,
        low: float = 0.5,
        count: TokenCounter | None = None,
        name: str = "window",
    ) -> None:
        if budget_tokens is None and turns is None:
            raise ValueError("a window of what size? Give budget_tokens= or turns=")
        for what, size in (("budget_tokens", budget_tokens), ("turns", turns)):
            if size is not None and not size >= 1:  # which NaN is not either
                raise ValueError(f"{what} must be at least 1, not {size}")
        if not 0 <= low <= 1:
            raise ValueError(f"low must be between 0 and 1, not {low}")
        self.budget_tokens, self.turns, self.low, self.name = budget_tokens, turns, low, name
        self._count = count

    @override
    async def view(
        self, transcript: Transcript, incoming: Sequence[BaseMessage] = (), *, turn_id: str | None = None
    ) -> View:
        heard = await self._heard(transcript, incoming, turn_id)
        view = self._shown(transcript, heard)
        if any(isinstance(message, RemoveMessage) for message in incoming):
            return view  # where to cut is noted once what is removed now is stored
        if view.begins_at > heard.cut.begins_at and not await self._noted(transcript, heard, view.begins_at):
            heard = await self._heard(transcript, incoming, turn_id)  # somebody else has cut here: theirs counts
            view = self._shown(transcript, heard)
        return view

    def over(self, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        """Return what is shown of messages that are held elsewhere, such as in a graph's state.

        Nothing is noted: where to cut follows from the messages alone, as if the model had been asked by this
        window from the first one on.
        """
        _, messages, _ = remaining_with((), messages, 0)
        latest = _latest_turn(messages)
        messages = [one for at, one in enumerate(messages) if at == latest or not says_nothing(one)]
        head = next((at for at, one in enumerate(messages) if not isinstance(one, SystemMessage)), len(messages))
        system = list(messages[:head])
        spoken, _ = sendable(messages[head:], (), system)
        plan = self._measured(system, spoken, 1.0)
        start = current = 0
        for end, message in enumerate(spoken):
            if isinstance(message, AIMessage):
                start = self._begin(plan, start, current, end)
            elif isinstance(message, HumanMessage):
                current = end
        start = self._begin(plan, start, current, len(spoken))
        return [*system, *self._fitted(spoken[start:], plan, "this state")]

    def _shown(self, transcript: Transcript, heard: _Heard) -> View:
        system = [one.message for one in heard.system]
        spoken = [one.message for one in heard.spoken]
        earlier, came_in = sendable(spoken, heard.asked, system)
        messages, border = [*earlier, *came_in], len(earlier)
        plan = self._measured(system, messages, 1.0 if self._count else calibration(spoken))
        current = _latest_turn(messages) if continues(heard.asked) else border
        start = self._begin(plan, 0, current, len(messages))
        shown = self._fitted(messages[start:], plan, str(transcript.key))
        return View(
            system=system,
            window=shown[: border - start],
            current=shown[border - start :],
            last_seq=heard.last_seq,
            begins_at=heard.number(messages[start]) if start else heard.begins_at,
            whole=heard.whole,
            tokens=plan.system + plan.size(shown),
            retried=heard.retried,
            removal=heard.removal,
        )

    def _measured(self, system: Sequence[BaseMessage], messages: Sequence[BaseMessage], scale: float) -> _Plan:
        count = self._count or estimate_messages
        known: dict[int, tuple[int, BaseMessage]] = {}  # the message too, so that its identity stays its own

        def size(some: Sequence[BaseMessage]) -> int:
            for message in some:
                if id(message) not in known:
                    known[id(message)] = ceil(scale * count([message])), message
            return sum(known[id(message)][0] for message in some)

        sums = list(accumulate((size([message]) for message in messages), initial=0))
        return _Plan(sums, turn_borders(messages), size(system), size)

    def _begin(self, plan: _Plan, start: int, current: int, end: int) -> int:
        """Return where to begin so that all fits: at ``start`` as before, or else deep within."""
        budget, turns = self.budget_tokens or inf, self.turns or inf
        room = budget - plan.system - plan.tokens(current, end)
        if plan.tokens(start, current) <= room and plan.turns(start, current) + 1 <= turns:
            return start
        room, turns = min(room, self.low * budget), max(1, self.low * turns)
        for border in plan.borders[plan.turns(0, start) : plan.turns(0, current)]:
            if plan.tokens(border, current) <= room and plan.turns(border, current) + 1 <= turns:
                return border
        return current

    def _fitted(self, shown: list[BaseMessage], plan: _Plan, whose: str) -> list[BaseMessage]:
        """Return what is shown, shortened where only the current turn is left and still too large."""
        if self.budget_tokens is None:
            return shown
        shorter = fitted(shown, self.budget_tokens - plan.system, size=plan.size, low=self.low)
        over = plan.system + plan.size(shorter) - self.budget_tokens
        if over > 0:
            message = (
                f"the current turn of {whose} is {over} tokens over the budget of {self.budget_tokens}, of which "
                f"{plan.system} are its system messages: raise budget_tokens, or send less"
            )
            raise ContextOverflowError(message)
        return shorter

    async def _heard(self, transcript: Transcript, incoming: Sequence[BaseMessage], turn_id: str | None) -> _Heard:
        """Read what a view may need: from the cut on, or from the end backwards until it is enough."""
        cut = await self._cut(transcript)
        after, count = max(cut.begins_at - 1, 0), FIRST_READ
        while True:
            found = await transcript.read(after=after, last=count)
            said, retried = apart(found.said, incoming, turn_id)
            said, asked, removal = remaining_with(said, incoming, found.last_seq)
            all_of_it = len(found.said) + len(found.unreadable) < count
            anew = removal.through > after
            if all_of_it or anew or self._is_enough(said):
                break
            count *= 8
        whole, begins_at, spoken = all_of_it and not after, cut.begins_at, said
        removal = replace(removal, through=max(removal.through, cut.removed_through))
        if anew or (all_of_it and after == removal.through):
            system, spoken = opening(said)
            begins_at = removal.through and removal.through + 1
        else:
            system, _ = remaining(await self._system(transcript, cut), removal)
        if not all_of_it and not anew:  # it begins in the middle of some turn
            spoken = spoken[next(at for at, one in enumerate(said) if isinstance(one.message, HumanMessage)) :]
            begins_at = spoken[0].seq
        return _Heard(cut, system, spoken, retried, found.last_seq, begins_at, whole, asked, removal)

    def _is_enough(self, said: Sequence[Said]) -> bool:
        """Tell whether the whole turns among what was read are more than the window shows."""
        messages = [one.message for one in said]
        borders = turn_borders(messages)[1:]  # the first is no whole turn
        if not borders:
            return False
        plan = self._measured([], messages[borders[0] :], 1.0)
        return len(borders) > (self.turns or inf) or plan.sums[-1] > (self.budget_tokens or inf)

    async def _system(self, transcript: Transcript, cut: Cut) -> list[Said]:
        """Return the system messages at the head of a conversation whose beginning was not read."""
        if not cut.begins_at:
            return opening((await transcript.read(first=MAX_SYSTEM_MESSAGES)).said)[0]
        if not cut.system:
            return []
        found = await transcript.read(after=cut.system[0] - 1, before=cut.system[-1] + 1)
        return [one for one in found.said if one.seq in cut.system]

    async def _cut(self, transcript: Transcript) -> Cut:
        """Return the latest cut that was noted."""
        for last in (1, None):  # nearly always the latest note is ours
            notes = await transcript.notes("anchors", last=last)
            ours = [note for note in notes if note.id.startswith(f"{self.name}:")]
            if ours or not notes:
                break
        return Cut(**ours[-1].value) if ours else Cut()

    async def _noted(self, transcript: Transcript, heard: _Heard, begins_at: int) -> bool:
        """Note where the window begins from now on; False when somebody else has moved it from the same place."""
        cut = Cut(begins_at, [one.seq for one in heard.system], heard.removal.through)
        try:
            return await transcript.note(
                "anchors",
                f"{self.name}:{heard.cut.begins_at}",
                asdict(cut),
                not_erased_since=heard.last_seq,
            )
        except ConflictError as error:  # this view still fits; the turn itself finds out what it means
            logger.info("a cut of %s was not noted: %s", transcript.key, error)
            return True


def _latest_turn(messages: Sequence[BaseMessage]) -> int:
    return max((at for at, one in enumerate(messages) if isinstance(one, HumanMessage)), default=0)
