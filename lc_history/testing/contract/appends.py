"""Promises 1 to 4: exactly once, numbered in order, whole turns, compared when asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lc_history.errors import ConflictError
from lc_history.model import LANES, Appended, Expiry, SessionKey
from lc_history.store import Store
from lc_history.testing.contract.setting import Clock, Setting, SideDoor
from lc_history.testing.contract.views import entries, ids, known, listed_names, numbered
from lc_history.testing.races import StoreOpener


class Appends(Setting):
    """What `Store.append` promises a single writer."""

    async def test_numbers_grow_from_one(self, store: Store, key: SessionKey) -> None:
        assert await store.append(key, entries("a", "b")) == Appended((1, 2), (True, True), created=True)
        assert await store.append(key, entries("c")) == Appended((3,), (True,), created=False)
        stored = await store.read(key)
        assert numbered(stored) == [(1, "a", b"said a"), (2, "b", b"said b"), (3, "c", b"said c")]
        assert stored.last_seq == 3

    async def test_same_id_keeps_number_and_first_content(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        before = await known(store, key)
        changed = [entries("b")[0], type(entries("a")[0])("a", b"other")]
        assert await store.append(key, changed) == Appended((2, 1), (False, False))
        assert numbered(await store.read(key)) == [(1, "a", b"said a"), (2, "b", b"said b")]
        assert await known(store, key) == before

    async def test_first_of_two_equal_ids_in_one_call(self, store: Store, key: SessionKey) -> None:
        first, second = entries("a")[0], type(entries("a")[0])("a", b"again")
        appended = await store.append(key, [first, *entries("b"), second])
        assert appended == Appended((1, 2, 1), (True, True, False), created=True)
        assert numbered(await store.read(key)) == [(1, "a", b"said a"), (2, "b", b"said b")]

    async def test_old_and_new_ids_in_one_call(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        assert await store.append(key, entries("c", "a", "d")) == Appended((3, 1, 4), (True, False, True))
        assert ids(await store.read(key)) == ["a", "b", "c", "d"]

    async def test_same_id_through_another_store_object(self, another: StoreOpener, key: SessionKey) -> None:
        await another().append(key, entries("a"))
        assert await another().append(key, entries("a")) == Appended((1,), (False,))

    async def test_retry_leaves_one_copy(self, store: Store, key: SessionKey, side_door: SideDoor) -> None:
        for _ in range(3):
            await store.append(key, entries("a", "b"))
        raw = side_door.raw_records(key)
        assert sum(b"said a" in value for value in raw) == 1
        assert sum(b"said b" in value for value in raw) == 1

    async def test_nothing_to_append(self, store: Store, key: SessionKey) -> None:
        assert await store.append(key, []) == Appended((), ())
        assert await store.describe(key) is None
        await store.append(key, entries("a"))
        before = await known(store, key)
        assert await store.append(key, []) == Appended((), ())
        assert await known(store, key) == before

    async def test_created_is_told_once(self, store: Store, key: SessionKey) -> None:
        assert (await store.append(key, entries("a"), lane="audit")).created
        assert not (await store.append(key, entries("a"))).created
        described = SessionKey(key.user_id, "s2")
        await store.describe(described, create=True)
        assert not (await store.append(described, entries("a"))).created

    async def test_lanes_have_ids_and_numbers_of_their_own(self, store: Store, key: SessionKey) -> None:
        for place, lane in enumerate(LANES, 1):
            names = [f"{number}" for number in range(place)]
            assert (await store.append(key, entries(*names), lane=lane)).seqs == tuple(range(1, place + 1))
        for place, lane in enumerate(LANES, 1):
            stored = await store.read(key, lane=lane)
            assert ids(stored) == [f"{number}" for number in range(place)]
            assert stored.last_seq == place
        info = await known(store, key)
        assert (info.count, info.last_seq) == (1, 1)

    async def test_expected_seq(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"), expected_seq=0)
        with pytest.raises(ConflictError) as refused:
            await store.append(key, entries("c", "d"), expected_seq=1)
        assert key.session_id in str(refused.value)
        assert ids(await store.read(key)) == ["a", "b"]
        await store.append(key, entries("c"), expected_seq=2)
        await store.append(key, entries("x"), lane="audit", expected_seq=0)
        with pytest.raises(ConflictError):
            await store.append(SessionKey(key.user_id, "s2"), entries("a"), expected_seq=1)
        assert await listed_names(store, key.user_id) == ["s1"]

    async def test_retry_succeeds_whatever_its_conditions(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"), expected_seq=0)
        await store.append(key, entries("c"))
        assert await store.append(key, entries("a", "b"), expected_seq=0) == Appended((1, 2), (False, False))
        assert (await store.append(key, entries("a"), create=False)).seqs == (1,)
        with pytest.raises(ConflictError):
            await store.append(key, entries("a", "d"), expected_seq=0)

    async def test_create_false_wants_a_session(self, store: Store, key: SessionKey) -> None:
        with pytest.raises(ConflictError) as refused:
            await store.append(key, entries("a"), create=False)
        assert key.session_id in str(refused.value)
        assert await store.describe(key) is None
        await store.append(key, entries("a"))
        assert (await store.append(key, entries("b"), create=False)).seqs == (2,)
        await store.delete(key)
        with pytest.raises(ConflictError):
            await store.append(key, entries("c"), create=False)

    async def test_records_know_when(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        first = await known(store, key)
        times = [record.created_at for record in (await store.read(key)).records]
        assert all(moment.utcoffset() == timedelta(0) for moment in times)
        assert all(abs(datetime.now(UTC) - moment) < timedelta(minutes=1) for moment in times)
        assert first.created_at <= first.updated_at
        assert first.created_at.utcoffset() == first.updated_at.utcoffset() == timedelta(0)

    async def test_version_grows_with_every_change(self, store: Store, key: SessionKey) -> None:
        versions = []
        await store.append(key, entries("a", "b"))
        versions.append((await known(store, key)).version)
        await store.append(key, entries("x"), lane="audit")
        versions.append((await known(store, key)).version)
        await store.replace(key, 1, b"other", expected=b"said a")
        versions.append((await known(store, key)).version)
        await store.delete(key, through=1)
        versions.append((await known(store, key)).version)
        await store.describe(key, archived=True)
        versions.append((await known(store, key)).version)
        await store.append(key, entries("b"), expiry=Expiry(timedelta(hours=1)))
        versions.append((await known(store, key)).version)
        await store.append(key, entries("b"), expiry=Expiry(timedelta(hours=2), sliding=True))
        versions.append((await known(store, key)).version)
        assert versions == sorted(set(versions))
        await store.read(key)
        await store.append(key, entries("b"))
        assert (await known(store, key)).version == versions[-1]

    async def test_order_does_not_follow_the_clock(self, store: Store, key: SessionKey, clock: Clock) -> None:
        names = [f"m{number}" for number in range(6)]
        for name in names[:3]:  # frozen
            await store.append(key, entries(name))
        clock.turn(timedelta(hours=-1))
        for name in names[3:]:
            assert (await store.append(key, entries(name))).new == (True,)
        info = await known(store, key)
        assert info.created_at <= info.updated_at
        clock.turn(timedelta(hours=2))
        assert (await store.append(key, entries("m0"))).seqs == (1,)
        stored = await store.read(key)
        assert [record.seq for record in stored.records] == [1, 2, 3, 4, 5, 6]
        assert ids(stored) == names
        assert ids(await store.read(key, last=2)) == names[-2:]
