"""Erasure: what is gone is gone in every lane, its numbers are not given again, and no late turn undoes it."""

from __future__ import annotations

import pytest

from lc_history.errors import ConflictError
from lc_history.model import LANES, SessionKey, Slice
from lc_history.store import Store
from lc_history.testing.contract.setting import Setting, SideDoor
from lc_history.testing.contract.views import entries, ids, known, listed_names, numbered, scanned, whole
from lc_history.testing.races import StoreOpener


class Erasure(Setting):
    """What `Store.delete` promises."""

    async def test_erased_in_every_lane_and_verb(self, store: Store, key: SessionKey) -> None:
        for lane in LANES:
            await store.append(key, entries("a", "b"), lane=lane)
        await store.describe(key, description=b"title", archived=True)
        assert await store.delete(key) == 2
        for lane in LANES:
            assert (await store.read(key, lane=lane)).records == []
        assert await store.describe(key) is None
        assert await store.describe(key, description=b"late", archived=False) is None
        assert await store.replace(key, 1, b"new", expected=b"said a") is False
        assert await store.delete(key, through=9) == 0
        assert await listed_names(store, key.user_id) == []
        assert await scanned(store, key.user_id) == []

    async def test_erased_beneath_the_store_too(self, store: Store, key: SessionKey, side_door: SideDoor) -> None:
        for lane in LANES:
            await store.append(key, entries(f"secret {lane}"), lane=lane)
        await store.describe(key, description=b"secret title")
        raw = b" ".join(side_door.raw_records(key))
        for secret in (*(f"said secret {lane}".encode() for lane in LANES), b"secret title"):
            assert secret in raw
        await store.delete(key)
        assert b"secret" not in b" ".join(side_door.raw_records(key))

    async def test_numbers_go_on_above_an_erasure(self, store: Store, another: StoreOpener, key: SessionKey) -> None:
        await store.append(key, entries("a", "b", "c"))
        await store.append(key, entries("x", "y"), lane="audit")
        await store.delete(key)
        assert (await store.read(key)).last_seq == 4  # one is left out
        assert (await another().append(key, entries("d"))).seqs == (5,)
        assert (await store.append(key, entries("z"), lane="audit")).seqs == (3,)

    async def test_an_erased_session_begins_afresh(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        before = await store.describe(key, description=b"title", archived=True)
        assert before is not None
        await store.delete(key)
        appended = await store.append(key, entries("a"))
        assert (appended.new, appended.created) == ((True,), True)
        info = await known(store, key)
        assert (info.count, info.description, info.archived, info.expires_at) == (1, b"", False, None)
        assert info.version > before.version
        assert await listed_names(store, key.user_id) == [key.session_id]

    async def test_an_erasure_touches_one_session(self, store: Store, key: SessionKey) -> None:
        others = [SessionKey(key.user_id, "s2"), SessionKey(f"{key.user_id}2", "s1")]
        for each in (key, *others):
            await store.append(each, entries("a", "b"))
        await store.delete(key)
        for each in others:
            assert ids(await store.read(each)) == ["a", "b"]
            assert (await known(store, each)).count == 2

    async def test_erasing_what_is_not_there(self, store: Store, key: SessionKey) -> None:
        assert await store.delete(key) == 0
        assert await store.delete(key, through=3) == 0
        assert await store.describe(key) is None
        assert await listed_names(store, key.user_id) == []
        await store.append(key, entries("a"))
        assert await store.delete(key) == 1
        assert await store.delete(key) == 0

    async def test_a_turn_in_flight_does_not_undo_an_erasure(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        seen = (await store.read(key)).last_seq
        assert (await store.append(key, entries("c"), not_erased_since=seen)).seqs == (3,)
        await store.delete(key)
        with pytest.raises(ConflictError) as refused:
            await store.append(key, entries("d"), not_erased_since=seen)
        assert key.session_id in str(refused.value)
        assert await store.describe(key) is None
        fresh = (await store.read(key)).last_seq
        await store.append(key, entries("e"), not_erased_since=fresh)
        with pytest.raises(ConflictError):  # also after the session has begun again
            await store.append(key, entries("f"), not_erased_since=seen)
        await store.append(key, entries("g"), not_erased_since=fresh)
        assert ids(await store.read(key)) == ["e", "g"]

    async def test_the_latest_message_seen_does_not_hide_an_erasure(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        await store.delete(key)
        with pytest.raises(ConflictError):
            await store.append(key, entries("b"), not_erased_since=1)
        with pytest.raises(ConflictError):
            await store.append(key, entries("n"), lane="audit", not_erased_since=1)

    async def test_a_first_turn_does_not_undo_an_erasure(self, store: Store, key: SessionKey) -> None:
        seen = (await store.read(key)).last_seq
        await store.delete(key)
        with pytest.raises(ConflictError):
            await store.append(key, entries("a"), not_erased_since=seen)
        await store.append(key, entries("a"))

    async def test_not_erased_since_lets_a_trim_pass(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        await store.delete(key, through=2)
        assert (await store.append(key, entries("c"), not_erased_since=2)).seqs == (3,)

    async def test_records_through_a_number(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b", "c"))
        await store.append(key, entries("x", "y"), lane="audit")
        assert await store.delete(key, through=2) == 2
        assert numbered(await store.read(key)) == [(3, "c", b"said c")]
        assert ids(await store.read(key, lane="audit")) == ["x", "y"]
        assert await store.delete(key, through=2) == 0
        assert await store.delete(key, through=0) == 0
        info = await known(store, key)
        assert (info.count, info.last_seq) == (1, 3)

    async def test_an_emptied_lane_keeps_its_numbers(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        assert await store.delete(key, through=99) == 2
        assert await store.read(key) == Slice([], 2)
        info = await known(store, key)
        assert (info.count, info.last_seq) == (0, 2)
        appended = await store.append(key, entries("a"), expected_seq=2)  # a deleted id may come again
        assert (appended.seqs, appended.new, appended.created) == ((3,), (True,), False)

    async def test_records_of_a_side_lane_are_no_messages(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        await store.append(key, entries("x", "y"), lane="summaries")
        assert await store.delete(key, through=1, lane="summaries") == 0
        assert numbered(await store.read(key, lane="summaries")) == [(2, "y", b"said y")]
        assert (await known(store, key)).count == 1
        assert (await store.append(key, entries("x"), lane="summaries")).seqs == (3,)

    async def test_deleted_records_are_gone_beneath_the_store(
        self, store: Store, key: SessionKey, side_door: SideDoor
    ) -> None:
        await store.append(key, entries("secret", "kept"))
        await store.delete(key, through=1)
        raw = b" ".join(side_door.raw_records(key))
        assert b"secret" not in raw
        assert b"said kept" in raw
        assert ids((await whole(store, key)).lanes["messages"]) == ["kept"]
