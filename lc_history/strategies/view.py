"""What the model sees of a conversation: a view is made for each call, and the transcript stays whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, Protocol

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from typing_extensions import override

from lc_history.reading import Said
from lc_history.strategies.characters import is_writable
from lc_history.strategies.removal import NOTHING, Removal, remaining, remaining_with
from lc_history.strategies.repair import SUMMARY, repair
from lc_history.transcript import Transcript

OPENING: Final = "(The assistant opens the conversation.)"
"""Stands before an answer that nobody asked for: providers want a person's words first."""


_ID = attrgetter("message.id")
_SPEAKERS: Final = frozenset({HumanMessage, AIMessage})
_CONTENT, _CALLS, _INVALID_CALLS = map(attrgetter, ("content", "tool_calls", "invalid_tool_calls"))


@dataclass(frozen=True, slots=True)
class View:
    """What is sent to the model, in the order of its parts: what changes least comes first, for the prefix cache."""

    system: list[BaseMessage]
    """The system messages that the conversation begins with."""
    window: list[BaseMessage]
    """The turns that are shown word by word."""
    current: list[BaseMessage]
    """What came in, as it is to be sent: the question, or the turn under way."""
    last_seq: int
    """How far the conversation had come: for ``not_erased_since``."""
    begins_at: int
    """The number of the first message that is shown; what was said before it is left out, but for `system`."""
    whole: bool
    """Whether everything that is stored was read."""
    tokens: int = 0
    """About how large the prompt is, where the strategy has counted."""
    retried: list[Said] = field(default_factory=list)
    """What an earlier try of this turn has stored; no part of the prompt."""
    removal: Removal = NOTHING
    """What is not shown because it was removed."""
    summary: list[BaseMessage] = field(default_factory=list)
    """What stands for the messages that are left out."""
    recalled: list[BaseMessage] = field(default_factory=list)
    """What was left out and is shown again, because the question needs it."""

    @property
    def messages(self) -> list[BaseMessage]:
        """Everything but what came in."""
        return [*self.system, *self.summary, *self.window, *self.recalled]

    @property
    def prompt(self) -> list[BaseMessage]:
        """Everything, as it is sent."""
        return [*self.messages, *self.current]


class Strategy(Protocol):
    """Chooses what the model sees.

    A prompt that a strategy makes is always one that providers accept (`lc_history.strategies.repair.problems`):
    no result without its call, no call without its results, a person's words first. What a ``RemoveMessage`` names is
    not shown, nor is it; and of what is stored no message that says nothing.
    """

    async def view(
        self, transcript: Transcript, incoming: Sequence[BaseMessage] = (), *, turn_id: str | None = None
    ) -> View:
        """Return what the model is to see.

        incoming: what is asked now, or the turn under way with its calls and results. Those of it that are stored
            already are not shown twice. Without it, the last stored turn is the current one.
        turn_id: leave out what an earlier try of this turn has stored.

        `ContextOverflowError` when the current turn alone cannot be made to fit.
        """
        ...


class Full(Strategy):
    """Shows everything that was not removed.

    >>> from lc_history import ChatHistories
    >>> from lc_history.bridge import drive
    >>> history = ChatHistories.open("memory://").session("s1")
    >>> history.add_messages([HumanMessage("Hello.")])
    >>> [message.text for message in drive(Full().view(history.transcript)).messages]
    ['Hello.']
    """

    @override
    async def view(
        self, transcript: Transcript, incoming: Sequence[BaseMessage] = (), *, turn_id: str | None = None
    ) -> View:
        found = await transcript.read()
        earlier, retried = apart(found.said, incoming, turn_id)
        head, spoken = opening(earlier)
        window, current, removal = [one.message for one in spoken], list(incoming), NOTHING
        heard = [*window, *current]
        if heard and isinstance(heard[0], HumanMessage) and are_words(heard):  # nothing of it is to be mended
            head, _ = remaining(head)
        else:
            earlier, asked, removal = remaining_with(earlier, incoming, found.last_seq)
            head, spoken = opening(earlier)
            system = [one.message for one in head]
            window, current = sendable([one.message for one in spoken], asked, system)
        return View(
            system=[one.message for one in head],
            window=window,
            current=current,
            last_seq=found.last_seq,
            begins_at=0,
            whole=True,
            retried=retried,
            removal=removal,
        )


def are_words(messages: Sequence[BaseMessage]) -> bool:
    """Tell whether people and models said words, and nothing else: these are sent as they are; false when in doubt.

    Most conversations are nothing else, and each of these lines looks at all of one at the speed of C.
    """
    if not _SPEAKERS.issuperset(map(type, messages)):
        return False
    contents = list(map(_CONTENT, messages))
    try:
        if not all(contents) or any(map(str.isspace, contents)):
            return False
    except TypeError:  # content in blocks
        return False
    answers = [message for message in messages if type(message) is AIMessage]
    if any(map(_CALLS, answers)) or any(map(_INVALID_CALLS, answers)):
        return False
    return all(map(str.isascii, contents)) or all(map(is_writable, contents))


def apart(said: Sequence[Said], incoming: Sequence[BaseMessage], turn_id: str | None) -> tuple[list[Said], list[Said]]:
    """Return what was said before, and what this very turn has stored already."""
    again = {message.id for message in incoming if not isinstance(message, RemoveMessage)} - {None}
    if turn_id is None and not again:
        return list(said), []
    now = set() if again.isdisjoint(map(_ID, said)) else {one.seq for one in said if one.message.id in again}
    if turn_id is not None:
        now |= {one.seq for one in said if one.id.startswith(turn_id) and one.belongs_to(turn_id)}
    if not now:
        return list(said), []
    return [one for one in said if one.seq not in now], [one for one in said if one.seq in now]


def opening(said: Sequence[Said]) -> tuple[list[Said], list[Said]]:
    """Return the system messages that a conversation begins with, and the rest."""
    length = next((at for at, one in enumerate(said) if not isinstance(one.message, SystemMessage)), len(said))
    return list(said[:length]), list(said[length:])


def sendable(
    spoken: Sequence[BaseMessage], incoming: Sequence[BaseMessage], system: Sequence[BaseMessage] = ()
) -> tuple[list[BaseMessage], list[BaseMessage]]:
    """Return what was said and what came in, mended so that providers accept the one before the other.

    system: what stands at the head. Many programs send it with every turn, and Anthropic refuses it in the middle.
    """
    prompts = [message.content for message in system]
    heard, asked = (
        [one for one in some if type(one) is not SystemMessage or one.content not in prompts]
        for some in (spoken, incoming)
    )
    repaired = repair([*heard, *asked])
    mended, border = repaired.messages, len(heard)
    if repaired.changes:
        came_in = {id(message) for message in asked}
        border = next((at for at, message in enumerate(mended) if id(message) in came_in), len(mended))
    window, current = mended[:border], mended[border:]
    first = next((message for message in mended if type(message) is not SystemMessage), None)
    if first is not None and not isinstance(first, HumanMessage) and not first.additional_kwargs.get(SUMMARY):
        window = [HumanMessage(OPENING, id="opening", additional_kwargs={SUMMARY: True}), *window]
    return window, current


def turn_borders(messages: Sequence[BaseMessage]) -> list[int]:
    """Return where turns begin: at each thing that a person says, and at the very beginning."""
    return [at for at, message in enumerate(messages) if at == 0 or isinstance(message, HumanMessage)]


def continues(incoming: Sequence[BaseMessage]) -> bool:
    """Tell whether what came in goes on with a turn that is stored: results of its calls."""
    return not incoming or isinstance(incoming[0], AIMessage | ToolMessage)
