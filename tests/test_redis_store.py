"""The contract on Redis, and what only Redis can get wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from redis import Redis
from redis.asyncio import BlockingConnectionPool as AsyncPool
from redis.asyncio import Redis as AsyncRedis

from lc_history.bridge import drive
from lc_history.errors import ColourError, StoreError, StoreUnavailableError
from lc_history.model import (
    LANES,
    MESSAGES,
    Entry,
    Expiry,
    Lane,
    Record,
    SessionCopy,
    SessionInfo,
    SessionKey,
    Slice,
)
from lc_history.stores.redis import RedisStore
from lc_history.stores.redis.layout import names_of
from lc_history.testing import SideDoor, StoreContract, StoreOpener
from lc_history.testing.proxy import Proxy
from lc_history.testing.servers.redis import RedisServer

LIFE = Expiry(timedelta(milliseconds=300))


class TestRedisStore(StoreContract):
    @pytest.fixture
    def prefix(self) -> str:
        return f"t{uuid4().hex[:8]}"

    @pytest.fixture
    def open_store(self, redis_url: str, prefix: str) -> StoreOpener:
        return partial(RedisStore.from_url, redis_url, key_prefix=prefix)

    @pytest.fixture
    def side_door(self, redis_url: str, prefix: str) -> SideDoor:
        return RedisSideDoor(redis_url, prefix)


class RedisSideDoor:
    """Looks at the keys by redis-py alone."""

    def __init__(self, url: str, prefix: str) -> None:
        self._client, self._prefix = Redis.from_url(url), prefix

    def raw_records(self, key: SessionKey) -> list[bytes]:
        names = names_of(self._prefix, key)
        found = [part for pair in self._client.hgetall(names.head).items() for part in pair]
        return found + [element for name in names.lists for element in self._client.lrange(name, 0, -1)]

    def corrupt(self, key: SessionKey, seq: int, *, lane: Lane = MESSAGES) -> None:
        head, name = f"{self._prefix}:{{{key.user_id}:{key.session_id}}}", f":{lane}"
        place = seq - 1
        element = self._client.lindex(head + name, place)
        self._client.lset(head + name, place, element[:-1] + bytes([element[-1] ^ 1]))


@pytest.fixture
def key() -> SessionKey:
    return SessionKey("ann", uuid4().hex)


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with Proxy(urlsplit(redis_url).port or 6379) as proxy:
        yield proxy


@pytest.fixture
def opened() -> Iterator[Callable[..., RedisStore]]:
    with ExitStack() as stack:

        def open_store(url: str, **options: Any) -> RedisStore:
            store = RedisStore.from_url(url, **options)
            stack.callback(lambda: drive(store.close()))
            return store

        yield open_store


def entries(*names: str) -> list[Entry]:
    return [Entry(name, f"said {name}".encode()) for name in names]


def ids(store: RedisStore, key: SessionKey) -> list[str]:
    return [record.id for record in drive(store.read(key)).records]


def test_one_round_trip_each(proxy: Proxy, opened: Callable[..., RedisStore], key: SessionKey) -> None:
    store = opened(f"redis://127.0.0.1:{proxy.port}/0")
    drive(store.append(key, entries("a", "b")))
    drive(store.read(key, after=1))
    drive(store.sessions("ann"))
    for verb in (
        lambda: store.append(key, entries("c", "d"), expiry=Expiry(timedelta(hours=1), sliding=True)),
        lambda: store.append(key, entries("c", "d")),
        lambda: store.read(key),
        lambda: store.read(key, last=1),
        lambda: store.read(key, after=2, before=4),
        lambda: store.describe(key),
    ):
        before = proxy.round_trips
        drive(verb())
        assert proxy.round_trips - before == 1
    before = proxy.round_trips
    assert drive(store.sessions("ann")).items
    assert proxy.round_trips - before == 2
    assert proxy.connections == 1


def test_a_lost_reply_doubles_nothing(proxy: Proxy, opened: Callable[..., RedisStore], key: SessionKey) -> None:
    store = opened(f"redis://127.0.0.1:{proxy.port}/0")
    drive(store.append(key, entries("a")))
    proxy.swallow_next_reply()
    # The driver sends it again by itself: the server has it already, and says so.
    assert drive(store.append(key, entries("b", "c"))).new == (False, False)
    assert ids(store, key) == ["a", "b", "c"]


async def test_a_lost_reply_doubles_nothing_async(proxy: Proxy, key: SessionKey) -> None:
    store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}/0")
    await store.append(key, entries("a"))
    proxy.swallow_next_reply()
    assert (await store.append(key, entries("b", "c"))).seqs == (2, 3)
    assert [record.id for record in (await store.read(key)).records] == ["a", "b", "c"]
    await store.close()


def test_forgotten_scripts_are_sent_again(own_redis: Callable[..., RedisServer], key: SessionKey) -> None:
    server = own_redis()
    store = RedisStore.from_url(server.url)
    with Redis.from_url(server.url) as client:
        for turn in range(3):
            drive(store.append(key, entries(str(turn))))
            client.script_flush()
            assert [info.count for info in drive(store.sessions("ann")).items] == [turn + 1]
            client.script_flush()
    assert ids(store, key) == ["0", "1", "2"]
    drive(store.close())


def test_acknowledged_turns_outlive_the_server(own_redis: Callable[..., RedisServer], key: SessionKey) -> None:
    server = own_redis(durable=True)
    store = RedisStore.from_url(server.url)
    for turn in range(3):
        drive(store.append(key, entries(f"{turn} asked", f"{turn} answered")))
        server.kill()
        server.start()
        assert len(ids(store, key)) == 2 * (turn + 1)
    drive(store.close())


def test_one_pool_for_a_url(redis_url: str) -> None:
    first, second = RedisStore.from_url(redis_url), RedisStore.from_url(redis_url, key_prefix="other")
    assert first._connections is second._connections
    drive(first.describe(SessionKey("ann", "s1")))
    client = first._connections.clients
    drive(first.close())
    assert drive(second.describe(SessionKey("ann", "s1"))) is None
    assert second._connections.clients is client
    drive(second.close())


def test_the_pool_makes_callers_wait(proxy: Proxy, opened: Callable[..., RedisStore], key: SessionKey) -> None:
    store = opened(f"redis://127.0.0.1:{proxy.port}/0", max_connections=2)
    with ThreadPoolExecutor(16) as threads:
        turns = [threads.submit(lambda n=n: drive(store.append(key, entries(str(n))))) for n in range(64)]
        assert sorted(turn.result().seqs[0] for turn in turns) == list(range(1, 65))
    assert proxy.connections == 2


async def test_the_pool_makes_tasks_wait(proxy: Proxy, key: SessionKey) -> None:
    store = RedisStore.from_url(f"redis://127.0.0.1:{proxy.port}/0", max_connections=2)
    turns = await asyncio.gather(*(store.append(key, entries(str(n))) for n in range(64)))
    assert sorted(turn.seqs[0] for turn in turns) == list(range(1, 65))
    assert proxy.connections == 2
    await store.close()


@pytest.mark.parametrize("decode", [False, True])
async def test_ready_clients(redis_url: str, key: SessionKey, *, decode: bool) -> None:
    with Redis.from_url(redis_url, decode_responses=decode) as client:
        async with AsyncRedis.from_url(redis_url, decode_responses=decode) as async_client:
            for store in (RedisStore(client, async_client), RedisStore(async_client, client)):
                drive(store.append(key, [Entry("a", b"\xff\x00")]))
                assert (await store.read(key, after=0)).records[0].body == b"\xff\x00"
                assert (await store.sessions("ann")).items
                await store.close()
                drive(store.close())
            connections = client.connection_pool._available_connections
            assert connections, "a closed client would have none"
            assert all(connection._sock for connection in connections)
            assert await async_client.ping()


def test_wrong_clients(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        for wrong in ((), (client, client), (object(),)):
            with pytest.raises(TypeError):
                RedisStore(*wrong)
        with pytest.raises(ColourError):
            asyncio.run(RedisStore(client).read(SessionKey("ann", "s1")))


def test_a_unix_socket(own_redis: Callable[..., RedisServer], key: SessionKey) -> None:
    path = f"/tmp/{uuid4().hex}.sock"  # tmp_path may be longer than a socket's name
    own_redis(options={"unixsocket": path})
    store = RedisStore.from_url(f"unix://{path}?db=1")
    drive(store.append(key, entries("a")))
    assert ids(store, key) == ["a"]
    drive(store.close())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://127.0.0.1:1/0", "127.0.0.1:1 cannot be reached"),
        ("redis://ann:secret@no-such-host.invalid:6379", "no-such-host.invalid:6379 cannot be reached"),
        ("redis+sentinel://:secret@127.0.0.1:1/mymaster", "127.0.0.1:1 cannot be reached"),
        ("redis+cluster://:secret@127.0.0.1:1", "127.0.0.1:1 cannot be reached"),
    ],
)
async def test_nobody_there(url: str, said: str, key: SessionKey) -> None:
    store = RedisStore.from_url(url)
    for refused in (lambda: drive(store.read(key)), None):
        with pytest.raises(StoreUnavailableError) as told:
            refused() if refused else await store.read(key)
        assert said in str(told.value)
        assert "secret" not in str(told.value)
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://x",
        "redis://",
        "redis+sentinel://h:1",
        "redis://h/0?wrong=1",
        "redis://h:port",
        "redis://h/abc",
        "unix://",
    ],
)
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ValueError, match=r".{20}"):
        RedisStore.from_url(url)


def test_what_the_server_refuses_is_said(own_redis: Callable[..., RedisServer], key: SessionKey) -> None:
    server = own_redis()
    store = RedisStore.from_url(server.url, max_connections=3)
    with Redis.from_url(server.url) as client:
        for setting, undone, error, said in (
            ({"maxmemory": "1mb"}, {"maxmemory": "0"}, StoreUnavailableError, "out of memory"),
            ({"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}, StoreUnavailableError, "too few replicas"),
        ):
            client.config_set(*next(iter(setting.items())))
            with pytest.raises(error, match=said):
                drive(store.append(key, entries("a")))
            client.config_set(*next(iter(undone.items())))
        client.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreUnavailableError, match="is a replica"):
            drive(store.append(key, entries("a")))
        client.replicaof("no", "one")
        client.set(names_of("lch", key).head, "somebody else's")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            drive(store.read(key))
        client.delete(names_of("lch", key).head)
        client.config_set("requirepass", "secret")
    drive(store.close())
    with pytest.raises(StoreError, match="refuses the user"):
        drive(store.append(key, entries("a")))
    drive(store.close())


def test_an_evicted_head_takes_no_record_with_it_and_no_number_is_given_twice(redis_url: str, key: SessionKey) -> None:
    store = RedisStore.from_url(redis_url)
    drive(store.append(key, entries("a", "b")))
    drive(store.append(key, entries("s"), lane="summaries"))
    with Redis.from_url(redis_url) as client:
        client.delete(names_of("lch", key).head)
    assert drive(store.append(key, entries("c"))).seqs == (3,)
    assert drive(store.append(key, entries("t"), lane="summaries")).seqs == (2,)
    assert ids(store, key) == ["a", "b", "c"]
    assert [record.seq for record in drive(store.read(key, after=1)).records] == [2, 3]


@pytest.mark.parametrize("evicted_after", ["a long life", "a short life"])
def test_what_an_evicted_head_has_left_ends_with_the_session_that_goes_on(
    redis_url: str, key: SessionKey, evicted_after: str
) -> None:
    store, short, long = RedisStore.from_url(redis_url), Expiry(timedelta(seconds=1)), Expiry(timedelta(hours=1))
    first, then = (long, short) if evicted_after == "a long life" else (short, long)
    for lane in LANES:
        drive(store.append(key, entries("a"), lane=lane, expiry=first))
    with Redis.from_url(redis_url) as client:
        client.delete(names_of("lch", key).head)
        drive(store.append(key, entries("b"), expiry=then))
        ends = {client.pexpiretime(name) for name in (names_of("lch", key).head, *names_of("lch", key).lists)}
    assert len(ends) == 1
    assert {lane: drive(store.read(key, lane=lane)).last_seq for lane in LANES[1:]} == dict.fromkeys(LANES[1:], 1)


def test_what_an_evicted_head_has_left_lives_for_ever_with_a_session_that_does(redis_url: str, key: SessionKey) -> None:
    store = RedisStore.from_url(redis_url)
    for lane in LANES:
        drive(store.append(key, entries("a"), lane=lane, expiry=Expiry(timedelta(hours=1))))
    with Redis.from_url(redis_url) as client:
        client.delete(names_of("lch", key).head)
        drive(store.append(key, entries("b")))
        assert {client.pttl(name) for name in names_of("lch", key).lists} == {-1}


def test_an_id_is_not_known_whose_record_could_not_be_written(redis_url: str, key: SessionKey) -> None:
    store, messages = RedisStore.from_url(redis_url), names_of("lch", key).lists[0]
    with Redis.from_url(redis_url) as client:
        client.set(messages, "somebody else's")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            drive(store.append(key, entries("a")))
        client.delete(messages)
    assert drive(store.append(key, entries("a"))).new == (True,)
    assert ids(store, key) == ["a"]


def test_nothing_is_left_behind(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis()
    store = RedisStore.from_url(server.url)
    for session in range(40):
        for lane in LANES:
            drive(store.append(SessionKey("ann", str(session)), entries("a"), lane=lane, expiry=LIFE))
    drive(store.delete(SessionKey("ann", "0")))
    with Redis.from_url(server.url) as client:
        tombstone = names_of("lch", SessionKey("ann", "0")).head
        assert client.pttl(tombstone) > 0
        deadline = time.monotonic() + 5
        while (left := set(client.keys()) - {tombstone.encode()}) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left
    drive(store.close())


def test_an_index_sheds_what_expired_and_keeps_what_does_not(redis_url: str) -> None:
    store = RedisStore.from_url(redis_url, key_prefix=f"t{uuid4().hex[:8]}")
    user = uuid4().hex
    drive(store.append(SessionKey(user, "stays"), entries("a")))
    drive(store.append(SessionKey(user, "goes"), entries("a"), expiry=LIFE))
    time.sleep(LIFE.ttl.total_seconds() + 0.05)
    drive(store.append(SessionKey(user, "later"), entries("a"), expiry=Expiry(timedelta(hours=1))))
    with Redis.from_url(redis_url) as client:
        index = names_of(store._prefix, SessionKey(user, "stays")).user_index[0]
        assert client.zcard(index) == 2
        assert client.pttl(index) == -1
    assert [info.key.session_id for info in drive(store.sessions(user)).items] == ["later", "stays"]
    drive(store.close())


def test_a_listing_that_leads_nowhere_is_removed_when_it_is_old(redis_url: str) -> None:
    store = RedisStore.from_url(redis_url)
    with Redis.from_url(redis_url) as client:
        for age, left in ((3600, 0), (1, 1)):
            key = SessionKey(uuid4().hex, "evicted")
            drive(store.append(key, entries("a")))
            names = names_of("lch", key)
            client.delete(names.head, *names.lists)
            client.zadd(names.user_index[0], {names.member: int(time.time() - age) * 1_000_000})
            assert drive(store.sessions(key.user_id)).items == []
            assert client.zcard(names.user_index[0]) == left
    drive(store.close())


def test_sessions_of_one_moment_are_all_listed(redis_url: str) -> None:
    store = RedisStore.from_url(redis_url, key_prefix=f"t{uuid4().hex[:8]}")
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    names = [*"abcXYZ", "a b", "é", "~", "_", "ab", "A"]
    for name in names:
        info = SessionInfo(
            SessionKey("ann", name), 0, 0, moment, moment, None, archived=False, description=b"", version=1
        )
        drive(store.load(SessionCopy(info, {lane: Slice() for lane in LANES})))
    for listing in (partial(store.sessions, "ann"), store.scan):
        seen: list[str] = []
        cursor = None
        while True:
            page = drive(listing(limit=3, cursor=cursor))
            seen += [info.key.session_id for info in page.items]
            if (cursor := page.cursor) is None:
                break
        assert sorted(seen) == sorted(names)
    drive(store.close())


def test_numbers_with_gaps_are_read_as_they_are(redis_url: str) -> None:
    store = RedisStore.from_url(redis_url, key_prefix=f"t{uuid4().hex[:8]}")
    key, now = SessionKey("ann", "gaps"), datetime.now(UTC)
    seqs = [2, 3, 7, 11, 12, 40]
    info = SessionInfo(key, 50, len(seqs), now, now, None, archived=False, description=b"", version=1)
    records = [Record(seq, str(seq), b"x", now) for seq in seqs]
    lanes = {lane: Slice() for lane in LANES} | {MESSAGES: Slice(records, 50)}
    drive(store.load(SessionCopy(info, lanes)))
    drive(store.append(key, entries("new")))
    seqs.append(51)
    for after in range(53):
        for before in (None, 3, 8, 12, 51, 60):
            found = [record.seq for record in drive(store.read(key, after=after, before=before)).records]
            assert found == [seq for seq in seqs if after < seq < (before or 100)]
    assert drive(store.replace(key, 11, b"y", expected=b"x"))
    assert not drive(store.replace(key, 8, b"y", expected=b"x"))
    assert drive(store.delete(key, through=11)) == 4
    assert [record.seq for record in drive(store.read(key)).records] == [12, 40, 51]
    drive(store.close())


@pytest.mark.parametrize("parser", ["hiredis", "python"])
async def test_a_long_read_does_not_stall_the_loop(redis_url: str, key: SessionKey, parser: str) -> None:
    from redis._parsers import _AsyncHiredisParser, _AsyncRESP2Parser

    kind = _AsyncHiredisParser if parser == "hiredis" else _AsyncRESP2Parser
    async with AsyncRedis.from_pool(AsyncPool.from_url(redis_url, parser_class=kind, protocol=2)) as client:
        store = RedisStore(client)
        await store.append(key, [Entry(str(n), b"x" * 1024) for n in range(2000)])
        stalls = []
        for _ in range(3):
            reading = asyncio.ensure_future(store.read(key))
            longest, last = 0.0, time.perf_counter()
            while not reading.done():
                await asyncio.sleep(0)
                longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
            assert len(reading.result().records) == 2000
            stalls.append(longest)
        assert min(stalls) < 0.05
