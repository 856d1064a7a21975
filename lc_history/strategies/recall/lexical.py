"""Ranked search by words, without embeddings: rare words weigh more, and a turn's neighbours count with it.

The same queries on SQLite and PostgreSQL: how many turns hold each word of the question, which is kept as they are
added, then where its rarest words stand. The rest is arithmetic on at most a few thousand rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from heapq import nsmallest
from math import log
from typing import Any, Final, Self

from lc_history.model import SessionKey
from lc_history.strategies.recall.database import Execute, IndexDatabase, Row, open_index_database
from lc_history.strategies.recall.index import Hit, Passage, Scope
from lc_history.strategies.recall.shelf import SESSIONS, Shelf, hit
from lc_history.strategies.recall.words import words

QUESTION_WORDS: Final = 24
"""How many different words of a question are looked up; what is beyond is left out."""

MOST_PLACES: Final = 3000
"""How many places are weighed: those of the rarest words first."""

NEIGHBOUR: Final = 0.4
"""What a word in the turn before or after counts, against one in the turn itself."""

_TABLES: Final = (
    SESSIONS.strip()
    + """

CREATE TABLE {schema}{kind}_turns (
    session bigint NOT NULL REFERENCES {schema}{kind}_sessions (id) ON DELETE CASCADE,
    position bigint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    PRIMARY KEY (session, position)
)

CREATE TABLE {schema}{kind}_words (
    session bigint NOT NULL REFERENCES {schema}{kind}_sessions (id) ON DELETE CASCADE,
    word text NOT NULL,
    position bigint NOT NULL,
    times bigint NOT NULL,
    PRIMARY KEY (session, word, position)
)"""
)
_SPREAD_TABLE: Final = """
CREATE TABLE {schema}{kind}_spread (
    session bigint NOT NULL REFERENCES {schema}{kind}_sessions (id) ON DELETE CASCADE,
    word text NOT NULL,
    turns bigint NOT NULL,
    PRIMARY KEY (session, word)
)

INSERT INTO {schema}{kind}_spread SELECT session, word, count(*) FROM {schema}{kind}_words GROUP BY session, word
"""
_ADD_TURN: Final = "INSERT INTO {schema}{kind}_turns VALUES (%(session)s, %(position)s, %(first_seq)s, %(last_seq)s)"
_ADD_WORD: Final = "INSERT INTO {schema}{kind}_words VALUES (%(session)s, %(word)s, %(position)s, %(times)s)"
_ADD_SPREAD: Final = """
INSERT INTO {schema}{kind}_spread AS known VALUES (%(session)s, %(word)s, %(turns)s)
ON CONFLICT (session, word) DO UPDATE SET turns = known.turns + excluded.turns
"""
_ASKED: Final = ", ".join(f"%(word{number})s" for number in range(QUESTION_WORDS))
_SEARCHED: Final = "SELECT id FROM {schema}{kind}_sessions WHERE {searched}"
_TOTAL: Final = "SELECT sum(turns) FROM {schema}{kind}_sessions WHERE {searched}"
_SPREAD: Final = (
    f"SELECT word, sum(turns) FROM {{schema}}{{kind}}_spread WHERE session IN ({_SEARCHED}) AND word IN ({_ASKED}) "  # noqa: S608  names of this module
    "GROUP BY word"
)
_PLACES: Final = (
    f"SELECT session, position, word, times FROM {{schema}}{{kind}}_words "  # noqa: S608  as above
    f"WHERE session IN ({_SEARCHED}) AND word IN ({_ASKED})"
)
_TURNS: Final = """
SELECT session, position, session_name, first_seq, last_seq FROM {schema}{kind}_turns
JOIN {schema}{kind}_sessions ON id = session WHERE session IN ({sessions}) AND position IN ({positions})
"""

Place = tuple[int, int]
"""A turn's session and its position in it."""


