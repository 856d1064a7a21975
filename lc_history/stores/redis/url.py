"""The clients of a Redis URL: one with a waiting pool for each colour, made when first needed.

    redis://user:password@host:6379/0      rediss:// for TLS      unix:///run/redis.sock?db=0
    redis+sentinel://user:password@host:26379,host2:26379/service/0      rediss+sentinel://
    redis+cluster://user:password@host:6379,host2:6379                   rediss+cluster://

What stands after ``?`` goes to redis-py: ``socket_timeout=2``, ``ssl_ca_certs=...``, ``max_connections=100``;
``sentinel_username`` and ``sentinel_password`` to the Sentinels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from lc_history.errors import extra

WAIT_SECONDS: Final = 20
"""How long a call waits for a connection of the pool before it gives up."""

_EXAMPLES: Final = {
    "redis": "redis://localhost:6379/0",
    "rediss": "rediss://localhost:6379/0",
    "unix": "unix:///run/redis.sock?db=0",
    "redis+sentinel": "redis+sentinel://host:26379,host2:26379/mymaster/0",
    "rediss+sentinel": "rediss+sentinel://host:26379,host2:26379/mymaster/0",
    "redis+cluster": "redis+cluster://host:6379,host2:6379",
    "rediss+cluster": "rediss+cluster://host:6379,host2:6379",
}
_FIRST_TRIES: Final = 3
_CLUSTER_TRIES: Final = 10  # some five seconds: a replica takes over within the cluster's node timeout and a little


class Source(NamedTuple):
    """What makes the clients of a URL, and how large their pools are."""

    blocking: Callable[[], Any]
    waiting: Callable[[], Any]
    max_connections: int


def source_of(url: str, *, max_connections: int) -> Source:
    """Return what makes the clients of a URL, without connecting; `ValueError` where it is not one of Redis."""
    with extra("redis"):
        from redis.connection import ConnectionPool, parse_url
    parts = urlsplit(url)
    if parts.scheme not in _EXAMPLES or not address_of(url):
        what = f"{parts.scheme}:// names no host" if parts.scheme in _EXAMPLES else f"{parts.scheme}:// is not of Redis"
        known = _EXAMPLES.get(parts.scheme) or ", ".join(_EXAMPLES.values())
        message = f"{what}; an address looks like {known}"
        raise ValueError(message)
    plain, others = (url, {}) if parts.scheme == "unix" else _plain(parts)
    database = urlsplit(plain).path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():  # redis-py would take number 0
        message = f"the address of Redis at {address_of(url)} names the database {database!r}, which must be a number"
        raise ValueError(message)
    try:
        ConnectionPool.from_url(plain).make_connection()
    except TypeError as error:
        message = f"the address of Redis at {address_of(url)} has an option that is not known: {error}"
        raise ValueError(message) from error
    options: dict[str, Any] = {
        "socket_timeout": 10.0,
        "socket_connect_timeout": 5.0,
        "max_connections": max_connections,
    }
    options |= {"timeout": WAIT_SECONDS, "max_connections": max_connections, **parse_url(plain)}
    options.pop("connection_class", None)
    make = {"": _single, "sentinel": _sentinel, "cluster": _cluster}[parts.scheme.partition("+")[2]]
    return Source(*make(plain, options, others), max_connections=options["max_connections"])


def address_of(url: str) -> str:
    """Return the hosts and ports of a URL, or its path, without user and password."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or parts.path


def _plain(parts: SplitResult) -> tuple[str, dict[str, Any]]:
    """Return the URL that redis-py knows, of the first host, and what it does not know."""
    user, at, hosts = parts.netloc.rpartition("@")
    scheme, _, kind = parts.scheme.partition("+")
    default = 26379 if kind == "sentinel" else 6379
    others: dict[str, Any] = {"nodes": [_node(host, default) for host in hosts.split(",")]}
    path, query = parts.path, parse_qsl(parts.query)
    if kind == "sentinel":
        others["service"], _, path = path.strip("/").partition("/")
        others["login"] = {name[9:]: value for name, value in query if name.startswith("sentinel_")}
        query = [(name, value) for name, value in query if not name.startswith("sentinel_")]
        if not others["service"]:
            message = f"the address of the Sentinels at {hosts} names no service: {_EXAMPLES[parts.scheme]}"
            raise ValueError(message)
    host, port = others["nodes"][0]
    netloc = f"{user}{at}{f'[{host}]' if ':' in host else host}:{port}"
    return SplitResult(scheme, netloc, f"/{path.strip('/')}", urlencode(query), "").geturl(), others


