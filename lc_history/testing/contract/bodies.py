"""Promise 9: bytes come back as they went in, however many, and what is too large writes nothing."""

from __future__ import annotations

import pytest

from lc_history.errors import TooLargeError
from lc_history.model import Entry, SessionKey
from lc_history.store import Store
from lc_history.testing.contract.setting import Setting, SideDoor
from lc_history.testing.contract.views import entries, ids, known, listed_names, numbered

MEGABYTE = 1024 * 1024
EVERY_BYTE = bytes(range(256))


class Bodies(Setting):
    """What a store promises of bodies and descriptions."""

    async def test_bytes_come_back_as_they_were(self, store: Store, key: SessionKey) -> None:
        bodies = [b"", EVERY_BYTE, EVERY_BYTE[::-1] * 3, b"\x00", b"\xff\xfe", b"\xc3\x28", b'{"a": NaN}', b"1", b" \n"]
        bodies += [bytes([value]) for value in EVERY_BYTE]
        await store.append(key, [Entry(f"m{number}", body) for number, body in enumerate(bodies)])
        stored = (await store.read(key)).records
        assert [record.body for record in stored] == bodies
        assert {type(record.body) for record in stored} == {bytes}
        for body in (EVERY_BYTE, b""):
            info = await store.describe(key, description=body)
            assert info is not None
            assert info.description == body
        assert await store.replace(key, 1, EVERY_BYTE, expected=b"") is True
        assert (await store.read(key, first=1)).records[0].body == EVERY_BYTE

    async def test_large_bodies(self, store: Store, key: SessionKey) -> None:
        large = EVERY_BYTE * (self.large_body_bytes // 256)
        turn = [*entries("small"), Entry("megabyte", large[:MEGABYTE]), Entry("large", large[::-1]), *entries("after")]
        assert (await store.append(key, turn)).seqs == (1, 2, 3, 4)
        assert [record.body for record in (await store.read(key)).records] == [entry.body for entry in turn]
        assert not any((await store.append(key, turn)).new)
        assert await store.replace(key, 3, large, expected=large[::-1]) is True
        assert (await store.read(key, last=2)).records[0].body == large
        assert ids(await store.read(key, lane="audit")) == []

    async def test_a_large_body_is_erased(self, store: Store, key: SessionKey, side_door: SideDoor) -> None:
        large = Entry("megabyte", EVERY_BYTE * 4096)
        await store.append(key, [*entries("a"), large])
        assert await store.replace(key, 2, large.body[1:], expected=large.body) is True
        assert sum(map(len, side_door.raw_records(key))) > MEGABYTE / 2
        await store.delete(key)
        assert sum(map(len, side_door.raw_records(key))) < MEGABYTE / 2

    async def test_too_large_writes_nothing(self, store: Store, key: SessionKey) -> None:
        assert store.max_body_bytes >= 8 * MEGABYTE
        too_large = Entry("huge", bytes(store.max_body_bytes + 1))
        with pytest.raises(TooLargeError) as refused:
            await store.append(key, [*entries("a"), too_large, *entries("b")])
        assert isinstance(refused.value, ValueError)
        assert key.session_id in str(refused.value)
        assert await store.describe(key) is None
        assert await listed_names(store, key.user_id) == []
        await store.append(key, entries("a"))
        with pytest.raises(TooLargeError):
            await store.append(key, [too_large])
        with pytest.raises(TooLargeError):
            await store.replace(key, 1, too_large.body, expected=b"said a")
        await store.append(key, entries("b"))
        assert numbered(await store.read(key)) == [(1, "a", b"said a"), (2, "b", b"said b")]

    async def test_a_long_session(self, store: Store, key: SessionKey) -> None:
        bodies = [f"{number:05}".encode() * 200 for number in range(self.many_records)]
        entries_ = [Entry(f"m{number}", body) for number, body in enumerate(bodies)]
        for begin in range(0, len(entries_), 100):
            await store.append(key, entries_[begin : begin + 100])
        await store.append(key, [Entry("megabyte", EVERY_BYTE * 4096)])
        stored = (await store.read(key)).records
        assert [record.seq for record in stored] == list(range(1, self.many_records + 2))
        assert [record.body for record in stored[:-1]] == bodies
        assert stored[-1].body == EVERY_BYTE * 4096
        middle = await store.read(key, after=self.many_records // 2, first=3)
        assert [record.seq for record in middle.records] == [self.many_records // 2 + step for step in (1, 2, 3)]
        assert (await store.append(key, entries_[:50])).seqs == tuple(range(1, 51))
        assert (await known(store, key)).count == self.many_records + 1
