"""Reads: any range of any lane, and a body replaced only when it is the expected one."""

from __future__ import annotations

from itertools import product

import pytest

from lc_history.errors import HistoryError
from lc_history.model import LANES, SessionKey, Slice
from lc_history.store import Store
from lc_history.testing.contract.setting import Setting, SideDoor
from lc_history.testing.contract.views import assert_one_conversation, entries, ids, known, listed_names, numbered, tick
from lc_history.testing.races import StoreOpener


class Reads(Setting):
    """What `Store.read` and `Store.replace` promise."""

    async def test_every_range(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries(*"abcdefg"))
        await store.delete(key, through=2)
        await store.append(key, entries("x", "y", "z"), lane="memory")
        seqs = range(3, 8)
        for after, before in product((0, 3, 5, 9), (None, 0, 1, 4, 7, 12)):
            wanted = [seq for seq in seqs if seq > after and (before is None or seq < before)]
            for count in (None, 1, 2, 20):
                first = await store.read(key, after=after, before=before, first=count)
                assert [record.seq for record in first.records] == wanted[:count]
                last = await store.read(key, after=after, before=before, last=count)
                assert [record.seq for record in last.records] == wanted[-count if count else None :]
                assert first.last_seq == last.last_seq == 7

    async def test_a_range_of_a_side_lane(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        await store.append(key, entries("x", "y", "z"), lane="summaries")
        assert ids(await store.read(key, lane="summaries", after=1, before=3)) == ["y"]
        assert ids(await store.read(key, lane="summaries", last=1)) == ["z"]
        assert await store.read(key, lane="anchors") == Slice()

    async def test_numbers_that_were_never_given(self, store: Store, key: SessionKey) -> None:
        for lane in LANES:
            await store.append(key, entries("a", "b"), lane=lane)
        for lane in LANES:
            assert ids(await store.read(key, lane=lane, after=-7, before=2**40)) == ["a", "b"]
            assert ids(await store.read(key, lane=lane, after=2**40)) == []
            assert ids(await store.read(key, lane=lane, before=-7)) == []
            for seq in (-7, -1, 0, 3, 2**40):
                assert await store.replace(key, seq, b"new", expected=b"said a", lane=lane) is False
            assert await store.delete(key, through=-7, lane=lane) == 0
        assert await store.delete(key, through=2**40) == 2
        for lane in LANES[1:]:
            assert ids(await store.read(key, lane=lane)) == ["a", "b"]

    async def test_pages_join_up(self, store: Store, key: SessionKey) -> None:
        names = [f"m{number}" for number in range(10)]
        await store.append(key, entries(*names))
        forward: list[str] = []
        after = 0
        while (page := await store.read(key, after=after, first=3)).records:
            forward += ids(page)
            after = page.records[-1].seq
        assert forward == names
        backward: list[str] = []
        before = None
        while (page := await store.read(key, before=before, last=4)).records:
            backward = ids(page) + backward
            before = page.records[0].seq
        assert backward == names

    async def test_an_absent_session_reads_as_empty(self, store: Store, key: SessionKey) -> None:
        assert await store.read(key) == Slice()
        assert await store.read(key, lane="audit", last=3) == Slice()
        assert await store.describe(key) is None
        assert await listed_names(store, key.user_id) == []

    async def test_first_and_last_exclude_each_other(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        with pytest.raises(ValueError, match="not both"):
            await store.read(key, first=1, last=1)
        for wrong in (0, -1):
            with pytest.raises(ValueError, match="at least 1"):
                await store.read(key, first=wrong)
            with pytest.raises(ValueError, match="at least 1"):
                await store.read(key, last=wrong)

    async def test_another_store_object_reads_the_same(self, another: StoreOpener, key: SessionKey) -> None:
        one, other = another(), another()
        await one.append(key, entries("a", "b"))
        assert await other.read(key) == await one.read(key)
        assert await other.describe(key) == await one.describe(key)

    async def test_what_is_read_is_no_alias(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        (await store.read(key)).records.clear()
        assert ids(await store.read(key)) == ["a"]

    async def test_a_damaged_record_is_never_skipped(
        self, store: Store, another: StoreOpener, key: SessionKey, side_door: SideDoor
    ) -> None:
        await store.append(key, entries("a", "b", "c"))
        await store.append(key, entries("x"), lane="audit")
        neighbour = SessionKey(key.user_id, "s2")
        await store.append(neighbour, entries("a"))
        side_door.corrupt(key, 2)
        for reader in (store, another()):
            try:
                stored = await reader.read(key)
            except HistoryError as error:
                assert key.session_id in str(error)  # noqa: PT017 - raising is one of two right answers
                assert "2" in str(error)  # noqa: PT017
            else:  # bytes are opaque to a store: whoever decodes them will see
                assert [record.seq for record in stored.records] == [1, 2, 3]
                assert stored.records[1].body != b"said b"
            assert numbered(await reader.read(key, first=1)) == [(1, "a", b"said a")]
            assert numbered(await reader.read(key, after=2)) == [(3, "c", b"said c")]
            assert ids(await reader.read(key, lane="audit")) == ["x"]
            assert ids(await reader.read(neighbour)) == ["a"]
        assert (await store.append(key, entries("d"))).seqs == (4,)

    async def test_replace_changes_one_body_and_nothing_else(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        await store.append(key, entries("a"), lane="audit")
        before, stored = await known(store, key), await store.read(key)
        await tick()
        assert await store.replace(key, 1, b"new", expected=b"said a") is True
        after, replaced = await known(store, key), await store.read(key)
        assert numbered(replaced) == [(1, "a", b"new"), (2, "b", b"said b")]
        assert [record.created_at for record in replaced.records] == [record.created_at for record in stored.records]
        assert after.updated_at == before.updated_at
        assert (after.count, after.last_seq) == (2, 2)
        assert numbered(await store.read(key, lane="audit")) == [(1, "a", b"said a")]
        assert await store.replace(key, 1, b"noted", expected=b"said a", lane="audit") is True
        assert numbered(await store.read(key, lane="audit")) == [(1, "a", b"noted")]

    async def test_replace_wants_the_expected_body(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        before = await known(store, key)
        assert await store.replace(key, 1, b"new", expected=b"said") is False
        assert await store.replace(key, 2, b"new", expected=b"said a") is False
        assert await store.replace(key, 1, b"new", expected=b"said a", lane="audit") is False
        assert await store.replace(SessionKey(key.user_id, "s2"), 1, b"new", expected=b"said a") is False
        assert numbered(await store.read(key)) == [(1, "a", b"said a")]
        assert await known(store, key) == before
        assert await listed_names(store, key.user_id) == ["s1"]

    async def test_a_replaced_body_stays_deduplicated(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        await store.replace(key, 1, b"redacted", expected=b"said a")
        assert (await store.append(key, entries("a"))).new == (False,)
        stored = await store.read(key)
        assert_one_conversation(stored)
        assert numbered(stored) == [(1, "a", b"redacted")]