class LexicalIndex:
    """Finds turns by their words.

    The words stand in the index as they are: it belongs where the conversations may be read by whoever can read it.
    """

    def __init__(self, database: IndexDatabase) -> None:
        self._shelf = Shelf(database, "lc_history_lexical")

    @classmethod
    def open(cls, url: str, *, schema: str | None = None) -> Self:
        """Return the index in the database behind ``sqlite:///path`` or ``postgresql://``.

        In the database of the store itself, erasure and expiry reach it in the same transaction.
        """
        return cls(open_index_database(url, schema=schema))

    async def migrate(self) -> None:
        """Create the tables; after the store's own, where they share a database."""
        await self._shelf.database.migrate(
            self._shelf.kind, [self._shelf.text(_TABLES), self._shelf.text(_SPREAD_TABLE.strip())]
        )

    async def close(self) -> None:
        """Release the connections."""
        await self._shelf.database.close()

    async def through(self, key: SessionKey) -> int:
        """Return up to which number a conversation is indexed."""
        return await self._shelf.through(key)

    async def forget(self, key: SessionKey) -> None:
        """Remove a conversation from the index."""
        await self._shelf.forget(key)

    async def add(self, key: SessionKey, passages: Sequence[Passage], *, after: int, through: int) -> bool:
        """Add the turns with ``after < seq <= through``; False, and nothing added, unless it stands at ``after``."""

        async def work(execute: Execute) -> bool:
            at = await self._shelf.advance(execute, key, passages, after=after, through=through)
            if at is None:
                return False
            session, first = at
            turns: list[dict[str, Any]] = []
            found: list[dict[str, Any]] = []
            for position, passage in enumerate(passages, first):
                place = {"session": session, "position": position}
                turns.append(place | {"first_seq": passage.first_seq, "last_seq": passage.last_seq})
                found += [place | {"word": w, "times": n} for w, n in sorted(Counter(words(passage.text)).items())]
            spread = Counter(one["word"] for one in found)
            counts = [{"session": session, "word": word, "turns": count} for word, count in sorted(spread.items())]
            for statement, many in ((_ADD_TURN, turns), (_ADD_WORD, found), (_ADD_SPREAD, counts)):
                if many:
                    await execute(self._shelf.text(statement), many)
            return True

        return await self._shelf.database.write(work)

    async def search(self, key: SessionKey, query: str, *, scope: Scope, limit: int) -> list[Hit]:
        """Return at most so many turns, the best first; only this user's, and only this session's if so scoped."""
        asked = list(dict.fromkeys(words(query)))[:QUESTION_WORDS]
        if not asked:
            return []
        names = self._shelf.database.names(key)

        async def work(execute: Execute) -> list[Hit]:
            total = (await execute(self._scoped(_TOTAL, scope), names))[0][0] or 0
            spread = {row[0]: int(row[1]) for row in await execute(self._scoped(_SPREAD, scope), names | _asked(asked))}
            rare = _rarest(spread)
            if not rare:
                return []
            places = await execute(self._scoped(_PLACES, scope), names | _asked(rare))
            best = _ranked(places, {word: log(1 + int(total) / spread[word]) for word in rare}, limit)
            return await self._hits(execute, key, best)

        return await self._shelf.database.read(work)

    async def _hits(self, execute: Execute, key: SessionKey, best: Sequence[tuple[Place, float]]) -> list[Hit]:
        """Look up where the best turns are; beside a conversation's first or last turn there is none."""
        # Each alone, not as pairs: PostgreSQL would read the whole conversation to join it with a list of pairs.
        asked = {f"session{number}": place[0] for number, (place, _) in enumerate(best)}
        asked |= {f"position{number}": place[1] for number, (place, _) in enumerate(best)}
        statement = self._shelf.text(_TURNS)
        for what in ("session", "position"):
            names = ", ".join(f"%({what}{number})s" for number in range(len(best)))
            statement = statement.replace(f"{{{what}s}}", names)
        rows = await execute(statement, asked)
        turns = {(row[0], row[1]): row[2:] for row in rows}
        return [hit(key.user_id, turns[place], score) for place, score in best if place in turns]

    def _scoped(self, statement: str, scope: Scope) -> str:
        return self._shelf.text(statement.replace("{searched}", self._shelf.searched(scope)))


def _asked(asked: Sequence[str]) -> dict[str, str]:
    """Return the words as parameters, the last one repeated, so that the statement is always the same."""
    return {f"word{number}": asked[min(number, len(asked) - 1)] for number in range(QUESTION_WORDS)}


def _rarest(spread: dict[str, int]) -> list[str]:
    rare: list[str] = []
    places = 0
    for word, count in sorted(spread.items(), key=lambda one: (one[1], one[0])):
        places += count
        if rare and places > MOST_PLACES:
            break
        rare.append(word)
    return rare


def _ranked(places: Sequence[Row], weight: dict[str, float], limit: int) -> list[tuple[Place, float]]:
    """Weigh each turn by its words, a little less for each repetition, and its neighbours with it."""
    own: defaultdict[Place, float] = defaultdict(float)
    for session, position, word, times in places:
        own[session, position] += weight[word] * times / (times + 0.5)
    scores: defaultdict[Place, float] = defaultdict(float, own)
    for (session, position), score in own.items():
        for beside in (position - 1, position + 1):
            scores[session, beside] += NEIGHBOUR * score
    return nsmallest(limit, scores.items(), key=lambda one: (-one[1], one[0]))
