"""The contract on a Redis Cluster of three masters with a replica each, and a master's death in mid-conversation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar, cast
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import ClusterDownError

from lc_history.bridge import drive
from lc_history.errors import StoreError, StoreUnavailableError
from lc_history.model import Entry, Expiry, SessionKey
from lc_history.stores.redis import RedisStore
from lc_history.stores.redis.layout import names_of
from lc_history.stores.tiered.copies import copied
from lc_history.testing import StoreContract, StoreOpener
from lc_history.testing.servers.redis import SLOTS, RedisCluster, RedisServer

T = TypeVar("T")


class TestRedisCluster(StoreContract):
    processes = 3
    turns = 3
    examples = 5  # a single server sees more

    @pytest.fixture
    def open_store(self, redis_cluster_url: str) -> StoreOpener:
        return partial(RedisStore.from_url, redis_cluster_url, key_prefix=f"t{uuid4().hex[:8]}")


@pytest.mark.parametrize("colour", ["blocking", "async"])
def test_a_master_dies_in_mid_conversation(own_redis_cluster: Callable[[], RedisCluster], colour: str) -> None:
    cluster, key = own_redis_cluster(), SessionKey("ann", "s1")
    store = RedisStore.from_url(cluster.url, key_prefix="t")
    with asyncio.Runner() as runner:
        door = drive if colour == "blocking" else runner.run
        for turn in range(12):
            if turn == 6:
                owner = cluster.owner_of(names_of("t", key).head)
                wait_for_replica(owner)
                owner.kill()
            insist(lambda turn=turn: door(store.append(key, [Entry(f"{turn} {who}", b"said") for who in "qa"])))
        records = insist(lambda: door(store.read(key))).records
        assert [record.id for record in records] == [f"{turn} {who}" for turn in range(12) for who in "qa"]
        assert [info.count for info in insist(lambda: door(store.sessions("ann"))).items] == [24]
        door(store.close())


def insist(call: Callable[[], T], *, despite: type[Exception] = StoreUnavailableError) -> T:
    """Do what an application does that was told to try again later: the ids make it harmless."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return call()
        except despite:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def wait_for_replica(owner: RedisServer) -> None:
    """Replication is asynchronous: a turn that the replica has not received would die with its master."""
    deadline = time.monotonic() + 20
    with Redis(port=owner.port) as client:
        while time.monotonic() < deadline:
            told = client.info("replication")
            if told["connected_slaves"] and told["slave0"]["offset"] == told["master_repl_offset"]:
                return
            time.sleep(0.02)
    pytest.fail("the replica has never caught up")


def test_a_cluster_behind_one_address(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis(options={"cluster-enabled": "yes"})
    with Redis.from_url(server.url) as client:
        client.execute_command("CLUSTER ADDSLOTS", *range(SLOTS))
        insist(lambda: client.get("served?"), despite=ClusterDownError)
    store = RedisStore.from_url(server.url)
    drive(store.append(SessionKey("ann", "s1"), [Entry("a", b"x")]))
    assert [info.count for info in drive(store.sessions("ann")).items] == [1]
    assert [info.count for info in drive(store.scan()).items] == [1]
    drive(store.close())


async def test_tasks_wait_for_connections(redis_cluster_url: str) -> None:
    store = RedisStore.from_url(redis_cluster_url, key_prefix=f"t{uuid4().hex[:8]}", max_connections=2)
    turns = await asyncio.gather(*(store.append(SessionKey("ann", "s1"), [Entry(str(n), b"")]) for n in range(40)))
    assert sorted(turn.seqs[0] for turn in turns) == list(range(1, 41))
    await store.close()


def test_replicas_cannot_be_waited_for(redis_cluster_url: str) -> None:
    with pytest.raises(ValueError, match="min-replicas-to-write"):
        RedisStore.from_url(redis_cluster_url, wait_replicas=1)


def test_one_node_of_several_says_that_it_is(redis_cluster_url: str) -> None:
    store = RedisStore.from_url(f"redis://{redis_cluster_url.partition('://')[2].partition(',')[0]}")
    with pytest.raises(StoreError, match=r"give redis\+cluster://"):
        [drive(store.append(SessionKey("ann", f"s{number}"), [Entry("a", b"x")])) for number in range(20)]
    drive(store.close())


class Held:
    """Stands for a process that is slow: what it has to say to the indexes waits until it is told to."""

    def __init__(self, store: RedisStore) -> None:
        self._indexes, self._waiting = store._indexes, list[Callable[[], Awaitable[None]]]()
        store._indexes = cast("Any", self)

    def __getattr__(self, name: str) -> Any:
        async def later(*args: Any) -> None:
            self._waiting.append(partial(getattr(self._indexes, name), *args))

        return later

    def say(self) -> None:
        for call in self._waiting:
            drive(call())


def test_what_is_told_late_does_not_undo_what_was_told_since(redis_cluster_url: str) -> None:
    prefix = f"t{uuid4().hex[:8]}"
    slow, quick = (RedisStore.from_url(redis_cluster_url, key_prefix=prefix) for _ in range(2))
    first, second, third, fourth = (SessionKey("ann", f"s{number}") for number in range(1, 5))
    soon, late = (Expiry(timedelta(seconds=seconds), sliding=True) for seconds in (1, 3600))
    for key in (second, third):
        drive(quick.append(key, [Entry("a", b"x")], expiry=soon))
    held = Held(slow)
    drive(slow.append(first, [Entry("a", b"x")], expiry=soon))
    drive(slow.append(second, [Entry("b", b"x")], expiry=soon))
    drive(slow.delete(third))
    drive(quick.append(third, [Entry("c", b"x")]))
    drive(quick.append(first, [Entry("c", b"x")], expiry=late))
    drive(quick.describe(second, expires_at=datetime.now(UTC) + late.ttl))
    held.say()
    time.sleep(1.1)
    drive(quick.append(fourth, [Entry("a", b"x")], expiry=late))  # which sheds what has expired
    assert [info.key for info in drive(quick.sessions("ann")).items] == [fourth, first, third, second]
    assert [info.key for info in drive(quick.scan()).items] == [second, third, first, fourth]
    for store in (slow, quick):
        drive(store.close())


def test_a_session_that_is_replaced_is_listed_by_its_own_time(redis_cluster_url: str) -> None:
    store = RedisStore.from_url(redis_cluster_url, key_prefix=f"t{uuid4().hex[:8]}")
    keys = [SessionKey("ann", f"s{number}") for number in range(3)]
    for key in keys:
        drive(store.append(key, [Entry("a", b"x")]))
    copy = drive(copied(store, keys[2]))
    assert copy is not None
    older = replace(copy, info=replace(copy.info, updated_at=copy.info.updated_at - timedelta(hours=1)))
    drive(store.load(older, over_version=copy.info.version))
    assert [info.key for info in drive(store.sessions("ann")).items] == [keys[1], keys[0], keys[2]]
    drive(store.close())
