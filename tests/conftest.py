"""The real servers of the tests: each started when a test first asks, and stopped with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from lc_history.postgres.pools import start_embedded
from lc_history.testing.servers import (
    KINDS,
    PgBouncerServer,
    PostgresServer,
    RedisCluster,
    RedisServer,
    Server,
    ServerUnavailableError,
    find,
)

AnyServer = TypeVar("AnyServer", bound=Server)
PACKAGES = ("langchain-core", "langgraph", "redis", "psycopg", "google-cloud-firestore", "boto3")

# How fast examples come says how busy the machine is, and nothing about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

used = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-servers", action="store_true", help="a server that cannot be had fails its tests")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[used] = {}


def pytest_report_header() -> list[str]:
    return [
        "packages: " + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        *(f"server {name}: {_origin(name)}" for name in KINDS),
    ]


def _origin(name: str) -> str:
    try:
        return find(name).source
    except ServerUnavailableError as error:
        return f"none, {error}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that sums up, where the tests are shared between several."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["servers used"] = session.config.stash[used]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[used].update(getattr(node, "workeroutput", {}).get("servers used", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[used]:
        terminalreporter.section("servers used")
    for name, told in sorted(config.stash[used].items()):
        terminalreporter.line(f"{name}: {told}")


class Servers:
    """Starts servers for as long as a fixture lives; without one, its tests skip, or fail if that was asked."""

    def __init__(self, config: pytest.Config) -> None:
        self._config, self._running = config, ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def start(self, make: Callable[[], AnyServer], *, name: str) -> AnyServer:
        try:
            server = self._running.enter_context(make())
        except ServerUnavailableError as error:
            if self._config.getoption("require_servers"):
                pytest.fail(f"no {name}: {error}", pytrace=False)
            pytest.skip(f"no {name}: {error}")
        self._config.stash[used].setdefault(name, f"{server.version} ({server.source})")
        return server

    def url(self, name: str) -> str:
        return self.start(lambda: find(name), name=name).url


@pytest.fixture
def embedded_path() -> Iterator[Path]:
    """Make a folder for an embedded PostgreSQL, whose user any other run of pytest locks out of pytest's own."""
    with TemporaryDirectory(prefix="lc-history-embedded-") as path:
        yield Path(path)
        for data in Path(path).glob("*/PG_VERSION"):
            start_embedded(data.parent).cleanup()


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Iterator[Servers]:
    with Servers(pytestconfig) as servers:
        yield servers


@pytest.fixture(scope="session")
def redis_url(servers: Servers) -> str:
    return servers.url("redis")


@pytest.fixture(scope="session")
def redis_cluster_url(servers: Servers) -> str:
    """Three masters and three replicas. A test that kills a node asks for `own_redis_cluster`."""
    return servers.url("redis_cluster")


@pytest.fixture(scope="session")
def postgres_url(servers: Servers) -> str:
    """PostgreSQL 18 with pgvector."""
    return servers.url("postgres")


@pytest.fixture(scope="session")
def postgres15_url(servers: Servers) -> str:
    return servers.url("postgres15")


@pytest.fixture(params=["postgres_url", "postgres15_url"], ids=["18", "15"])
def server_url(request: pytest.FixtureRequest) -> str:
    """PostgreSQL 18, and then 15, for what the version may matter to."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def schema() -> str:
    """Name a schema that no other test has seen."""
    return f"test_{uuid4().hex[:12]}"


@pytest.fixture
def saver(postgres_url: str, schema: str) -> Iterator[Any]:
    """Open a checkpointer on tables of its own."""
    from lc_history.agents import open_checkpointer

    with open_checkpointer(postgres_url, schema=schema) as saver:
        saver.setup()
        yield saver


@pytest.fixture(scope="session")
def pgbouncer_url(servers: Servers) -> str:
    """PostgreSQL 18 behind a pooler in transaction mode."""
    return servers.url("pgbouncer")


@pytest.fixture(scope="session")
def firestore_host(servers: Servers) -> str:
    return servers.url("firestore")


@pytest.fixture(scope="session")
def dynamodb_endpoint(servers: Servers) -> str:
    return servers.url("dynamodb")


@pytest.fixture
def own_servers(pytestconfig: pytest.Config) -> Iterator[Servers]:
    with Servers(pytestconfig) as servers:
        yield servers


@pytest.fixture
def own_redis(own_servers: Servers) -> Callable[..., RedisServer]:
    """Start a Redis for this test alone, to kill and restart: ``own_redis(durable=True)``."""
    return lambda **options: own_servers.start(lambda: RedisServer(**options), name="redis")


@pytest.fixture
def own_redis_cluster(own_servers: Servers) -> Callable[[], RedisCluster]:
    """Start a cluster for this test alone: ``cluster.owner_of(key).kill()``."""
    return lambda: own_servers.start(RedisCluster, name="redis_cluster")


@pytest.fixture
def own_postgres(own_servers: Servers) -> Callable[..., PostgresServer]:
    """Start a PostgreSQL for this test alone, to kill and restart: ``own_postgres(15)``."""
    return lambda major=18, **options: own_servers.start(lambda: PostgresServer(major, **options), name="postgres")


@pytest.fixture
def own_pgbouncer(own_servers: Servers) -> Callable[..., PgBouncerServer]:
    """Start a pooler and its PostgreSQL for this test alone, to kill and restart: ``own_pgbouncer(pool_size=1)``."""
    return lambda **options: own_servers.start(lambda: PgBouncerServer(**options), name="pgbouncer")
