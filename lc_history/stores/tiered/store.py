"""A hot and a cold store as one: conversations live in the hot one, and rest in the cold one while they are idle.

A session is at home where it was written last. It begins in the hot store; an `Archiver` moves it to the cold one
when it has been idle; a change brings it back, whole and under its old numbers, while a mere read does not move it.
Each move is a copy, then a step that the store refuses if the session has changed since. So at every instant, also
when a process is killed, the session stands whole in one of the two, and where it stands in both the hot one counts:
the cold store keeps its copy of a session that came back until the next move replaces it. Whatever ends the session
sooner ends that copy first.

What that means for expiry: a session's end is part of the session and is carried along with every move; neither
store keeps it for a shorter time than its own ``expires_at``. So a session is never lost because it was not archived
in time. It ends when it said it would, in both stores.

Erasure goes through the cold store first: killed halfway, the session is still there, whole, in the hot one, and
can be erased again; or, where a worker was moving it at that moment, gone, and whoever writes next brings the erasure
to its end. A session that lies only in the cold store is brought back for it, so that the hot store
remembers how far its numbers had come.

What a hot store loses (Redis, its last second at worst, when it appends to a file every second), the cold one has as
of the last move.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from typing_extensions import override

from lc_history.errors import ConflictError
from lc_history.model import (
    MESSAGES,
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
)
from lc_history.store import Store, check_sizes
from lc_history.stores.tiered.copies import (
    ATTEMPTS,
    begin_anew,
    brought_back,
    bury,
    end_copy,
    finish_erasure,
    last_seqs,
)
from lc_history.stores.tiered.merging import merged

T = TypeVar("T")


class TieredStore(Store):
    """Keeps active sessions in one store and idle ones in another.

    ``archived`` is shown as True for a session that is only in the cold store. `Archiver` does the moving.

    >>> from lc_history.stores import open_store
    >>> store = TieredStore(hot=open_store("memory://"), cold=open_store("memory://"))
    """

    def __init__(self, *, hot: Store, cold: Store) -> None:
        self.hot, self.cold = hot, cold
        limit = min(hot.max_body_bytes, cold.max_body_bytes)
        self.max_body_bytes = limit  # type: ignore[misc] # a constant of other stores, here of these two

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
        conditions: dict[str, Any] = {"expected_seq": expected_seq, "not_erased_since": not_erased_since}
        options = conditions | {"lane": lane, "expiry": expiry}
        kept = options | {"expiry": expiry and replace(expiry, shortens=False)}
        with suppress(ConflictError):  # which may only say that the hot store does not have the session
            return await self.hot.append(key, entries, **kept, create=False)
        anew = was_hot = False
        for _ in range(ATTEMPTS):
            await self._bring_back_with_end(key, expiry)
            try:
                done = await self.hot.append(key, entries, **options, create=create)
            except ConflictError as error:
                refusal = error
            else:
                if expiry is not None and not done.created:
                    await end_copy(key, hot=self.hot, cold=self.cold)  # which a worker has put there just now
                return replace(done, created=anew or done.created)
            if await self._is_hot(key):
                if was_hot:
                    break
                was_hot = True  # somebody may have brought it back since it was refused: ask once more
            elif await self._is_cold(key) or await finish_erasure(key, hot=self.hot, cold=self.cold):
                continue  # it was moved away again, or is to begin anew
            elif not create:
                break
            else:
                anew = await begin_anew(key, lane, expected_seq, hot=self.hot, cold=self.cold)
        raise refusal

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
        limits: dict[str, Any] = {"lane": lane, "after": after, "before": before, "first": first, "last": last}
        hot = await self.hot.read(key, **limits)
        if hot.records:
            return hot
        if hot.last_seq and await self._is_hot(key):
            return await self.hot.read(key, **limits)
        cold = await self.cold.read(key, **limits)
        if cold.last_seq and await self._is_hot(key):
            return await self.hot.read(key, **limits)
        return cold

    @override
    async def replace(self, key: SessionKey, seq: int, body: bytes, *, expected: bytes, lane: Lane = MESSAGES) -> bool:
        check_sizes(key, [Entry(str(seq), body)], self.max_body_bytes)
        change = partial(self.hot.replace, key, seq, body, expected=expected, lane=lane)
        done = await self._at_home(key, change)
        # Also where it was done already: killed here, a redaction asked for again must not leave the old text behind.
        await self.cold.replace(key, seq, body, expected=expected, lane=lane)
        return done

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
            gone = await self._at_home(key, partial(self.hot.delete, key, through=through, lane=lane))
            await self.cold.delete(key, through=through, lane=lane)
            return gone
        with suppress(ConflictError):  # it is erased in the hot store: here is what was left undone
            await self._bring_back(key)
        info = await self.hot.describe(key)
        if moved_version is not None and (info is None or info.version != moved_version):
            raise ConflictError(f"{key} has changed since it was copied: copy it again")
        if only is not None and (info is None) == (only == "alive"):
            raise ConflictError(f"{key} is not here any more as it was seen ({only}); nothing was erased")
        if only == "moved":
            return await self.hot.delete(key, only=only)
        moved = moved_version is not None
        version = info.version if info else None
        numbers = await last_seqs(self.hot, key)
        await bury(key, self.cold, numbers, version=version, moved=moved)
        gone = await self.hot.delete(key, moved_version=moved_version)
        if await self._is_cold(key):  # a worker was moving it at this moment
            await bury(key, self.cold, numbers, version=version, moved=moved)
            gone = gone or (info.count if info else 0)
        return gone

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
        info = await self.hot.describe(key)
        changed = (description, archived, expires_at) != (None, None, None)
        if info is not None and not changed:
            return info
        if not changed and not create:
            info = await self.cold.describe(key)
            return info and self._resting(info)

        async def change() -> SessionInfo | None:
            if expires_at is not None:
                await end_copy(key, hot=self.hot, cold=self.cold, ends=expires_at)
            return await self.hot.describe(
                key, description=description, archived=archived, expires_at=expires_at, create=create
            )

        try:
            info = await self._at_home(key, change)
        except ConflictError:
            if not create:
                raise
            if not await finish_erasure(key, hot=self.hot, cold=self.cold):
                await begin_anew(key, hot=self.hot, cold=self.cold)
            info = await change()
        if expires_at is not None:
            await end_copy(key, hot=self.hot, cold=self.cold)  # which a worker has put there just now
        return info

    @override
    async def described(self, keys: Sequence[SessionKey]) -> dict[SessionKey, SessionInfo]:
        hot = await self.hot.described(keys)
        cold = await self.cold.described([key for key in keys if key not in hot])
        return hot | {key: self._resting(info) for key, info in cold.items()}

    @override
    async def sessions(
        self, user_id: str, *, archived: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> SessionPage:
        def hot(place: str | None) -> Awaitable[SessionPage]:
            return self.hot.sessions(user_id, archived=archived, limit=limit, cursor=place)

        def cold(place: str | None) -> Awaitable[SessionPage]:
            return self._only_cold(self.cold.sessions(user_id, limit=limit, cursor=place))

        return await merged(hot, None if archived is False else cold, limit=limit, cursor=cursor, newest_first=True)

    @override
    async def scan(
        self, *, idle_since: datetime | None = None, limit: int = 100, cursor: str | None = None
    ) -> SessionPage:
        def hot(place: str | None) -> Awaitable[SessionPage]:
            return self.hot.scan(idle_since=idle_since, limit=limit, cursor=place)

        def cold(place: str | None) -> Awaitable[SessionPage]:
            return self._only_cold(self.cold.scan(idle_since=idle_since, limit=limit, cursor=place))

        return await merged(hot, cold, limit=limit, cursor=cursor, newest_first=False)

    @override
    async def load(self, copy: SessionCopy, *, over_version: int | None = None) -> None:
        await self._bring_back(copy.info.key)
        await finish_erasure(copy.info.key, hot=self.hot, cold=self.cold)
        await self.hot.load(copy, over_version=over_version)

    @override
    async def migrate(self) -> None:
        await self.hot.migrate()
        await self.cold.migrate()

    @override
    def migration(self) -> str:
        return "\n".join(filter(None, (self.hot.migration(), self.cold.migration())))

    @override
    async def close(self) -> None:
        await self.hot.close()
        await self.cold.close()

    def _resting(self, info: SessionInfo) -> SessionInfo:
        """Return what is shown of a session that is only in the cold store."""
        return replace(info, archived=True)

    async def _is_hot(self, key: SessionKey) -> bool:
        return await self.hot.describe(key) is not None

    async def _is_cold(self, key: SessionKey) -> bool:
        return await self.cold.describe(key) is not None

    async def _only_cold(self, fetching: Awaitable[SessionPage]) -> SessionPage:
        """Return a page of the cold store, without what is at home in the hot one."""
        page = await fetching
        hot = await self.hot.described([info.key for info in page.items]) if page.items else {}
        return SessionPage([self._resting(info) for info in page.items if info.key not in hot], page.cursor)

    async def _at_home(self, key: SessionKey, change: Callable[[], Awaitable[T]]) -> T:
        """Return what a change in the hot store gives, done again if the session was moved away just before."""
        for _ in range(ATTEMPTS):
            await self._bring_back(key)
            done = await change()
            if done or await self._is_hot(key) or not await self._is_cold(key):
                break
        return done

    async def _bring_back(self, key: SessionKey) -> SessionInfo | None:
        return await brought_back(key, hot=self.hot, cold=self.cold)

    async def _bring_back_with_end(self, key: SessionKey, expiry: Expiry | None) -> None:
        if await self._bring_back(key) is not None and expiry is not None and expiry.shortens:
            await end_copy(key, hot=self.hot, cold=self.cold, ends=datetime.now(UTC) + expiry.ttl)
