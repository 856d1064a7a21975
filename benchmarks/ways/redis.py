"""The ways on Redis."""

from __future__ import annotations

import socket
from datetime import timedelta
from itertools import count
from urllib.parse import urlsplit
from uuid import uuid4

import hiredis
from langchain_community.chat_message_histories import RedisChatMessageHistory
from redis import Redis

from benchmarks.conversation import BODIES, FLOOR_BODIES, bare
from benchmarks.ways import AgentsPeer, LangChainPeer, LangChainPeerAsync, Ours, OursAsync, Way

DAY = 24 * 60 * 60


class Raw(Way):
    """redis-py, moving the bytes that we store and nothing else."""

    name, role, note = "redis-py, same bytes", "raw", "no ids, no numbers, no listing"

    def __init__(self, url: str) -> None:
        self._client = Redis.from_url(url)

    def append(self, session, messages):
        pipeline = self._client.pipeline(transaction=False)
        for body in BODIES:
            pipeline.rpush(f"raw:{session}", body)
        pipeline.execute()

    def fill(self, session, length):
        for begin in range(0, length, 1000):
            self._client.rpush(f"raw:{session}", *(BODIES * 500)[: min(1000, length - begin)])

    def read(self, session):
        return self._client.lrange(f"raw:{session}", 0, -1)

    def last(self, session):
        return self._client.lrange(f"raw:{session}", -20, -1)

    def close(self):
        self._client.close()


class RawRenewed(Raw):
    """The same, and the new end of the list's life."""

    def append(self, session, messages):
        pipeline = self._client.pipeline(transaction=False)
        for body in BODIES:
            pipeline.rpush(f"raw:{session}", body)
        pipeline.expire(f"raw:{session}", DAY)
        pipeline.execute()


class RawIndexed(Raw):
    """redis-py, moving the ids and the entries of both listings as well."""

    name, note = "redis-py, same bytes, ids and listings", "not atomic, doubles what is sent again"
    read = last = fill = None
    _numbers = count()

    def append(self, session, messages):
        pipeline = self._client.pipeline(transaction=False)
        number = next(self._numbers)
        ids = [uuid4().hex, uuid4().hex]
        pipeline.rpush(f"rawi:{session}", *(id_.encode() + body for id_, body in zip(ids, BODIES, strict=True)))
        pipeline.hset(f"rawi:{session}:ids", mapping=dict.fromkeys(ids, number))
        pipeline.zadd("rawi:user", {session: number})
        pipeline.zadd("rawi:all", {session: number})
        pipeline.execute()


class Floor(Way):
    """A socket, hiredis, a JSON parser, and objects filled by hand."""

    name, role, note = "floor: socket, orjson, bare objects", "floor", "checks nothing"

    def __init__(self, url: str) -> None:
        self._client, place = Redis.from_url(url), urlsplit(url)
        self._socket = socket.create_connection((place.hostname, place.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def fill(self, session, length):
        for begin in range(0, length, 1000):
            self._client.rpush(f"floor:{session}", *(FLOOR_BODIES * 500)[: min(1000, length - begin)])

    def _range(self, session, begin):
        name = f"floor:{session}".encode()
        self._socket.sendall(b"*4\r\n$6\r\nLRANGE\r\n$%d\r\n%s\r\n$%d\r\n%d\r\n$2\r\n-1\r\n" % (
            len(name), name, len(b"%d" % begin), begin,
        ))  # fmt: skip
        while (reply := self._reader.gets()) is False:
            self._reader.feed(self._socket.recv(1 << 17))
        return bare(reply)

    def read(self, session):
        return self._range(session, 0)

    def last(self, session):
        return self._range(session, -20)

    def close(self):
        self._client.close()
        self._socket.close()


def renewing(url: str) -> list[Way]:
    """Return ways that append with a ttl of a day, which langchain-community renews with each message, so ours too."""
    community = LangChainPeer(lambda session: RedisChatMessageHistory(session, url, ttl=DAY))
    community.name = "langchain-community"
    return [Ours(url, ttl=timedelta(seconds=DAY), sliding=True), community, RawRenewed(url)]


def blocking(url: str) -> list[Way]:
    community = LangChainPeer(lambda session: RedisChatMessageHistory(session, url))
    community.name = "langchain-community"
    community.note = (
        "one LPUSH for each message, and one EXPIRE where it has a ttl; a connection for each object; "
        "reads everything for the last 20"
    )
    return [Ours(url), community, Raw(url), RawIndexed(url), Floor(url)]


def waiting(url: str) -> list[Way]:
    from agents.extensions.memory.redis_session import RedisSession
    from redis.asyncio import Redis as AsyncRedis

    community = LangChainPeerAsync(lambda session: RedisChatMessageHistory(session, url))
    community.name, community.note = "langchain-community", "its async methods are the blocking ones in a thread"
    client = AsyncRedis.from_url(url)
    agents = AgentsPeer(lambda session: RedisSession(session, redis_client=client))
    agents.name = "openai-agents RedisSession"
    return [OursAsync(url), community, agents]
