"""PgBouncer in transaction mode before a PostgreSQL of its own: each transaction may run on another connection."""

from __future__ import annotations

import os
import shutil
from typing import ClassVar, Final, Self

from typing_extensions import override

from lc_history.errors import extra
from lc_history.testing.servers.postgres import PostgresServer, server_account
from lc_history.testing.servers.process import LocalServer, ServerUnavailableError

PLACES: Final = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))  # where servers are kept
CONFIGURATION: Final = """
[databases]
* = host=127.0.0.1 port={behind} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 500
server_login_retry = 0.1
"""


def pgbouncer_version(url: str) -> str:
    """Return the version that a PgBouncer answers at its console."""
    with extra("postgres"):
        import psycopg
    with psycopg.connect(url, dbname="pgbouncer", autocommit=True, connect_timeout=5) as console:
        row = console.execute("SHOW VERSION").fetchone()
    return str(row[0]) if row else "PgBouncer"


class PgBouncerServer(LocalServer):
    """A pooler in transaction mode, with so few connections that its clients share them all the time."""

    name: ClassVar[str] = "pgbouncer"

    def __init__(self, *, pool_size: int = 4) -> None:
        program = shutil.which("pgbouncer", path=PLACES)
        if program is None:
            raise ServerUnavailableError("no pgbouncer on the PATH: apt-get install pgbouncer")
        self.behind = PostgresServer()
        """The PostgreSQL that it leads to, without a detour."""
        self._pool_size = pool_size
        super().__init__(source=program)

    @override
    def account(self) -> str | None:
        return server_account()

    @override
    def start(self) -> Self:
        self.behind.start()
        return super().start()

    @override
    def stop(self) -> None:
        super().stop()
        self.behind.stop()

    @override
    def address(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @override
    def command(self) -> list[str]:
        configuration = self.directory / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(behind=self.behind.port, port=self.port, pool_size=self._pool_size)
        )
        configuration.chmod(0o644)
        return [self.source, str(configuration)]

    @override
    def ask_version(self) -> str:
        return f"{pgbouncer_version(self.url)} before {self.behind.version}"
