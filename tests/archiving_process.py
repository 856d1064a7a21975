"""What runs in a process that archives until it is killed; apart from the tests, so that it begins at once."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from multiprocessing import get_context

from lc_history.bridge import drive
from lc_history.stores.postgres import PostgresStore
from lc_history.stores.redis import RedisStore
from lc_history.stores.tiered import Archiver, TieredStore

IDLE = timedelta(milliseconds=10)
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "psycopg_pool", "redis.asyncio"])


def open_tiered(redis_url, postgres_url, name):
    hot = RedisStore.from_url(redis_url, key_prefix=name)
    return TieredStore(hot=hot, cold=PostgresStore.from_url(postgres_url, schema=name, pool_size=8))


def archive_until_killed(open_store, told):
    tell = partial(told.send_bytes, b".")
    for _ in Archiver(open_store(), idle=IDLE, progress=lambda report: tell()).run_every(timedelta(0)):
        tell()


def held_up_before_the_hot_store_deletes(open_store, key, work, pipe):
    """Move or erase a session, but tell when its hot copy is to be deleted, and wait there for a word."""
    store = open_store()
    delete = store.hot.delete

    async def held_up(which, **options):
        if which == key:
            pipe.send_bytes(b"there")
            pipe.recv_bytes()
        return await delete(which, **options)

    store.hot.delete = held_up
    if work == "move":
        Archiver(store, idle=timedelta(0)).run_once()
    else:
        drive(store.delete(key))
    pipe.send_bytes(b"done")
