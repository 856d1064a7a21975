"""Moving: a session leaves one store for another and comes back, whole, and nothing is lost on the way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, get_args

import pytest

from lc_history.bridge import pause
from lc_history.errors import ConflictError
from lc_history.model import LANES, Record, SessionCopy, SessionInfo, SessionKey, State
from lc_history.store import Store
from lc_history.testing.contract.setting import Setting
from lc_history.testing.contract.views import entries, ids, known, listed_names, made_copy, numbered, scanned, whole
from lc_history.testing.races import StoreOpener

STATES: Final[tuple[State, ...]] = get_args(State)
LONG_AGO = datetime(2024, 2, 29, 12, 30, 15, 123457, tzinfo=UTC)


def _records(*names: str, begin: int = 1) -> list[Record]:
    moments = (LONG_AGO + timedelta(microseconds=number) for number in range(len(names)))
    return [
        Record(seq, entry.id, entry.body, moment)
        for seq, (entry, moment) in enumerate(zip(entries(*names), moments, strict=True), begin)
    ]


def _copy(key: SessionKey, *names: str, begin: int = 1) -> SessionCopy:
    info = SessionInfo(key, 0, 0, LONG_AGO, LONG_AGO + timedelta(days=1), None, False, b"", 7)
    return made_copy(info, messages=_records(*names, begin=begin)) if names else made_copy(info)


async def _move(store: Store, key: SessionKey) -> SessionCopy:
    copy = await whole(store, key)
    await store.delete(key, moved_version=copy.info.version)
    return copy


class Moves(Setting):
    """What ``Store.delete(moved_version=...)`` and `Store.load` promise."""

    async def test_loaded_as_it_was(self, store: Store, another: StoreOpener, key: SessionKey) -> None:
        expires_at = datetime(2099, 1, 1, 1, 2, 3, 456789, tzinfo=UTC)
        info = replace(_copy(key).info, expires_at=expires_at, archived=True, description=b"\x00title\xff")
        lanes = {lane: _records(f"{lane} a", f"{lane} b", begin=place) for place, lane in enumerate(LANES, 3)}
        copy = made_copy(info, **lanes)
        await store.load(copy)
        for reader in (store, another()):
            there = await whole(reader, key)
            assert there.lanes == copy.lanes
            assert replace(there.info, version=copy.info.version) == copy.info
        assert (await store.append(key, entries("messages a", "new"))).seqs == (3, 5)
        assert await listed_names(store, key.user_id) == [key.session_id]

    async def test_loaded_with_gaps_and_numbers_beyond(self, store: Store, key: SessionKey) -> None:
        copy = _copy(key, "a", "b", "c", begin=5)
        del copy.lanes["messages"].records[1]
        copy = SessionCopy(
            replace(copy.info, count=2, last_seq=9),
            {**copy.lanes, "messages": replace(copy.lanes["messages"], last_seq=9)},
        )
        await store.load(copy)
        assert [record.seq for record in (await store.read(key)).records] == [5, 7]
        info = await known(store, key)
        assert (info.count, info.last_seq) == (2, 9)
        assert (await store.append(key, entries("b"))).seqs == (10,)

    async def test_moved_out_of_sight(self, store: Store, another: StoreOpener, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        await store.append(key, entries("x"), lane="audit")
        await store.describe(key, description=b"title")
        assert await store.delete(key, moved_version=(await known(store, key)).version) == 2
        for reader in (store, another()):
            for lane in LANES:
                assert (await reader.read(key, lane=lane)).records == []
            assert await reader.describe(key) is None
            assert await listed_names(reader, key.user_id) == []
            assert await scanned(reader, key.user_id) == []

    async def test_a_moved_session_takes_nothing(self, store: Store, another: StoreOpener, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        moved = await _move(store, key)
        for writer in (store, another()):
            with pytest.raises(ConflictError) as refused:
                await writer.append(key, entries("b"))
            assert key.session_id in str(refused.value)
            with pytest.raises(ConflictError):
                await writer.append(key, entries("x"), lane="audit")
            with pytest.raises(ConflictError):
                await writer.append(key, entries("b"), create=False)
            with pytest.raises(ConflictError):
                await writer.describe(key, create=True)
        with pytest.raises(ConflictError):
            await store.delete(key, moved_version=moved.info.version)
        assert await store.describe(key, archived=True) is None
        assert await store.delete(key, through=1) == 0

    async def test_only_what_stands_as_it_was_seen_is_erased(self, store: Store, key: SessionKey) -> None:
        for state in STATES:
            with pytest.raises(ConflictError) as refused:
                await store.delete(key, only=state)
            assert key.session_id in str(refused.value)
        await store.append(key, entries("a", "b"))
        with pytest.raises(ConflictError):
            await store.delete(key, only="moved")
        await _move(store, key)
        with pytest.raises(ConflictError):
            await store.delete(key, only="alive")
        assert await store.delete(key, only="moved") == 0
        for state in STATES:  # it is erased now, and stays so
            with pytest.raises(ConflictError):
                await store.delete(key, only=state)
        with pytest.raises(ConflictError):
            await store.append(key, entries("late"), not_erased_since=2)
        assert (await store.append(key, entries("a"))).seqs == (4,)
        assert await store.delete(key, only="alive") == 1
        assert (await store.read(key)).records == []

    async def test_a_changed_session_is_not_moved(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        stale = (await known(store, key)).version
        await store.append(key, entries("x"), lane="audit")
        with pytest.raises(ConflictError) as refused:
            await store.delete(key, moved_version=stale)
        assert key.session_id in str(refused.value)
        with pytest.raises(ConflictError):
            await store.delete(SessionKey(key.user_id, "s2"), moved_version=1)
        assert ids(await store.read(key)) == ["a"]
        assert ids(await store.read(key, lane="audit")) == ["x"]

    async def test_a_session_that_ended_and_began_again_is_not_moved(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        copied = await store.describe(key, expires_at=datetime.now(UTC) + self.ttl)
        assert copied is not None
        await pause(self.ttl.total_seconds() + 0.05)
        await store.append(key, entries("b"))  # as many changes as before
        await store.describe(key, archived=True)
        with pytest.raises(ConflictError):
            await store.delete(key, moved_version=copied.version)
        with pytest.raises(ConflictError):
            await store.load(_copy(key, "a"), over_version=copied.version)
        assert ids(await store.read(key)) == ["b"]

    async def test_moved_and_brought_back(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        await store.append(key, entries("x"), lane="audit")
        await store.describe(key, description=b"title", archived=True)
        copy = await _move(store, key)
        await store.load(copy)
        back = await whole(store, key)
        assert back.lanes == copy.lanes
        assert back.info == copy.info  # a session that was away has not changed
        assert (await store.append(key, entries("a", "c"), not_erased_since=2)).seqs == (1, 3)

    async def test_a_stale_copy_does_not_come_back(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        stale = await whole(store, key)
        await store.append(key, entries("b"))
        fresh = await _move(store, key)
        with pytest.raises(ConflictError) as refused:
            await store.load(stale)
        assert key.session_id in str(refused.value)
        assert await store.describe(key) is None
        await store.load(fresh)
        assert ids(await store.read(key)) == ["a", "b"]

    async def test_a_copy_without_the_latest_change_does_not_come_back(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        await store.append(key, entries("x"), lane="audit")
        before_each_change = []
        for change in (
            store.describe(key, description=b"named"),
            store.replace(key, 1, b"redacted", expected=b"said a"),
            store.append(key, entries("y"), lane="audit"),
            store.delete(key, through=1, lane="audit"),
            store.describe(key, expires_at=datetime.now(UTC) + timedelta(hours=1)),
        ):
            before_each_change.append(await whole(store, key))
            await change
        fresh = await _move(store, key)
        for stale in before_each_change:
            with pytest.raises(ConflictError):
                await store.load(stale)
        await store.load(fresh)
        back = await whole(store, key)
        assert (back.lanes, back.info) == (fresh.lanes, fresh.info)

    async def test_what_grew_elsewhere_comes_back(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        version = (await _move(store, key)).info.version
        grown = _copy(key, "a", "b")
        await store.load(replace(grown, info=replace(grown.info, version=version + 1)))
        assert ids(await store.read(key)) == ["a", "b"]
        assert (await known(store, key)).version > version

    async def test_an_erased_session_does_not_come_back(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        copy = await whole(store, key)
        await store.delete(key)
        with pytest.raises(ConflictError):
            await store.load(copy)
        assert await store.describe(key) is None

    async def test_erased_after_it_was_moved(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        copy = await _move(store, key)
        assert await store.delete(key) == 0
        with pytest.raises(ConflictError):
            await store.load(copy)
        assert (await store.append(key, entries("b"))).created

    async def test_what_began_after_an_erasure_is_loaded(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        await store.delete(key)
        erased = (await store.read(key)).last_seq
        with pytest.raises(ConflictError):
            await store.load(_copy(key, "a", "b", begin=erased))
        await store.load(_copy(key, "a", "b", begin=erased + 1))
        assert numbered(await store.read(key)) == [(3, "a", b"said a"), (4, "b", b"said b")]
        with pytest.raises(ConflictError):
            await store.append(key, entries("late"), not_erased_since=1)

    async def test_a_load_gives_no_number_twice(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        await store.append(key, entries("x", "y"), lane="audit")
        await store.delete(key)
        await store.load(_copy(key))
        assert (await store.append(key, entries("c"))).seqs == (4,)
        assert (await store.append(key, entries("z"), lane="audit")).seqs == (3,)

    async def test_a_living_session_is_replaced_only_knowingly(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        await store.append(key, entries("x"), lane="audit")
        await store.describe(key, description=b"title")
        version = (await known(store, key)).version
        for wrong in (None, version - 1, version + 1):
            with pytest.raises(ConflictError) as refused:
                await store.load(_copy(key, "b"), over_version=wrong)
            assert key.session_id in str(refused.value)
        assert ids(await store.read(key)) == ["a"]
        await store.load(_copy(key, "b", "c"), over_version=version)
        assert ids(await store.read(key)) == ["b", "c"]
        assert ids(await store.read(key, lane="audit")) == []
        info = await known(store, key)
        assert (info.description, info.count) == (b"", 2)
        assert info.version > version
        assert (await store.append(key, entries("a", "b"))).new == (True, False)

    async def test_over_version_is_no_hindrance_where_nothing_is(self, store: Store, key: SessionKey) -> None:
        await store.load(_copy(key, "a"), over_version=3)
        assert ids(await store.read(key)) == ["a"]
