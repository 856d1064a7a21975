"""Real servers for tests: one that the environment names, else a program of this machine, else an embedded wheel.

    with find("redis") as server:
        print(server.url, server.version)

They end with the run that started them, also when it is killed. Only what `find` returns for a server that the
environment names belongs to somebody else: it is neither started nor stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lc_history.testing.servers.emulators import DynamoDBServer, FirestoreServer, dynamodb_version, firestore_version
from lc_history.testing.servers.pgbouncer import PgBouncerServer, pgbouncer_version
from lc_history.testing.servers.postgres import PostgresServer, postgres_version
from lc_history.testing.servers.process import GivenServer, LocalServer, Server, ServerUnavailableError
from lc_history.testing.servers.redis import RedisCluster, RedisServer, redis_version

__all__ = [
    "KINDS",
    "DynamoDBServer",
    "FirestoreServer",
    "GivenServer",
    "Kind",
    "LocalServer",
    "PgBouncerServer",
    "PostgresServer",
    "RedisCluster",
    "RedisServer",
    "Server",
    "ServerUnavailableError",
    "find",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of server: the variable that names one, how to make one here, how to ask its version."""

    variable: str
    make: Callable[[], Server]
    ask_version: Callable[[str], str]


KINDS = {
    "redis": Kind("LC_HISTORY_TEST_REDIS_URL", RedisServer, redis_version),
    "redis_cluster": Kind("LC_HISTORY_TEST_REDIS_CLUSTER_URL", RedisCluster, redis_version),
    "postgres": Kind("LC_HISTORY_TEST_POSTGRES_URL", PostgresServer, postgres_version),
    "postgres15": Kind("LC_HISTORY_TEST_POSTGRES15_URL", partial(PostgresServer, 15), postgres_version),
    "pgbouncer": Kind("LC_HISTORY_TEST_PGBOUNCER_URL", PgBouncerServer, pgbouncer_version),
    "firestore": Kind("FIRESTORE_EMULATOR_HOST", FirestoreServer, firestore_version),
    "dynamodb": Kind("LC_HISTORY_TEST_DYNAMODB_ENDPOINT", DynamoDBServer, dynamodb_version),
}


def find(name: str) -> Server:
    """Return a server of `KINDS`, not yet started; `ServerUnavailableError` says why there is none."""
    kind = KINDS[name]
    given = os.environ.get(kind.variable)
    if given:
        return GivenServer(given, source=f"${kind.variable}", ask_version=kind.ask_version)
    return kind.make()
