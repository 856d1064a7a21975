"""Whatever a strategy shows, and at its tail what it leaves out but the question is about."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from typing import Final

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage, SystemMessage
from typing_extensions import override

from lc_history.errors import ConflictError, PolicyError, StoreUnavailableError
from lc_history.model import SessionKey
from lc_history.reading import Reading, Said
from lc_history.strategies.recall.index import Hit, Index, Scope, SearchFailedError, passages
from lc_history.strategies.removal import Removal, remaining
from lc_history.strategies.rendering import clipped, rendered, spoken
from lc_history.strategies.tokens import TokenCounter, estimate_messages
from lc_history.strategies.view import Strategy, View
from lc_history.transcript import Transcript

logger = logging.getLogger("lc_history")

RECALLED: Final = "lc_history_recalled"
"""The mark, in ``additional_kwargs``, of a message that repeats what was said earlier."""

HEADING: Final = "Said earlier, repeated here because it may bear on what follows:"

REMOVED: Final = "recall/removed:"
"""Begins the names of the side records that tell which messages were removed, up to the number that follows."""

CATCH_UP: Final = 1000
"""How many messages are indexed in one go."""

CANDIDATES: Final = 12
"""How many turns are looked at, at most, to fill the room there is."""


class Recall(Strategy):
    """Shows what another strategy shows, and earlier turns that the question is about.

    They stand after the window, right before the question, so that the prefix cache keeps what comes before; they
    are told as text, with the time they were said, so calls and results stay together. Where the question is not
    known when the view is made, as under ``RunnableWithMessageHistory``, there are none. What has left the window is
    indexed when it leaves; `catch_up` does it ahead of time, and for other sessions.

    strategy: what is shown beside.
    index: where to look: `LexicalIndex` or `VectorIndex`.
    recall_tokens: how large what is recalled may be, beside the other strategy's budget.
    scope: whether to look in this conversation or in all of this user's.
    plaintext: allow an index that holds words or meanings in the open although the conversations are sealed.

    What is found is read from the transcript, so nothing erased or expired is shown. When the index cannot be reached
    or its embeddings fail, turns go on without, and the log warns once until it answers again. `PolicyError` where the
    conversation is sealed and the index is not.
    """

    def __init__(
        self,
        strategy: Strategy,
        index: Index,
        *,
        recall_tokens: int = 1000,
        scope: Scope = "session",
        plaintext: bool = False,
        count: TokenCounter = estimate_messages,
    ) -> None:
        if recall_tokens < 1:
            raise ValueError(f"recall_tokens must be at least 1, not {recall_tokens}")
        self._strategy, self._index, self._scope, self._count = strategy, index, scope, count
        self.recall_tokens, self.plaintext = recall_tokens, plaintext
        self._answers = True

    @override
    async def view(
        self, transcript: Transcript, incoming: Sequence[BaseMessage] = (), *, turn_id: str | None = None
    ) -> View:
        self.check(transcript)
        view = await self._strategy.view(transcript, incoming, turn_id=turn_id)
        try:
            message = await self._found(transcript, view)
        except (SearchFailedError, StoreUnavailableError) as error:
            level = logging.WARNING if self._answers else logging.DEBUG  # once in each outage
            self._answers = False
            logger.log(level, "nothing is recalled of %s, and turns go on without it: %s", transcript.key, error)
            return view
        self._answers = True
        if message is None:
            return view
        return replace(view, recalled=[message], tokens=view.tokens + self._count([message]))

    async def _found(self, transcript: Transcript, view: View) -> BaseMessage | None:
        """Index what has left the view, and return what the question is about."""
        begins_at = view.begins_at
        if begins_at > 1:
            await self._catch_up(transcript, begins_at - 1)
        question = _question(view.current)
        if not question or (begins_at <= 1 and self._scope == "session"):
            return None
        hits = await self._index.search(transcript.key, question, scope=self._scope, limit=CANDIDATES)
        hidden = [
            one
            for one in hits
            if one.key != transcript.key or view.removal.through < one.first_seq <= one.last_seq < begins_at
        ]
        return await self._recalled(transcript, hidden, view.removal)

    async def catch_up(self, transcript: Transcript, *, through: int | None = None) -> int:
        """Index all turns of a conversation but the last one, and return up to which number it is indexed now.

        through: index the turns up to this number instead.
        """
        self.check(transcript)
        if through is None:
            after = await self._index.through(transcript.key)
            latest = await transcript.read(after=after, last=CATCH_UP)
            through = max((one.seq for one in latest.said if isinstance(one.message, HumanMessage)), default=1) - 1
        await self._catch_up(transcript, through)
        return await self._index.through(transcript.key)

    async def search(
        self, transcript: Transcript, query: str, *, limit: int = CANDIDATES, skip: int = 0
    ) -> list[list[Said]]:
        """Return earlier turns as they stand now, the best first, wherever the conversation is indexed."""
        self.check(transcript)
        hits = await self._index.search(transcript.key, query, scope=self._scope, limit=skip + limit)
        return [said for _, said in await self._told(transcript, hits[skip:])]

    def check(self, transcript: Transcript) -> None:
        """Raise `PolicyError` where the conversation may not be indexed."""
        if transcript.policy.keys is not None and not self.plaintext:
            raise PolicyError(
                f"{transcript.key} is sealed, and an index of it would not be: leave recall out, "
                "or allow the index with plaintext=True"
            )

    async def _catch_up(self, transcript: Transcript, through: int) -> None:
        """Index what is not indexed yet; of several processes one does it, and the others go on without."""
        key = transcript.key
        after = await self._index.through(key)
        read: list[Said] = []
        while after < through:
            found = await transcript.read(after=after, before=through + 1, first=CATCH_UP)
            read = read or found.said[:1]
            until, said = _whole_turns(found, through)
            shown, removal = remaining(said)
            if removal.ids:
                with suppress(ConflictError):  # erased meanwhile
                    await transcript.note("anchors", f"{REMOVED}{until}", sorted(removal.ids))
            if removal.through:
                await self._index.forget(key)
                after = 0
            if not await self._index.add(key, passages(shown), after=after, through=until):
                return
            after = until
        if read:
            left = (await transcript.store.read(key, after=read[0].seq - 1, first=1)).records
            if not left or left[0].seq > read[0].seq:  # erased meanwhile: what was added may tell of what is gone
                await self._index.forget(key)

    async def _recalled(self, transcript: Transcript, hits: Sequence[Hit], removal: Removal) -> BaseMessage | None:
        """Read what was found, the best first, until the room is full; show it in the order it was said."""

        def size(*texts: str) -> int:
            return self._count([_repeated(texts)])

        shown: list[tuple[SessionKey, int, str]] = []
        for one, said in await self._told(transcript, hits, removal):
            text = in_words(said)
            if not shown:
                text = clipped(text, self.recall_tokens, size)
            if text and size(*(text for _, _, text in shown), text) <= self.recall_tokens:
                shown.append((one.key, one.first_seq, text))
        return _repeated([text for _, _, text in sorted(shown)]) if shown else None

    async def _told(
        self, transcript: Transcript, hits: Sequence[Hit], own: Removal | None = None
    ) -> list[tuple[Hit, list[Said]]]:
        """Read the turns that were found, as they stand now; forget the index of a conversation that has lost some."""
        removals: dict[SessionKey, Removal] = {}
        turns: list[tuple[Hit, list[Said]]] = []
        for one in hits:
            source = Transcript(transcript.store, one.key, transcript.policy)
            if one.key not in removals:
                since = own if one.key == transcript.key else None
                removals[one.key] = await self._removal(source, since)
            found = await source.read(after=one.first_seq - 1, before=one.last_seq + 1)
            said = [word for word in found.said if not isinstance(word.message, SystemMessage | RemoveMessage)]
            if not said or said[0].seq != one.first_seq:
                logger.info("%s has lost messages that were indexed: it is indexed anew", one.key)
                await self._index.forget(one.key)
            elif left := remaining(said, removals[one.key])[0]:
                turns.append((one, left))
        return turns

    async def _removal(self, transcript: Transcript, since: Removal | None = None) -> Removal:
        """Return what was removed from a conversation: as far as it is indexed, and since then."""
        if since is None:
            _, since = remaining((await transcript.read(after=await self._index.through(transcript.key))).said)
        notes = [note for note in await transcript.notes("anchors") if note.id.startswith(REMOVED)]
        return replace(since, ids=since.ids.union(*(note.value for note in notes)))


def in_words(said: Sequence[Said]) -> str:
    """Return a turn as text: when it was said, by whom, and what."""
    return "\n".join([rendered(said[0]), *(spoken(one.message) for one in said[1:])])


def _repeated(texts: Sequence[str]) -> HumanMessage:
    return HumanMessage("\n\n".join([HEADING, *texts]), id="recalled", additional_kwargs={RECALLED: True})


def _question(current: Sequence[BaseMessage]) -> str:
    """Return what a person asks; nothing where the turn goes on with results for calls that the window shows."""
    asked = takewhile(lambda one: isinstance(one, HumanMessage | SystemMessage), current)
    return "\n".join(one.text for one in asked if isinstance(one, HumanMessage))


def _whole_turns(found: Reading, through: int) -> tuple[int, list[Said]]:
    """Return the turns that end within what was read, and up to which number that is."""
    if len(found.said) < CATCH_UP:
        return through, found.said
    people = [at for at, one in enumerate(found.said) if isinstance(one.message, HumanMessage)]
    border = people[-1] if people and people[-1] > 0 else len(found.said)
    return found.said[border - 1].seq, found.said[:border]
