"""Promise 6: an expired session reads as empty in every verb, whether or not it has been collected."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lc_history.bridge import pause
from lc_history.errors import ConflictError
from lc_history.model import LANES, Expiry, SessionKey, Slice
from lc_history.store import Store
from lc_history.testing.contract.setting import Setting
from lc_history.testing.contract.views import entries, ids, known, listed_names, scanned, tick, whole

HOUR = timedelta(hours=1)
TOLERANCE = timedelta(minutes=1)


async def _expire(store: Store, *keys: SessionKey) -> None:
    """End sessions now, without waiting for a clock."""
    for key in keys:
        await store.describe(key, expires_at=datetime.now(UTC) - timedelta(seconds=1))


class Expiries(Setting):
    """What `Expiry` promises, on every verb."""

    async def _outlive(self) -> None:
        """Wait until a life of ``ttl``, given before, is over."""
        await pause(self.ttl.total_seconds() + 0.05)

    async def test_no_expiry_unless_asked(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        assert (await known(store, key)).expires_at is None

    async def test_a_fixed_life_begins_once(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"), expiry=Expiry(HOUR))
        first = (await known(store, key)).expires_at
        assert first is not None
        assert abs(first - datetime.now(UTC) - HOUR) < TOLERANCE
        await tick()
        await store.append(key, entries("b"), expiry=Expiry(2 * HOUR))
        assert (await known(store, key)).expires_at == first

    async def test_a_sliding_life_is_renewed_by_each_write(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"), expiry=Expiry(HOUR, sliding=True))
        first = (await known(store, key)).expires_at
        assert first is not None
        await tick()
        await store.append(key, entries("b"), expiry=Expiry(HOUR, sliding=True))
        second = (await known(store, key)).expires_at
        assert second is not None
        assert timedelta(0) < second - first < TOLERANCE
        await store.append(key, entries("x"), lane="audit", expiry=Expiry(2 * HOUR, sliding=True))
        third = (await known(store, key)).expires_at
        assert third is not None
        assert abs(third - second - HOUR) < TOLERANCE
        await store.append(key, entries("c"))  # no expiry given: it stays
        await store.read(key)
        assert (await known(store, key)).expires_at == third

    async def test_a_life_may_begin_later(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"))
        await store.append(key, entries("b"), expiry=Expiry(HOUR))
        expires_at = (await known(store, key)).expires_at
        assert expires_at is not None
        assert abs(expires_at - datetime.now(UTC) - HOUR) < TOLERANCE

    async def test_a_life_is_not_shortened_unasked(self, store: Store, key: SessionKey) -> None:
        fixed, sliding = (Expiry(HOUR, sliding=sliding, shortens=False) for sliding in (False, True))
        await store.append(key, entries("a"))
        for expiry in (fixed, sliding):
            for ids_ in (("a",), ("b",)):  # also where no entry is new
                with pytest.raises(ConflictError) as refused:
                    await store.append(key, entries(*ids_), expiry=expiry)
                assert key.session_id in str(refused.value)
        assert ids(await store.read(key)) == ["a"]
        assert (await known(store, key)).expires_at is None
        await store.append(key, entries("b"), expiry=Expiry(HOUR))
        ends = (await known(store, key)).expires_at
        with pytest.raises(ConflictError):
            await store.append(key, entries("c"), expiry=replace(sliding, ttl=HOUR / 2), create=False)
        await store.append(key, entries("c"), expiry=replace(fixed, ttl=HOUR / 2), create=False)  # it ends as it would
        assert (await known(store, key)).expires_at == ends
        await store.append(key, entries("d"), expiry=replace(sliding, ttl=2 * HOUR), create=False)
        later = (await known(store, key)).expires_at
        assert ids(await store.read(key)) == ["a", "b", "c", "d"]
        assert ends is not None
        assert later is not None
        assert later - ends > HOUR / 2

    async def test_a_life_that_must_not_be_shortened_begins(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"), expiry=Expiry(HOUR, shortens=False))
        assert (await known(store, key)).expires_at is not None
        await _expire(store, key)
        await store.append(key, entries("b"), expiry=Expiry(HOUR, sliding=True, shortens=False))
        assert ids(await store.read(key)) == ["b"]

    async def test_each_session_has_its_own(self, store: Store, key: SessionKey) -> None:
        short, long, endless = (SessionKey(key.user_id, name) for name in ("short", "long", "endless"))
        await store.append(long, entries("a"), expiry=Expiry(HOUR))
        await store.append(endless, entries("a"))
        await store.append(short, entries("a"), expiry=Expiry(self.ttl))
        await self._outlive()
        assert ids(await store.read(short)) == []
        assert ids(await store.read(long)) == ["a"]
        assert await listed_names(store, key.user_id) == ["endless", "long"]

    async def test_an_expired_session_reads_as_empty_everywhere(self, store: Store, key: SessionKey) -> None:
        for lane in LANES:
            await store.append(key, entries("a", "b"), lane=lane, expiry=Expiry(HOUR, sliding=True))
        before = await store.describe(key, description=b"title", expires_at=datetime.now(UTC) + self.ttl)
        assert before is not None
        await self._outlive()
        for lane in LANES:
            assert await store.read(key, lane=lane) == Slice()
        assert await store.describe(key) is None
        assert await store.describe(key, description=b"late", expires_at=datetime.now(UTC) + HOUR) is None
        assert await store.replace(key, 1, b"new", expected=b"said a") is False
        assert await store.delete(key, through=1) == 0
        with pytest.raises(ConflictError):
            await store.append(key, entries("c"), create=False)
        with pytest.raises(ConflictError):
            await store.delete(key, moved_version=before.version)
        assert await listed_names(store, key.user_id) == []
        assert await scanned(store, key.user_id) == []
        assert await store.delete(key) == 0

    async def test_an_append_after_expiry_begins_afresh(self, store: Store, key: SessionKey) -> None:
        for lane in LANES:
            await store.append(key, entries("a", "b"), lane=lane)
        await store.describe(key, description=b"title", archived=True)
        await _expire(store, key)
        appended = await store.append(key, entries("a"))
        assert (appended.new, appended.created) == ((True,), True)
        assert ids(await store.read(key)) == ["a"]
        for lane in LANES[1:]:
            assert (await store.read(key, lane=lane)).records == []
        info = await known(store, key)
        assert (info.count, info.description, info.archived, info.expires_at) == (1, b"", False, None)
        assert abs(info.created_at - datetime.now(UTC)) < TOLERANCE
        assert (await store.append(key, entries("n"), lane="audit")).new == (True,)

    async def test_a_session_described_after_expiry_begins_afresh(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"), expiry=Expiry(HOUR))
        await _expire(store, key)
        info = await store.describe(key, description=b"new", create=True)
        assert info is not None
        assert (info.count, info.description, info.expires_at) == (0, b"new", None)
        assert ids(await store.read(key)) == []

    async def test_an_expired_session_is_no_conflict(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a", "b"))
        copy = await whole(store, key)
        await _expire(store, key)
        await store.append(key, entries("c"), expected_seq=0, not_erased_since=0)
        await _expire(store, key)
        await store.load(copy)
        assert ids(await store.read(key)) == ["a", "b"]

    async def test_a_session_can_be_given_longer(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"), expiry=Expiry(2 * self.ttl))
        later = datetime.now(UTC).replace(microsecond=123000) + HOUR
        info = await store.describe(key, expires_at=later)
        assert info is not None
        assert info.expires_at == later
        await pause(2 * self.ttl.total_seconds() + 0.05)
        assert ids(await store.read(key)) == ["a"]

    async def test_erased_while_it_had_a_life(self, store: Store, key: SessionKey) -> None:
        await store.append(key, entries("a"), expiry=Expiry(self.ttl))
        await store.delete(key)
        await self._outlive()
        with pytest.raises(ConflictError):  # the memory of an erasure outlives the session's own time
            await store.append(key, entries("b"), not_erased_since=0)
        await store.append(key, entries("b"))
        assert (await known(store, key)).expires_at is None
