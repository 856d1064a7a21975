"""The contract on a Redis Cluster of three masters with a replica each, and a master's death in mid-conversation."""

from __future__ import annotations

from functools import partial
from uuid import uuid4

import pytest

from lc_history.stores.redis import RedisStore
from lc_history.testing import StoreContract, StoreOpener


class TestRedisCluster(StoreContract):
    processes = 3
    turns = 3

    @pytest.fixture
    def open_store(self, redis_cluster_url: str) -> StoreOpener:
        return partial(RedisStore.from_url, redis_cluster_url, key_prefix=f"t{uuid4().hex[:8]}")
