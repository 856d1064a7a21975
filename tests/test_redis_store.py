"""The contract on Redis, and what only Redis can get wrong."""

from __future__ import annotations

from functools import partial
from uuid import uuid4

import pytest
from redis import Redis

from lc_history.model import MESSAGES, Lane, SessionKey
from lc_history.stores.redis import RedisStore
from lc_history.stores.redis_layout import names_of
from lc_history.testing import SideDoor, StoreContract, StoreOpener


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
