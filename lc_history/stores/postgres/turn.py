"""One append on PostgreSQL: the statement that does it at once, and what is done in Python when that abstains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from lc_history.model import Appended, Entry, Expiry, Lane, SessionKey
from lc_history.postgres import Postgres, escaped
from lc_history.stores.conditions import check_append, check_life
from lc_history.stores.heads import appended, new_entries
from lc_history.stores.postgres import sql
from lc_history.stores.postgres.session import LockedSession, indexed, named

ONE_STATEMENT: Final = 32
"""Turns of up to so many entries are one statement; larger ones are copied in."""

UNJUDGED: Final = ("22012", "23505")
"""SQLSTATEs of a statement whose turn has to be judged: some of its ids were there, or the session is gone."""

Part = tuple[str, str, dict[str, Any]]
"""A part of a statement: tables for its WITH, what to select, and parameters."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one append asks for."""

    key: SessionKey
    entries: Sequence[Entry]
    lane: Lane
    expiry: Expiry | None
    expected_seq: int | None
    not_erased_since: int | None
    create: bool

    def part(self) -> Part | None:
        """Return the statement as a part of another, its tables and what to select: it fails rather than abstains."""
        if (found := self.statement()) is None:
            return None
        statement, parameters = found
        return (*sql.or_fail(statement, len(self.entries)), parameters)

    def statement(self) -> tuple[str, dict[str, Any]] | None:
        """Return the statement that appends this turn, or None for one that is seldom or too large."""
        if not 0 < len(self.entries) <= ONE_STATEMENT:
            return None
        parameters = dict(named(self.key))
        long = parameters["full_user"] or parameters["full_session"]
        for place, entry in enumerate(self.entries):
            id_, full_id = indexed(escaped(entry.id))
            parameters[f"id{place}"], parameters[f"body{place}"] = id_, entry.body
            long = long or full_id
        if long or len({entry.id for entry in self.entries}) < len(self.entries):
            return None
        parameters |= {"expected": self.expected_seq, "since": self.not_erased_since}
        if self.expiry is not None:
            parameters["ttl"] = self.expiry.ttl
        text = sql.append(
            self.lane,
            len(self.entries),
            expiry=self.expiry and ("sliding" if self.expiry.sliding else "fixed"),
            shortens=self.expiry is None or self.expiry.shortens,
            create=self.create and not self.expected_seq,
            expected=self.expected_seq is not None,
            since=self.not_erased_since is not None,
        )
        return text, parameters

    def understood(self, rows: Sequence[tuple[str | None, int, bool]]) -> Appended | None:
        """Return what the statement's answer means; None if it has left the turn undone."""
        size = len(self.entries)
        if len(rows) == 1 and rows[0][0] is None:
            _, last_seq, created = rows[0]
            return Appended(tuple(range(last_seq - size + 1, last_seq + 1)), (True,) * size, created)
        if len(rows) == size and self.expiry is None:
            seqs = {id_: seq for id_, seq, _ in rows}
            return Appended(tuple(seqs[escaped(entry.id)] for entry in self.entries), (False,) * size)
        return None

    async def write(self, session: LockedSession) -> Appended:
        """Append to the locked session what it does not hold yet, or refuse."""
        head, lane = session.head, self.lane
        numbers = await session.numbers(lane, self.entries)
        last_seq = head.lanes[lane].last_seq
        fresh = new_entries(self.entries, numbers)
        if fresh:
            check_append(
                self.key,
                head,
                last_seq,
                expected_seq=self.expected_seq,
                not_erased_since=self.not_erased_since,
                create=self.create,
            )
        elif not head.alive:
            return Appended((), ())
        if head.alive:
            check_life(self.key, head.expires_at, self.expiry, session.now)
        created = head.begin(session.now)
        if fresh:
            records = head.add(lane, fresh, session.now)
            numbers |= {record.id: record.seq for record in records}
            await session.add(lane, records)
        head.renew(self.expiry, session.now)
        return appended(self.entries, numbers, fresh, created=created)


async def append_judged(database: Postgres, connection: Any, turn: Turn) -> None:
    """Append as part of the transaction that the connection is in, a few round trips after looking at the session.

    For a turn that has no statement, or whose `part` failed with a state of `UNJUDGED`.
    """
    session = await LockedSession.take(database, connection, turn.key, create=True)
    if session is not None:
        await turn.write(session)
        await session.save()
