"""A primary with a replica and a Sentinel: the store follows a failover, and can wait for the replica."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from redis.sentinel import Sentinel
from typing_extensions import override

from lc_history.bridge import drive
from lc_history.errors import StoreUnavailableError
from lc_history.model import Entry, SessionKey
from lc_history.stores.redis import RedisStore
from lc_history.stores.redis import connections as redis_connections
from lc_history.testing.servers.redis import RedisServer
from tests.conftest import Servers


class SentinelServer(RedisServer):
    """Watches one primary, and replaces it after half a second of silence."""

    def __init__(self, primary: RedisServer) -> None:
        super().__init__()
        self._primary = primary

    @override
    def command(self) -> list[str]:
        config = Path(self.directory) / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor main 127.0.0.1 {self._primary.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )
        return [self.source, str(config), "--sentinel"]


Trio = tuple[RedisServer, RedisServer, SentinelServer]


@pytest.fixture
def trio(own_servers: Servers) -> Trio:
    primary = own_servers.start(lambda: RedisServer(options={"repl-diskless-sync-delay": "0"}), name="redis")
    options = {"replicaof": f"127.0.0.1 {primary.port}"}
    replica = own_servers.start(lambda: RedisServer(options=options), name="redis")
    sentinel = own_servers.start(lambda: SentinelServer(primary), name="redis sentinel")
    with Redis.from_url(primary.url) as client:
        wait(lambda: client.info("replication").get("slave0", {}).get("state") == "online")
    watch = Sentinel([("127.0.0.1", sentinel.port)])
    wait(lambda: watch.discover_slaves("main"))
    watch.sentinels[0].close()
    return primary, replica, sentinel


@pytest.mark.parametrize("colour", ["blocking", "async"])
def test_a_primary_dies_in_mid_conversation(trio: Trio, colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    primary, _, sentinel = trio
    store = RedisStore.from_url(f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0", wait_replicas=1)
    key = SessionKey("ann", "s1")
    with asyncio.Runner() as runner:
        door = drive if colour == "blocking" else runner.run
        for turn in range(4):
            door(store.append(key, [Entry(f"before {turn}", b"")]))
        primary.kill()
        on = RedisStore.from_url(f"redis+sentinel://127.0.0.1:{sentinel.port}/main/0")
        wait(lambda: said(lambda: door(on.append(key, [Entry("after", b"")]))))
        # Every acknowledged turn is on the replica, because the store had waited for it.
        found = [record.id for record in door(on.read(key)).records]
        assert found == [*(f"before {turn}" for turn in range(4)), "after"]
        monkeypatch.setattr(redis_connections, "WAIT_MILLISECONDS", 100)
        with pytest.raises(StoreUnavailableError, match="0 of 1 replicas"):
            door(store.append(key, [Entry("nobody copies", b"")]))
        assert door(on.append(key, [Entry("nobody copies", b"")])).new == (False,)
        door(store.close())
        door(on.close())


def said(call: Callable[[], object]) -> bool:
    try:
        call()
    except StoreUnavailableError:
        return False
    return True


def wait(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)
