"""The promises under fire: threads, tasks and processes at once, and a writer that is killed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from lc_history.bridge import pause
from lc_history.errors import ConflictError
from lc_history.model import Appended, SessionKey, Slice
from lc_history.store import Store
from lc_history.testing.contract.setting import Setting
from lc_history.testing.contract.views import assert_one_conversation, entries, ids, known, listed_names, whole
from lc_history.testing.races import (
    Colour,
    StoreOpener,
    crowd,
    in_processes,
    kill_writer,
    turn,
    write_turns,
    write_turns_apart,
)


def assert_all_there(final: Slice, acknowledged: Iterable[Mapping[str, int]]) -> None:
    """Check that every acknowledged id stands once, where its writer was told, in its writer's order, turn by turn."""
    assert_one_conversation(final)
    expected = {id_: seq for numbers in acknowledged for id_, seq in numbers.items()}
    assert {record.id: record.seq for record in final.records} == expected
    assert [record.seq for record in final.records] == list(range(1, len(expected) + 1))
    assert_whole_turns(final)
    for numbers in acknowledged:
        assert list(numbers.values()) == sorted(numbers.values())


def assert_whole_turns(slice_: Slice) -> None:
    """Check that turns of three stand together and are all there."""
    parts = [id_.rpartition("/") for id_ in ids(slice_)]
    for begin in range(0, len(parts), 3):
        together = parts[begin : begin + 3]
        assert [part for _, _, part in together] == ["0", "1", "2"]
        assert len({name for name, _, _ in together}) == 1


def assert_growing_prefixes(seen: list[Slice], final: Slice) -> None:
    """Check that a reader saw the same conversation grow, turn by turn, and nothing fill in later."""
    lengths = [len(slice_.records) for slice_ in seen]
    assert lengths == sorted(lengths)
    for slice_ in seen:
        assert slice_.records == final.records[: len(slice_.records)]
        assert slice_.last_seq == len(slice_.records)
        assert_whole_turns(slice_)


