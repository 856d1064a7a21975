"""What every index keeps of a conversation beside its words: whose it is, and how far it is indexed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lc_history.model import SessionKey
from lc_history.strategies.recall.database import Execute, IndexDatabase, Row
from lc_history.strategies.recall.index import Hit, Passage, Scope

SESSIONS: Final = """
CREATE TABLE {schema}{kind}_sessions (
    id {identity},
    user_id {name} NOT NULL,
    session_id {name} NOT NULL,
    session_name text NOT NULL,
    through bigint NOT NULL,
    turns bigint NOT NULL,
    UNIQUE (user_id, session_id)
)
"""
_BEGIN: Final = """
INSERT INTO {schema}{kind}_sessions (user_id, session_id, session_name, through, turns)
VALUES (%(user)s, %(session)s, %(name)s, 0, 0) ON CONFLICT DO NOTHING
"""
_ADVANCE: Final = """
UPDATE {schema}{kind}_sessions SET through = %(through)s, turns = turns + %(count)s
WHERE user_id = %(user)s AND session_id = %(session)s AND through = %(after)s RETURNING id, turns
"""
_THROUGH: Final = "SELECT through FROM {schema}{kind}_sessions WHERE user_id = %(user)s AND session_id = %(session)s"
_FORGET: Final = "DELETE FROM {schema}{kind}_sessions WHERE user_id = %(user)s AND session_id = %(session)s"


@dataclass(frozen=True, slots=True)
class Shelf:
    """The sessions of one index."""

    database: IndexDatabase
    kind: str

    def text(self, statement: str) -> str:
        """Return a statement for the tables of this index."""
        return statement.replace("{kind}", self.kind)

    def searched(self, scope: Scope) -> str:
        """Return the condition that chooses the sessions to search."""
        return "user_id = %(user)s" + (" AND session_id = %(session)s" if scope == "session" else "")

    async def through(self, key: SessionKey) -> int:
        """Return up to which number a conversation is indexed."""
        names = self.database.names(key)

        async def work(execute: Execute) -> list[Row]:
            return await execute(self.text(_THROUGH), names)

        found = await self.database.read(work)
        return int(found[0][0]) if found else 0

    async def advance(
        self, execute: Execute, key: SessionKey, passages: Sequence[Passage], *, after: int, through: int
    ) -> tuple[int, int] | None:
        """Claim the turns up to a number, and return the session's id and the position of the first; None if too late.

        The row stays locked until the transaction ends, so a conversation is indexed by one process at a time.
        """
        names = self.database.names(key)
        await execute(self.text(_BEGIN), names)
        moved = await execute(self.text(_ADVANCE), names | {"through": through, "count": len(passages), "after": after})
        return (int(moved[0][0]), int(moved[0][1]) - len(passages)) if moved else None

    async def forget(self, key: SessionKey) -> None:
        """Remove a conversation."""
        names = self.database.names(key)

        async def work(execute: Execute) -> list[Row]:
            return await execute(self.text(_FORGET), names)

        await self.database.write(work)


def hit(user_id: str, row: Row, score: float) -> Hit:
    """Return a hit from a session's name and the numbers of a turn."""
    name, first_seq, last_seq = row
    return Hit(SessionKey(user_id, json.loads(name)), int(first_seq), int(last_seq), score)
