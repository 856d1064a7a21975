"""One PostgreSQL database, as everything that lives in it shares it.

What runs here can be run again (appends are idempotent, transactions all or nothing), so no call asks first whether
its connection still works: one that broke is replaced, and the work is done once more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from lc_history.bridge import entered, settle
from lc_history.errors import StoreError, StoreUnavailableError
from lc_history.postgres.migrations import MIGRATIONS, MIGRATIONS_LOCK, NEWEST, RECORD, preamble
from lc_history.postgres.names import quoted
from lc_history.postgres.pools import given_pools, shared_pools
from lc_history.postgres.refusals import explained

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

_ENDED: Final = "57P0"
"""SQLSTATEs of a server that shuts down, has crashed, or has ended this connection."""

T = TypeVar("T")
Work = Callable[[Any], Awaitable[T]]
"""What is done on a connection of either colour."""


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
        self._pools = given_pools(pool, async_pool, pgbouncer=pgbouncer)
        self._set_up(schema, pgbouncer=pgbouncer)

    @classmethod
    def open(cls, url: str, *, schema: str | None = None, pool_size: int = 16, pgbouncer: bool = False) -> Self:
        """Return the database behind a URL, which shares its pools with all others of that URL in this process.

        Nothing is connected before the first use. ``postgresql+embedded:///directory`` starts a server of its own
        in a directory (extra ``embedded``), for development.
        pool_size: how many connections are opened at most, per door; a call that finds all in use waits.
        """
        self = cls.__new__(cls)
        self._pools = shared_pools(url, pool_size, pgbouncer=pgbouncer)
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
        return self._statements.get(text) or self._statements.setdefault(text, text.replace("{schema}", self._prefix))

    async def execute(self, connection: Any, text: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Return the cursor of a statement, qualified, prepared where that is allowed, with binary results."""
        return await settle(connection.execute(self.qualified(text), parameters, prepare=self.prepare, binary=True))

    async def run(self, work: Work[T]) -> T:
        """Return what the work gives on a connection; where that turns out to be broken, on another one.

        The work must be idempotent, or one transaction. A driver's exception becomes a `StoreError`.
        """
        try:
            async with self._lent(checked=False) as connection:
                return await work(connection)
        except StoreUnavailableError as error:
            from psycopg import OperationalError

            cause = error.__cause__
            once_more = getattr(cause, "broke_connection", False) or getattr(cause, "once_more", False)
            if not isinstance(cause, OperationalError) or not once_more:
                raise
        async with self._lent(checked=True) as connection:
            return await work(connection)

    def connection(self) -> AbstractAsyncContextManager[Any]:
        """Lend a connection of the door's colour that was seen to work; for what cannot simply be done again."""
        return self._lent(checked=True)

    def _lent(self, *, checked: bool) -> _Loan:
        return _Loan(self._pools(), self._explained, checked=checked)

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
                await settle(connection.execute(self.qualified(preamble(await self._missing_schema(connection)))))
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
        await self._pools.leave(first=not self._left)
        self._left = True

    async def _missing_schema(self, connection: Any) -> str | None:
        """Return the schema if it is to be made, which not everybody may do who may make a table in it."""
        if self.schema is None:
            return None
        there = await settle(connection.execute("SELECT to_regnamespace(%s)", (quoted(self.schema),)))
        return self.schema if (await settle(there.fetchone()))[0] is None else None

    async def _version(self, connection: Any, name: str) -> int | None:
        there = await settle(connection.execute("SELECT to_regclass(%s)", (self.qualified(MIGRATIONS),)))
        if (await settle(there.fetchone()))[0] is None:
            return None
        newest = await settle(connection.execute(self.qualified(NEWEST), (name,)))
        version: int | None = (await settle(newest.fetchone()))[0]
        return version

    def _explained(self, error: Exception) -> StoreError:
        return explained(error, self.address)


class _Loan(AbstractAsyncContextManager[Any]):
    """A connection until the block ends; a driver's exception leaves it as a `StoreError`."""

    __slots__ = ("_checked", "_connection", "_explained", "_pool")

    def __init__(self, pool: Any, explained: Callable[[Exception], StoreError], *, checked: bool) -> None:
        self._pool, self._explained, self._checked = pool, explained, checked

    async def __aenter__(self) -> Any:
        try:
            self._connection = await self._pool.take(checked=self._checked)
        except Exception as error:
            if _is_drivers(error):
                raise self._explained(error) from error
            raise
        return self._connection

    async def __aexit__(self, _kind: object, failure: BaseException | None, _where: object) -> None:
        connection, driver_failed = self._connection, failure is not None and _is_drivers(failure)
        if driver_failed:
            failure.broke_connection = broken = connection.closed or _ended(failure)  # type: ignore[union-attr] # read by run()
            if broken:
                await settle(connection.close())
        try:
            await self._pool.give_back(connection)
        except Exception as error:
            if _is_drivers(error):
                raise self._explained(error) from error
            raise
        if driver_failed:
            raise self._explained(failure) from failure  # type: ignore[arg-type] # an Error of the driver


def _is_drivers(failure: BaseException) -> bool:
    """Tell whether an exception is the driver's, which is imported when one is looked at: not for each call."""
    from psycopg import Error

    return isinstance(failure, Error)


def _ended(error: Any) -> bool:
    """Tell whether an error means the end of its connection, which may say so a moment later."""
    from psycopg import OperationalError

    return isinstance(error, OperationalError) and (error.sqlstate is None or error.sqlstate.startswith(_ENDED))