def _node(host: str, default: int) -> tuple[str, int]:
    node = urlsplit(f"//{host}")
    return node.hostname or "localhost", node.port or default


def _single(plain: str, options: dict[str, Any], _: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import redis
    import redis.asyncio as waiting_redis
    import redis.asyncio.retry as waiting_retry

    def blocking() -> Any:
        pool = redis.BlockingConnectionPool.from_url(plain, **options, retry=_retry(redis.retry.Retry))
        return redis.Redis.from_pool(pool)

    def waiting() -> Any:
        pool = waiting_redis.BlockingConnectionPool.from_url(plain, **options, retry=_retry(waiting_retry.Retry))
        return waiting_redis.Redis.from_pool(pool)

    return blocking, waiting


def _sentinel(
    plain: str, options: dict[str, Any], others: dict[str, Any]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import redis
    import redis.asyncio as waiting_redis
    import redis.asyncio.retry as waiting_retry
    import redis.asyncio.sentinel as waiting_sentinel
    import redis.sentinel as blocking_sentinel

    class Pool(blocking_sentinel.SentinelConnectionPool, redis.BlockingConnectionPool):
        """Finds the primary, and waits for a connection."""

    class WaitingPool(waiting_sentinel.SentinelConnectionPool, waiting_redis.BlockingConnectionPool):
        """The same for the async door."""

    service, ssl = others["service"], plain.startswith("rediss:")
    login = {name: value for name, value in options.items() if name.startswith("socket_")} | others["login"]
    options = {name: value for name, value in options.items() if name not in ("host", "port")} | {"ssl": ssl}

    def blocking() -> Any:
        sentinel = blocking_sentinel.Sentinel(
            others["nodes"], sentinel_kwargs=login | {"retry": _retry(redis.retry.Retry, 0)}
        )
        retry = _retry(redis.retry.Retry)
        return sentinel.master_for(service, connection_pool_class=Pool, **options, retry=retry)

    def waiting() -> Any:
        sentinel = waiting_sentinel.Sentinel(
            others["nodes"], sentinel_kwargs=login | {"retry": _retry(waiting_retry.Retry, 0)}
        )
        retry = _retry(waiting_retry.Retry)
        return sentinel.master_for(service, connection_pool_class=WaitingPool, **options, retry=retry)

    return blocking, waiting


def _cluster(
    plain: str, options: dict[str, Any], others: dict[str, Any]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    import redis.asyncio.cluster as waiting_cluster
    import redis.asyncio.retry as waiting_retry
    from redis import BlockingConnectionPool, RedisCluster
    from redis.cluster import ClusterNode
    from redis.retry import Retry

    def blocking() -> Any:
        nodes = [ClusterNode(*node) for node in others["nodes"][1:]]
        retry = _retry(Retry, _CLUSTER_TRIES)
        pool: Any = {"connection_pool_class": BlockingConnectionPool}
        return RedisCluster(url=plain, startup_nodes=nodes, retry=retry, **pool, **options)

    def waiting() -> Any:
        nodes = [waiting_cluster.ClusterNode(*node) for node in others["nodes"][1:]]
        retry = _retry(waiting_retry.Retry, _CLUSTER_TRIES)
        mine = {name: value for name, value in options.items() if name != "timeout"}
        return waiting_cluster.RedisCluster.from_url(plain, startup_nodes=nodes, retry=retry, **mine)

    return blocking, waiting


def _retry(kind: type, tries: int = _FIRST_TRIES) -> Any:
    from redis.backoff import ExponentialWithJitterBackoff

    return kind(ExponentialWithJitterBackoff(base=0.05, cap=1), tries)
