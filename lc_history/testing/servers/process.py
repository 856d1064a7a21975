"""One server process: in a group, a directory and on a port of its own; it dies with the run that started it."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import ClassVar, Final, Self

from typing_extensions import override

from lc_history.errors import MissingExtraError
from lc_history.testing.servers.ending import children_of, end, signal_group

ATTEMPTS: Final = 5
"""How often a server that exits at once is started again: its port was taken, or its dead self is still leaving."""
POLL_SECONDS: Final = 0.03
STOP_SECONDS: Final = 10


class ServerUnavailableError(Exception):
    """A server can neither be found nor started; the message says why, and what would bring it."""


class Server(ABC):
    """A real server: where it is, what it is, and its life."""

    url: str
    """What a test gives to a store; known once the server has started."""
    source: str
    """Where it comes from: a program's path, or the environment variable that names it."""

    @abstractmethod
    def start(self) -> Self:
        """Return the server once it answers; `ServerUnavailableError` says why it cannot."""

    @abstractmethod
    def stop(self) -> None:
        """End it in good order and remove its data."""

    @property
    @abstractmethod
    def version(self) -> str:
        """What the server says that it is."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class GivenServer(Server):
    """A server that somebody else runs, named by an environment variable: never stopped, never emptied."""

    def __init__(self, url: str, *, source: str, ask_version: Callable[[str], str]) -> None:
        self.url, self.source, self._ask_version = url, source, ask_version

    @override
    def start(self) -> Self:
        try:
            self._ask_version(self.url)
        except Exception as error:
            raise ServerUnavailableError(
                f"{self.source} is set to {self.url}, where nothing answers: {error}"
            ) from error
        return self

    @override
    def stop(self) -> None:
        pass

    @property
    @override
    def version(self) -> str:
        return self._ask_version(self.url)


class LocalServer(Server):
    """A server process of this run. A context manager, and restartable on the same port with the same data."""

    name: ClassVar[str]
    startup_seconds: ClassVar[float] = 30
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, *, source: str) -> None:
        self.source = source
        self.port = 0
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments, for `port` and `directory`."""

    @abstractmethod
    def ask_version(self) -> str:
        """Return what the server says that it is; raise anything while it does not answer yet."""

    @abstractmethod
    def address(self) -> str:
        """Return the URL for `port`."""

    def prepare(self) -> None:
        """Make what the first start needs in `directory`."""

    def account(self) -> str | None:
        """Return the user to run as, for a server that refuses root; None for this one."""
        return None

    def environment(self) -> dict[str, str]:
        """Return what the process needs in its environment beyond this one's."""
        return {}

    @property
    def directory(self) -> Path:
        """Where the server keeps its data and its log, until `stop`."""
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix=f"lc-history-{self.name}-"))
            _reaper().watch_directory(self._directory)
            if (account := self.account()) is not None:
                shutil.chown(self._directory, account)
        return self._directory

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    @override
    def version(self) -> str:
        return self.ask_version()

    @override
    def start(self) -> Self:
        if self.running:
            return self
        fresh = self._directory is None
        if fresh:
            self.prepare()
        for _ in range(ATTEMPTS):
            if fresh:
                self.port = free_port()
            self.url = self.address()
            self._process = self.run_as_account(self.command())
            if self._answers():
                return self
            time.sleep(POLL_SECONDS * 5)
        reason = f"{self.source} cannot serve {self.name} on port {self.port}: {self.last_words()}"
        self.stop()
        raise ServerUnavailableError(reason)

    def run_as_account(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own, as the server's account, its output in the server's log."""
        account = self.account()
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - the arguments are ours
                command,
                cwd=self.directory,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=account,
                group=None if account is None else _group_of(account),
                extra_groups=None if account is None else [],
            )
        _reaper().watch(process.pid)
        return process

    def _answers(self) -> bool:
        """Wait for the first answer; False if the process exits before it, or takes too long."""
        deadline = time.monotonic() + self.startup_seconds
        while self.running and time.monotonic() < deadline:
            try:
                self.ask_version()
            except MissingExtraError:
                self.kill()
                raise
            except Exception:  # noqa: BLE001 - whatever a driver raises, it means: not yet
                time.sleep(POLL_SECONDS)
            else:
                return True
        self.kill()
        return False

    def last_words(self) -> str:
        """Return the end of the log, for a message that says why the server is not there."""
        lines = (self.directory / "log").read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or "it said nothing"

    @override
    def stop(self) -> None:
        if self.running:
            assert self._process is not None
            signal_group(self._process.pid, self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """End the process and its children with SIGKILL, as a crash would; the data stays for `start`."""
        if self._process is not None:
            children = children_of(self._process.pid)
            signal_group(self._process.pid, signal.SIGKILL)
            end(children)
            self._process.wait()
            _reaper().forget(self._process.pid)
            self._process = None

    def restart(self) -> Self:
        """Crash and start again on the same port with the same data."""
        self.kill()
        return self.start()


def free_port() -> int:
    """Return a port that nobody listens on.

    Below the range that the system gives to outgoing connections, so that nobody takes the port while its
    server is down, and low enough for the bus of a Redis Cluster node, which listens 10,000 above.
    """
    while True:
        port = secrets.choice(range(10_000, 30_000))
        with socket.socket() as probe, socket.socket() as bus:
            try:
                probe.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def _group_of(account: str) -> int:
    import pwd

    return pwd.getpwnam(account).pw_gid


class _Reaper:
    """The line to a process that outlives this one just long enough to end its servers: see reaper.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the arguments are ours
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("reaper.py")), str(os.getpid())],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        atexit.register(self._close)

    def watch(self, pid: int) -> None:
        self._say(f"watch {pid}")

    def forget(self, pid: int) -> None:
        self._say(f"forget {pid}")

    def watch_directory(self, directory: Path) -> None:
        self._say(f"directory {directory}")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _close(self) -> None:
        self._say("end")  # closing the line would not be enough: a forked child may hold it, too
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _reaper() -> _Reaper:
    return _reaper_of(os.getpid())


@cache
def _reaper_of(_pid: int) -> _Reaper:  # a forked child has its own
    return _Reaper()
