"""Promise 8: names are just names, and no two of them are ever the same session."""

from __future__ import annotations

from lc_history.model import Entry, SessionKey
from lc_history.store import Store
from lc_history.testing.contract.setting import Setting
from lc_history.testing.contract.views import entries, ids, known, listed, listed_names, scanned
from lc_history.testing.names import HOSTILE_NAMES, SEPARATORS


class Names(Setting):
    """What a store promises of names, whatever is in them."""

    async def test_hostile_sessions_are_apart(self, store: Store, user: str) -> None:
        keys = [SessionKey(user, name) for name in HOSTILE_NAMES]
        for number, key in enumerate(keys):
            appended = await store.append(key, entries(f"m{number}"))
            assert (appended.seqs, appended.created) == ((1,), True), f"{key} is not a session of its own"
        for number, key in enumerate(keys):
            assert ids(await store.read(key)) == [f"m{number}"]
        found = await listed(store, user, limit=20)
        assert sorted(info.key for info in found) == sorted(keys)
        for key in keys[::2]:
            assert await store.delete(key) == 1
        for number, key in enumerate(keys):
            assert ids(await store.read(key)) == ([f"m{number}"] if number % 2 else [])
        assert sorted(await listed_names(store, user)) == sorted(HOSTILE_NAMES[1::2])

    async def test_hostile_users_are_apart(self, store: Store, user: str) -> None:
        keys = [SessionKey(name, user) for name in HOSTILE_NAMES]
        for number, key in enumerate(keys):
            assert (await store.append(key, entries(f"m{number}"))).created, f"{key} is not a session of its own"
        for number, key in enumerate(keys):
            assert ids(await store.read(key)) == [f"m{number}"]
            mine = [info.key for info in await listed(store, key.user_id)]
            assert key in mine
            assert {each.user_id for each in mine} == {key.user_id}
        assert sorted(key for key in await scanned(store, *HOSTILE_NAMES) if key.session_id == user) == sorted(keys)
        for number, key in enumerate(keys):
            assert await store.delete(key) == 1
            after = keys[(number + 1) % len(keys)]
            assert (await store.describe(after) is None) == (number + 1 == len(keys))

    async def test_hostile_ids_are_apart(self, store: Store, key: SessionKey) -> None:
        turn = [Entry(name, f"body {number}".encode()) for number, name in enumerate(HOSTILE_NAMES)]
        appended = await store.append(key, turn)
        assert all(appended.new)
        stored = await store.read(key)
        assert ids(stored) == list(HOSTILE_NAMES)
        assert [record.body for record in stored.records] == [entry.body for entry in turn]
        again = await store.append(key, turn[::-1])
        assert not any(again.new)
        assert again.seqs == appended.seqs[::-1]

    async def test_no_separator_joins_two_names(self, store: Store, user: str) -> None:
        keys = [
            key
            for separator in SEPARATORS
            for key in (SessionKey(f"{user}{separator}b", "c"), SessionKey(user, f"b{separator}c"))
        ]
        for key in keys:
            assert (await store.append(key, entries("a"))).created, f"{key} is not a session of its own"
        for key in keys:
            info = await known(store, key)
            assert (info.key, info.count) == (key, 1)
        assert await listed_names(store, f"{user}:b") == ["c"]
