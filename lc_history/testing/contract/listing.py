"""Listings: what is known of a session, a user's sessions newest first, and everybody's for operators."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lc_history.errors import ConflictError
from lc_history.model import SessionKey
from lc_history.store import Store, cursor_after
from lc_history.testing.contract.setting import Clock, Setting
from lc_history.testing.contract.views import entries, known, listed, listed_names, scanned, tick
from lc_history.testing.names import HOSTILE_NAMES
from lc_history.testing.races import StoreOpener


async def _begin(store: Store, user: str, *names: str) -> None:
    for name in names:
        await store.append(SessionKey(user, name), entries("a"))
        await tick()


class Listings(Setting):
    """What `Store.describe`, `Store.sessions` and `Store.scan` promise."""

    async def test_describe_tells(self, store: Store, key: SessionKey) -> None:
        assert await store.describe(key) is None
        await store.append(key, entries("a", "b"))
        first = await known(store, key)
        assert (first.key, first.count, first.last_seq) == (key, 2, 2)
        assert (first.archived, first.description, first.expires_at) == (False, b"", None)
        await tick()
        await store.append(key, entries("c"))
        second = await known(store, key)
        assert second.created_at == first.created_at
        assert second.updated_at > first.updated_at
        assert second.count == 3

    async def test_several_described_at_once(self, store: Store, user: str) -> None:
        keys = [SessionKey(user, name) for name in HOSTILE_NAMES]
        counts = {key: place % 3 + 1 for place, key in enumerate(keys[::2])}
        for key, count in counts.items():
            await store.append(key, entries(*map(str, range(count))))
        await store.append(SessionKey(user, "gone"), entries("a"))
        await store.delete(SessionKey(user, "gone"))
        found = await store.described([*keys, SessionKey(user, "gone")])
        assert {key: info.count for key, info in found.items()} == counts
        assert all(info.key == key for key, info in found.items())
        assert await store.described([]) == {}

    async def test_describe_changes_what_is_given(self, store: Store, another: StoreOpener, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        before = await known(store, key)
        await tick()
        titled = await store.describe(key, description=b"title")
        assert titled is not None
        assert (titled.description, titled.archived) == (b"title", False)
        archived = await store.describe(key, archived=True)
        assert archived is not None
        assert (archived.description, archived.archived) == (b"title", True)
        assert archived == await known(another(), key)
        assert archived.updated_at == before.updated_at
        restored = await store.describe(key, archived=False, description=b"")
        assert restored is not None
        assert (restored.description, restored.archived) == (b"", False)

    async def test_describe_creates_when_asked(self, store: Store, key: SessionKey) -> None:
        assert await store.describe(key, description=b"title") is None
        assert await listed_names(store, key.user_id) == []
        info = await store.describe(key, description=b"title", create=True)
        assert info is not None
        assert (info.count, info.last_seq, info.description) == (0, 0, b"title")
        assert await listed_names(store, key.user_id) == [key.session_id]
        assert (await store.append(key, entries("a"), create=False)).seqs == (1,)
        again = await store.describe(key, create=True)
        assert again is not None
        assert (again.count, again.description, again.created_at) == (1, b"title", info.created_at)

    async def test_a_moved_session_is_not_created(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        await store.delete(key, moved_version=(await known(store, key)).version)
        with pytest.raises(ConflictError):
            await store.describe(key, create=True)

    async def test_newest_first(self, store: Store, user: str) -> None:
        await _begin(store, user, "s1", "s2", "s3")
        assert await listed_names(store, user) == ["s3", "s2", "s1"]
        await store.append(SessionKey(user, "s1"), entries("b"))
        assert await listed_names(store, user) == ["s1", "s3", "s2"]
        await tick()
        await store.append(SessionKey(user, "s2"), entries("x"), lane="audit")
        assert await listed_names(store, user) == ["s2", "s1", "s3"]
        await tick()
        await store.append(SessionKey(user, "s3"), entries("a"))  # nothing new
        await store.describe(SessionKey(user, "s3"), description=b"title")
        assert await listed_names(store, user) == ["s2", "s1", "s3"]

    async def test_a_listing_tells_what_describe_tells(self, store: Store, user: str) -> None:
        await _begin(store, user, "s1", "s2")
        await store.describe(SessionKey(user, "s1"), description=b"\x00\xff", archived=True)
        await store.delete(SessionKey(user, "s2"), through=1)
        assert await listed(store, user) == [await known(store, SessionKey(user, name)) for name in ("s2", "s1")]

    async def test_pages_join_up_on_every_size(self, store: Store, user: str) -> None:
        names = [f"s{number}" for number in range(7)]
        await _begin(store, user, *names)
        for limit in (1, 2, 3, 6, 7, 8):
            found = await listed(store, user, limit=limit)
            assert [info.key.session_id for info in found] == names[::-1]

    async def test_pages_join_up_while_sessions_change(self, store: Store, user: str) -> None:
        await _begin(store, user, *(f"s{number}" for number in range(6)))
        page = await store.sessions(user, limit=2)
        assert [info.key.session_id for info in page.items] == ["s5", "s4"]
        await store.append(SessionKey(user, "s4"), entries("b"))
        await store.delete(SessionKey(user, "s5"))
        await store.delete(SessionKey(user, "s2"))
        await store.append(SessionKey(user, "new"), entries("a"))
        rest: list[str] = []
        while page.cursor is not None:
            page = await store.sessions(user, limit=2, cursor=page.cursor)
            rest += [info.key.session_id for info in page.items]
        assert rest == ["s3", "s1", "s0"]

    async def test_sessions_of_one_instant(self, store: Store, user: str, clock: Clock) -> None:
        names = {f"s{number}" for number in range(5)}
        clock.turn(timedelta(0))  # it stands still from here
        await _begin(store, user, *names)
        found = [info.key.session_id for info in await listed(store, user, limit=2)]
        assert len(found) == 5
        assert set(found) == names
        keys = await scanned(store, user, limit=2)
        assert len(keys) == 5
        assert {key.session_id for key in keys} == names

    async def test_archived_or_not(self, store: Store, user: str) -> None:
        await _begin(store, user, "s1", "s2", "s3", "s4")
        for name in ("s1", "s3"):
            await store.describe(SessionKey(user, name), archived=True)
        for limit in (1, 50):
            archived = await listed(store, user, limit=limit, archived=True)
            active = await listed(store, user, limit=limit, archived=False)
            assert [info.key.session_id for info in archived] == ["s3", "s1"]
            assert [info.key.session_id for info in active] == ["s4", "s2"]
        assert len(await listed(store, user)) == 4
        await store.append(SessionKey(user, "s1"), entries("b"))
        assert (await known(store, SessionKey(user, "s1"))).archived

    async def test_other_users_are_never_seen(self, store: Store, user: str) -> None:
        neighbours = [f"{user}2", f"{user}:", f"{user}*", f"{user}/s1", user[:-1], user.upper(), "*", f"{user[:-1]}_"]
        await _begin(store, user, "mine", "also mine")
        for other in neighbours:
            await store.append(SessionKey(other, "theirs"), entries("a"))
        assert await listed_names(store, user) == ["also mine", "mine"]
        assert await listed_names(store, f"{user}?") == []
        cursor = (await store.sessions(user, limit=1)).cursor
        assert cursor is not None
        for other in neighbours:  # another's cursor is a place in time at most
            try:
                page = await store.sessions(other, cursor=cursor)
            except ValueError:
                continue
            assert all(info.key.user_id == other for info in page.items)
        await store.delete(SessionKey("*", "theirs"))
        assert await listed_names(store, user) == ["also mine", "mine"]

    async def test_an_unknown_cursor_is_refused(self, store: Store, user: str) -> None:
        await _begin(store, user, "s1")
        for wrong in ("nonsense", "'; DROP TABLE", cursor_after("only this"), cursor_after(1, 2, 3, 4, 5, 6, 7)):
            with pytest.raises(ValueError, match="cursor"):
                await store.sessions(user, cursor=wrong)
            with pytest.raises(ValueError, match="cursor"):
                await store.scan(cursor=wrong)

    async def test_scan_reaches_every_user_oldest_first(self, store: Store, user: str) -> None:
        users = [f"{user}-{number}" for number in range(3)]
        keys = [SessionKey(name, session) for session in ("s1", "s2") for name in users]
        for key in keys:
            await store.append(key, entries("a"))
            await tick()
        for limit in (1, 4, 100):
            assert await scanned(store, *users, limit=limit) == keys
        await store.append(keys[0], entries("b"))
        assert await scanned(store, *users) == [*keys[1:], keys[0]]

    async def test_scan_of_the_idle(self, store: Store, user: str) -> None:
        await _begin(store, user, "s1", "s2", "s3")
        border = (await known(store, SessionKey(user, "s2"))).updated_at
        idle = await scanned(store, user, idle_since=border)
        assert [key.session_id for key in idle] == ["s1", "s2"]
        assert [key.session_id for key in await scanned(store, user, idle_since=border, limit=1)] == ["s1", "s2"]
        before = border - timedelta(microseconds=1)
        assert [key.session_id for key in await scanned(store, user, idle_since=before)] == ["s1"]
