"""A store on Redis: for each session one list of records per lane, and one hash of its head and its ids.

Every change is one Lua script (`lc_history.stores.redis.scripts`), so it is atomic and takes one round trip; in a
cluster the listings, in other slots, take a second. Core commands only: Redis from 6.0, Valkey, managed services,
Cluster and Sentinel; no modules.

What Redis itself promises is what it is configured for. With ``appendfsync always`` a turn that was acknowledged
outlives a kill -9; with ``everysec`` the last second may be lost. Replication is asynchronous: a failover may
lose what the replica had not received, unless the store is told to wait with ``wait_replicas``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Self

from typing_extensions import override

from lc_history.errors import ConflictError
from lc_history.model import (
    LANES,
    MESSAGES,
    MICROSECOND,
    Appended,
    Entry,
    Expiry,
    Lane,
    SessionCopy,
    SessionInfo,
    SessionKey,
    SessionPage,
    Slice,
    State,
    check_name,
    microseconds,
)
from lc_history.store import TOMBSTONE_TTL, Store, check_range, check_sizes, cursor_position
from lc_history.stores.redis import scripts
from lc_history.stores.redis.connections import Call, Connections, SpreadError, connect, given
from lc_history.stores.redis.index import Indexes, info_call
from lc_history.stores.redis.layout import (
    frame,
    info_of,
    names_of,
    records_in,
    text,
)
from lc_history.stores.redis.scripts import Script

MAX_CONNECTIONS: Final = 50
"""Of one process, for each URL and door; the call after that waits."""

_REFUSALS: Final = {
    b"moved": "{key} was moved to another store: load it back, then append",
    b"erased": "{key} was erased while this turn was under way; nothing of the turn was kept",
    b"absent": "{key} does not exist: begin it first, or append with create=True",
    b"ahead": "{key} has come to number {last_seq}, not {expected_seq}: read what was added, then append",
    b"sooner": "{key} would end sooner than it does now; nothing was changed",
    b"changed": "{key} has changed here since it was copied: copy it again",
    b"other": "{key} is not here any more as it was seen; nothing was erased",
}


class RedisStore(Store):
    """Keeps sessions in Redis.

    client, async_client: ready clients of ``redis`` or ``redis.asyncio``, one of each kind at most, for the door
    of their kind; they are never closed. `from_url` makes both.
    key_prefix: what every key begins with; no braces.
    wait_replicas: a write returns when so many replicas have it, else raises `StoreUnavailableError`: it stands
    on the primary, and may be sent again. Not in a cluster.

    >>> store = RedisStore.from_url("redis://localhost:6379/0")  # connects when first used
    """

    def __init__(
        self,
        client: Any = None,
        async_client: Any = None,
        *,
        key_prefix: str = "lch",
        wait_replicas: int = 0,
    ) -> None:
        connections = client if isinstance(client, Connections) else given(client, async_client)
        if "{" in key_prefix or "}" in key_prefix:
            message = f"key_prefix {key_prefix!r} must have no braces: they decide where a cluster keeps a session"
            raise ValueError(message)
        if wait_replicas and connections.spread:
            message = "wait_replicas does not work in a cluster: set min-replicas-to-write on its nodes"
            raise ValueError(message)
        self._connections = connections.used_by(self)
        self._prefix, self._replicas = key_prefix, wait_replicas
        self._indexes = Indexes(connections, key_prefix)

    @classmethod
    def from_url(
        cls, url: str, *, key_prefix: str = "lch", wait_replicas: int = 0, max_connections: int = MAX_CONNECTIONS
    ) -> Self:
        """Return a store for a URL, which shares its connections with the other stores on it in the process.

        ``redis://`` ``rediss://`` ``unix://`` ``redis+sentinel://`` ``redis+cluster://``, spelled out in
        `lc_history.stores.redis.url`. Raises `ValueError` where the URL is not one of these.
        """
        connections = connect(url, max_connections=max_connections)
        return cls(connections, key_prefix=key_prefix, wait_replicas=wait_replicas)

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
        arguments: list[str | int | bytes] = [
            lane,
            expiry.ttl // MICROSECOND if expiry else 0,
            int(expiry is not None and expiry.sliding),
            "" if expected_seq is None else expected_seq,
            "" if not_erased_since is None else not_erased_since,
            int(create),
            int(expiry is None or expiry.shortens),
        ]
        for entry in entries:
            arguments += text(entry.id), entry.body
        status, *reply = await self._change(scripts.APPEND, key, arguments)
        if status == b"nothing":
            return Appended((), ())
        if status != b"appended":
            raise _refused(status, key, last_seq=reply[0] if reply else None, expected_seq=expected_seq)
        begun, updated, expires, seqs = reply
        await self._indexes.note(key, updated, expires)
        return Appended(tuple(map(abs, seqs)), tuple(seq > 0 for seq in seqs), created=bool(begun))

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
        names = self._lane(key, lane)
        if after == 0 and before is None:
            return await self._end_or_beginning(names, lane, first, last)
        limits = ["" if limit is None else limit for limit in (before, first, last)]
        last_seq, elements = await self._connections.run(Call(scripts.READ, names, (lane, after, *limits)))
        return Slice(await records_in(elements), last_seq)

    @override
    async def replace(self, key: SessionKey, seq: int, body: bytes, *, expected: bytes, lane: Lane = MESSAGES) -> bool:
        check_sizes(key, [Entry(str(seq), body)], self.max_body_bytes)
        call = Call(scripts.REPLACE, self._lane(key, lane), (lane, seq, body, expected))
        return bool(await self._run(call))

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
        if through is not None:
            call = Call(scripts.TRIM, self._lane(key, lane), (lane, through))
            gone = int(await self._run(call))
            return gone if lane == MESSAGES else 0
        moved = "" if moved_version is None else moved_version
        status, *reply = await self._change(scripts.ERASE, key, [moved, only or "", TOMBSTONE_TTL // MICROSECOND])
        if status != b"deleted":
            raise _refused(status, key)
        await self._indexes.note_anew(key)
        return int(reply[0])

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
        if not create and (description, archived, expires_at) == (None, None, None):
            reply = await self._connections.run(info_call(self._prefix, key))
            return info_of(key, reply) if reply else None
        arguments: list[str | int | bytes] = [
            description or b"",
            int(description is not None),
            "" if archived is None else int(archived),
            "" if expires_at is None else microseconds(expires_at),
            int(create),
        ]
        reply = await self._change(scripts.DESCRIBE, key, arguments)
        if not reply:
            return None
        if reply[0] == b"moved":
            raise _refused(reply[0], key)
        await self._indexes.note(key, reply[3], reply[4])
        return info_of(key, reply)

    @override
    async def described(self, keys: Sequence[SessionKey]) -> dict[SessionKey, SessionInfo]:
        return await self._indexes.described(keys)

    @override
    async def sessions(
        self, user_id: str, *, archived: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> SessionPage:
        check_name("user_id", user_id)
        position = cursor_position(cursor, int, str) if cursor else ()
        page = await self._indexes.of_user(user_id, limit, position)
        return SessionPage([info for info in page.items if archived in (None, info.archived)], page.cursor)

    @override
    async def scan(
        self, *, idle_since: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> SessionPage:
        position = cursor_position(cursor, int, str) if cursor else ()
        return await self._indexes.of_all(limit, position, until=idle_since)

    @override
    async def load(self, copy: SessionCopy, *, over_version: int | None = None) -> None:
        info = copy.info
        expires = microseconds(info.expires_at) if info.expires_at else 0
        arguments: list[str | int | bytes] = [
            "" if over_version is None else over_version,
            microseconds(info.created_at),
            microseconds(info.updated_at),
            expires,
            int(info.archived),
            info.version,
            info.description,
        ]
        for lane in LANES:
            slice_ = copy.lanes.get(lane, Slice())
            first_seq = slice_.records[0].seq if slice_.records else 0
            arguments += [lane, slice_.last_seq, first_seq, len(slice_.records)]
            for record in slice_.records:
                arguments += text(record.id), frame(record)
        status, *_ = await self._change(scripts.LOAD, info.key, arguments)
        if status != b"loaded":
            raise _refused(status, info.key)
        await self._indexes.note_anew(info.key)

    @override
    async def close(self) -> None:
        await self._connections.close(self)

    async def _end_or_beginning(self, names: tuple[str, str], lane: Lane, first: int | None, last: int | None) -> Slice:
        """Read without a script, which would copy every record twice more.

        The number comes before the records, so none can be passed over that is not among them.
        """
        head, records = names
        begin, end = (-last, -1) if last else (0, first - 1 if first else -1)
        number, elements = await self._connections.ask(("HGET", head, f"last.{lane}"), ("LRANGE", records, begin, end))
        found = await records_in(elements)
        return Slice(found, max(int(number or 0), found[-1].seq if found else 0))

    async def _change(self, script: Script, key: SessionKey, arguments: Sequence[str | int | bytes]) -> Any:
        """Run a script on a session, and on the indexes that list it where they lie on the same server."""
        names = names_of(self._prefix, key)
        mine, arguments = (names.head, *names.lists), (*arguments, names.member)
        if not self._connections.spread:
            call = Call(script, (*mine, *names.user_index, *names.shard_index), arguments)
            try:
                return await self._run(call)
            except SpreadError:
                self._connections.spread = True
        return await self._run(Call(script, mine, arguments))

    async def _run(self, call: Call) -> Any:
        return await self._connections.run(call, replicas=self._replicas)

    def _lane(self, key: SessionKey, lane: Lane) -> tuple[str, str]:
        names = names_of(self._prefix, key)
        return names.head, names.lists[LANES.index(lane)]


def _refused(status: bytes, key: SessionKey, **numbers: int | None) -> ConflictError:
    return ConflictError(_REFUSALS[status].format(key=key, **numbers))