class Concurrency(Setting):
    """What a store promises many writers."""

    async def test_writers_on_one_store_object(self, store: Store, another: StoreOpener, key: SessionKey) -> None:
        reader, seen, writing = another(), list[Slice](), [self.writers]

        async def work(number: int) -> dict[str, int]:
            if number == self.writers:
                while writing[0]:
                    seen.append(await reader.read(key))
                    await pause(0.001)
                return {}
            try:
                return await write_turns(store, key, writer=f"w{number}", turns=self.turns, attempts=self.attempts)
            finally:
                writing[0] -= 1

        acknowledged = await crowd(self.writers + 1, work)
        final = await store.read(key)
        assert_all_there(final, acknowledged)
        assert_growing_prefixes(seen, final)
        info = await known(store, key)
        assert info.count == info.last_seq == self.writers * self.turns * 3

    async def test_writers_in_processes(
        self, store: Store, open_store: StoreOpener, key: SessionKey, colour: Colour
    ) -> None:
        self._need_processes()
        seen: list[Slice] = []
        writers = in_processes(
            self.processes, write_turns_apart, open_store, colour, key, turns=self.turns, attempts=self.attempts
        )
        while not all(writer.done() for writer in writers):
            seen.append(await store.read(key))
            await pause(0.005)
        final = await store.read(key)
        assert_all_there(final, [writer.result() for writer in writers])
        assert_growing_prefixes(seen, final)

    async def test_a_killed_writer_leaves_whole_turns(
        self, store: Store, open_store: StoreOpener, key: SessionKey, colour: Colour
    ) -> None:
        self._need_processes()
        told: list[int] = []
        for kill in range(self.kills):
            told.append(kill_writer(open_store, colour, key, prefix=f"k{kill}", after=2 + 5 * kill))
            stored = await store.read(key)
            assert_one_conversation(stored)
            assert_whole_turns(stored)
            turns = [id_.rpartition("/")[0] for id_ in ids(stored)[::3]]
            # The turn that a writer had sent when it died may be carried out later than we look.
            turns_of = [[name for name in turns if name.startswith(f"k{writer}.")] for writer in range(kill + 1)]
            assert sum(map(len, turns_of)) == len(turns)
            for writer, (names, acknowledged) in enumerate(zip(turns_of, told, strict=True)):
                assert names == [f"k{writer}.{number}" for number in range(len(names))]
                assert acknowledged <= len(names) <= acknowledged + 1
        assert (await store.append(key, turn("after"))).new == (True, True, True)

    async def test_one_turn_from_many_writers(self, store: Store, key: SessionKey) -> None:
        async def work(_: int) -> Appended:
            for left in reversed(range(self.attempts)):
                try:
                    return await store.append(key, turn("same"))
                except ConflictError:
                    if not left:
                        raise
            raise AssertionError

        appended = await crowd(self.writers, work)
        assert {each.seqs for each in appended} == {(1, 2, 3)}
        assert sum(each.new == (True, True, True) for each in appended) <= 1  # a retry inside may have been told "old"
        assert sum(each.created for each in appended) <= 1
        assert len((await store.read(key)).records) == 3

    async def test_one_of_many_expected_seqs_wins(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("begin"))

        async def work(number: int) -> bool:
            try:
                await store.append(key, turn(f"w{number}"), expected_seq=1)
            except ConflictError:
                return False
            return True

        won = await crowd(self.writers, work)
        assert sum(won) == 1
        assert ids(await store.read(key, after=1)) == [entry.id for entry in turn(f"w{won.index(True)}")]

    async def test_many_sessions_of_one_user(self, store: Store, user: str) -> None:
        async def work(number: int) -> None:
            for part in range(3):
                await store.append(SessionKey(user, f"s{number}"), entries(f"m{part}"))

        await crowd(self.writers, work)
        assert sorted(await listed_names(store, user)) == sorted(f"s{number}" for number in range(self.writers))

    async def test_no_number_is_given_twice_while_sessions_are_erased(self, store: Store, key: SessionKey) -> None:
        given: list[int] = []

        async def work(number: int) -> None:
            for step in range(self.turns):
                if number == 0:
                    await store.delete(key)
                else:
                    given.extend((await store.append(key, turn(f"w{number}.{step}"))).seqs)
                await pause(0.001)

        await crowd(min(self.writers, 6), work)
        assert len(given) == len(set(given))
        assert_whole_turns(await store.read(key))

    async def test_a_turn_that_meets_a_move_is_not_lost(self, store: Store, key: SessionKey) -> None:
        await store.append(key, turn("begin"))
        acknowledged: list[str] = []

        async def write() -> None:
            for step in range(4 * self.turns):
                name = f"t{step}"
                for _ in range(1000):
                    try:
                        await store.append(key, turn(name), create=False)
                    except ConflictError:
                        await pause(0.001)
                    else:
                        acknowledged.append(name)
                        break

        async def move() -> None:
            for _ in range(2 * self.turns):
                await pause(0.002)
                copy = await whole(store, key)
                try:
                    await store.delete(key, moved_version=copy.info.version)
                except ConflictError:
                    continue
                await store.load(copy)

        await crowd(2, lambda number: move() if number else write())
        assert acknowledged == [f"t{step}" for step in range(4 * self.turns)]
        stored = await store.read(key)
        assert_one_conversation(stored)
        assert ids(stored) == [entry.id for name in ("begin", *acknowledged) for entry in turn(name)]

    async def test_a_load_is_seen_whole_or_not_at_all(
        self, store: Store, another: StoreOpener, key: SessionKey
    ) -> None:
        for step in range(20):
            await store.append(key, turn(f"t{step}", 10))
        await store.append(key, entries("x"), lane="audit")
        copy = await whole(store, key)
        await store.delete(key, moved_version=copy.info.version)
        reader, loaded = another(), list[bool]()

        async def work(number: int) -> list[int]:
            if number == 0:
                await store.load(copy)
                loaded.append(True)
                return []
            lengths = []
            while not loaded:
                lengths.append(len((await reader.read(key)).records))
                await pause(0)
            return lengths

        _, lengths = await crowd(2, work)
        assert set(lengths) <= {0, 200}
        assert (await whole(store, key)).lanes == copy.lanes

    async def test_migrate_at_any_time(self, store: Store, another: StoreOpener, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        others = [another() for _ in range(4)]
        await crowd(4, lambda number: others[number].migrate())
        assert ids(await store.read(key)) == ["a"]

    async def test_close_keeps_what_was_written(self, store: Store, another: StoreOpener, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        later = another()
        await store.close()
        await store.close()
        assert ids(await later.read(key)) == ["a"]

    def _need_processes(self) -> None:
        if not self.processes:
            pytest.skip("this store lives in one process")
