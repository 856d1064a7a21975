"""A store on PostgreSQL: one row per session, one per record; a turn is one statement and one round trip.

The session's row is locked by every statement that adds or removes records, so numbers follow the order of commits.
That statement acts only where nothing stands against it; whatever it leaves undone (a retry of some ids, a session
that begins again, a refusal) is judged in a short transaction, with the session locked and its state in Python.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, Final, Self, TypeVar

from typing_extensions import override

from lc_history.bridge import entered, settle
from lc_history.model import (
    MESSAGES,
    Appended,
    Entry,
    Expiry,
    Lane,
    Record,
    SessionCopy,
    SessionInfo,
    SessionKey,
    SessionPage,
    Slice,
    State,
    check_name,
    microseconds,
    moment,
)
from lc_history.postgres import Postgres, escaped, migration_script, unescaped
from lc_history.store import Store, check_range, check_sizes, cursor_after, cursor_position
from lc_history.stores.conditions import check_append, check_erasure
from lc_history.stores.postgres import sql
from lc_history.stores.postgres.session import LockedSession, indexed, named, utc
from lc_history.stores.postgres.turn import Turn

T = TypeVar("T")
Change = Callable[[LockedSession], Awaitable[T]]


class PostgresStore(Store):
    """Keeps sessions in a PostgreSQL database.

    >>> PostgresStore.from_url("postgresql://ann:secret@localhost/chat").database.address
    'localhost:5432/chat'
    """

    def __init__(self, database: Postgres) -> None:
        self.database = database

    @classmethod
    def from_url(cls, url: str, *, schema: str | None = None, pool_size: int = 16, pgbouncer: bool = False) -> Self:
        """Return a store on the database behind a URL; the options are those of `Postgres.open`."""
        return cls(Postgres.open(url, schema=schema, pool_size=pool_size, pgbouncer=pgbouncer))

    @override
    async def append(
        self,
        key: SessionKey,
        entries: Sequence[Entry],
        *,
        lane: Lane = MESSAGES,
        expiry: Expiry | None = None,
        expected_seq: int | None = None,
        not_erased_since: int | None = None,
        create: bool = True,
    ) -> Appended:
        check_sizes(key, entries, self.max_body_bytes)
        turn = Turn(key, entries, lane, expiry, expected_seq, not_erased_since, create)

        async def work(connection: Any) -> Appended:
            done = await self._append_at_once(connection, turn)
            if done is None:
                done = await self._changed(connection, key, turn.write, create=bool(entries))
            if done is not None and done.created:
                await self.database.execute(connection, sql.SWEEP)
            return done or Appended((), ())

        return await self.database.run(work)

    @override
    async def read(
        self,
        key: SessionKey,
        *,
        lane: Lane = MESSAGES,
        after: int = 0,
        before: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> Slice:
        check_range(first, last)
        text = sql.read(lane, backwards=last is not None, before=before is not None, limit=first or last)
        rows = await self._rows(text, named(key) | {"after": after, "before": before})
        last_seq = rows[0][-1] if rows else 0
        if not rows or rows[0][0] is None:
            return Slice([], last_seq)
        rows.sort(key=_SEQ)
        return Slice([Record(seq, unescaped(id_), body, utc(time)) for seq, id_, body, time, _ in rows], last_seq)

    @override
    async def replace(self, key: SessionKey, seq: int, body: bytes, *, expected: bytes, lane: Lane = MESSAGES) -> bool:
        check_sizes(key, [Entry(str(seq), body)], self.max_body_bytes)
        rows = await self._rows(sql.replace(lane), named(key) | {"seq": seq, "body": body, "expected": expected})
        return bool(rows[0][0])

    @override
    async def delete(
        self,
        key: SessionKey,
        *,
        through: int | None = None,
        lane: Lane = MESSAGES,
        moved_version: int | None = None,
        only: State | None = None,
    ) -> int:
        async def trim(session: LockedSession) -> int:
            gone = await session.trim(lane, through or 0) if session.head.alive else 0
            session.head.version += 1 if gone else 0
            session.head.count -= gone if lane == MESSAGES else 0
            return gone if lane == MESSAGES else 0

        async def erase(session: LockedSession) -> int:
            check_erasure(key, session.head, moved_version, only)
            return await session.erase(moved=moved_version is not None)

        if through is not None:
            return await self._change(key, trim, create=False) or 0
        return await self._change(key, erase, create=True) or 0

    @override
    async def describe(
        self,
        key: SessionKey,
        *,
        description: bytes | None = None,
        archived: bool | None = None,
        expires_at: datetime | None = None,
        create: bool = False,
    ) -> SessionInfo | None:
        changed = (description, archived, expires_at) != (None, None, None)

        async def change(session: LockedSession) -> SessionInfo | None:
            if create and not session.head.alive:
                check_append(key, session.head, 0)
                session.head.begin(session.now)
            if session.head.alive and changed:
                session.head.change(description=description, archived=archived, expires_at=expires_at)
            return session.head.info(key) if session.head.alive else None

        rows = await self._rows(sql.DESCRIBE, named(key))
        if rows and not changed:
            return _info(rows[0])
        if rows or create:
            return await self._change(key, change, create=create)
        return None

    @override
    async def described(self, keys: Sequence[SessionKey]) -> dict[SessionKey, SessionInfo]:
        names = [named(key) for key in keys]
        asked = {"sessions": [name["session"] for name in names], "users": [name["user"] for name in names]}
        infos = [_info(row) for row in await self._rows(sql.DESCRIBED, asked)] if keys else []
        return {info.key: info for info in infos}

    @override
    async def sessions(
        self, user_id: str, *, archived: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> SessionPage:
        check_name("user_id", user_id)
        text = sql.listing(archived, after=cursor is not None)
        return await self._page(text, limit, cursor, {"user": indexed(escaped(user_id))[0]})

    @override
    async def scan(
        self, *, idle_since: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> SessionPage:
        text = sql.scan(idle=idle_since is not None, after=cursor is not None)
        return await self._page(text, limit, cursor, {"idle": idle_since})

    @override
    async def load(self, copy: SessionCopy, *, over_version: int | None = None) -> None:
        async def replace(session: LockedSession) -> None:
            session.head = session.head.replaced_by(copy, over_version, session.now)
            await session.clear()
            for lane, slice_ in copy.lanes.items():
                await session.add(lane, slice_.records)

        await self._change(copy.info.key, replace, create=True)

    @override
    async def migrate(self) -> None:
        await self.database.migrate("store", sql.STEPS)

    @override
    def migration(self) -> str:
        return migration_script("store", sql.STEPS, schema=self.database.schema)

    @override
    async def close(self) -> None:
        await self.database.close()

    async def _rows(self, text: str, parameters: dict[str, Any]) -> list[Any]:
        async def work(connection: Any) -> list[Any]:
            cursor = await self.database.execute(connection, text, parameters)
            rows: list[Any] = await settle(cursor.fetchall())
            return rows

        return await self.database.run(work)

    async def _page(self, text: str, limit: int, cursor: str | None, parameters: dict[str, Any]) -> SessionPage:
        if cursor is not None:
            time, id_ = cursor_position(cursor, int, int)
            parameters |= {"time": moment(time), "id": id_}
        rows = await self._rows(text, parameters | {"limit": limit + 1})
        items = [_info(row) for row in rows[:limit]]
        more = len(rows) > limit
        return SessionPage(
            items, cursor_after(microseconds(items[-1].updated_at), rows[limit - 1][-1]) if more else None
        )

    async def _append_at_once(self, connection: Any, turn: Turn) -> Appended | None:
        from psycopg.errors import UniqueViolation

        statement = turn.statement()
        if statement is None:
            return None
        try:
            cursor = await self.database.execute(connection, *statement)
        except UniqueViolation:  # another writer was first with one of the ids, while this one waited for the lock
            return None
        return turn.understood(await settle(cursor.fetchall()))

    async def _change(self, key: SessionKey, change: Change[T], *, create: bool) -> T | None:
        async def work(connection: Any) -> T | None:
            return await self._changed(connection, key, change, create=create)

        return await self.database.run(work)

    async def _changed(self, connection: Any, key: SessionKey, change: Change[T], *, create: bool) -> T | None:
        """Return what the change gives, made while the session is locked, and kept whole or not at all."""
        async with entered(connection.transaction()):
            session = await LockedSession.take(self.database, connection, key, create=create)
            if session is None:
                return None
            result = await change(session)
            await session.save()
            return result


_SEQ: Final = itemgetter(0)


def _info(row: Sequence[Any]) -> SessionInfo:
    user, session, last_seq, count, created, updated, expires, archived, description, version, _ = row
    return SessionInfo(
        key=SessionKey(unescaped(user), unescaped(session)),
        last_seq=last_seq,
        count=count,
        created_at=utc(created),
        updated_at=utc(updated),
        expires_at=expires and utc(expires),
        archived=archived,
        description=description,
        version=version,
    )
