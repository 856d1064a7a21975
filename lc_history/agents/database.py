"""One PostgreSQL for agents: a write is one round trip, and what broke with its connection is done once more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from psycopg import errors
from psycopg.rows import tuple_row

from lc_history.agents.refusals import explained
from lc_history.bridge import entered, settle
from lc_history.errors import StoreError
from lc_history.postgres import Postgres, quoted

T = TypeVar("T")
Parameters = Sequence[Any] | Mapping[str, Any]

_MOST_COLLISIONS: Final = 5


class Database:
    """Runs work on connections of either colour, with the schema in sight of LangGraph's unqualified SQL."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.closed = False
        self._path = quoted(postgres.schema) if postgres.schema else None

    async def rows(
        self, statement: str, values: Parameters = (), *, thread_id: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the rows of one statement that may be sent twice; the thread is for an error's sentence."""

        async def work(connection: Any) -> list[tuple[Any, ...]]:
            async with self.batch(connection):
                cursor = await send(connection, statement, values)
            found: list[tuple[Any, ...]] = await settle(cursor.fetchall())
            return found

        return await self.run(work, thread_id)

    async def run(self, work: Callable[[Any], Awaitable[T]], thread_id: str | None = None) -> T:
        """Return what work that may be repeated returns; it opens its own `batch` or `transaction`."""
        if self.closed:
            raise StoreError("this checkpointer is closed: open another, or close it later")

        async def safe(connection: Any) -> T:
            with explained(thread_id):
                return await work(connection)

        for _ in range(_MOST_COLLISIONS):
            try:
                return await self.postgres.run(safe)
            except StoreError as error:
                if not isinstance(error.__cause__, errors.SerializationFailure | errors.DeadlockDetected):
                    raise
        return await self.postgres.run(safe)

    async def close(self) -> None:
        """Run nothing more; close the connections that were opened for this."""
        self.closed = True
        await self.postgres.close()

    @asynccontextmanager
    async def batch(self, connection: Any) -> AsyncIterator[None]:
        """Send the statements together: they stand or fall together, and their results come at the end.

        A pipeline up to its sync is one transaction and one round trip. A pooler that lends its connections by
        transaction takes no pipelines, so there it is an ordinary transaction.
        """
        async with entered(connection.pipeline() if self.postgres.prepare else connection.transaction()):
            if self._path:
                await send(connection, _PATH, (self._path,))
            yield

    @asynccontextmanager
    async def transaction(self, connection: Any, first: str | None = None) -> AsyncIterator[None]:
        """Run the statements one after the other, all or none; ``first`` sets the transaction up."""
        async with entered(connection.transaction()):
            if first:
                await send(connection, first)
            if self._path:
                await send(connection, _PATH, (self._path,))
            yield


_PATH: Final = "SELECT set_config('search_path', %s, true)"


async def send(connection: Any, statement: str, values: Parameters = ()) -> Any:
    """Send a statement, and return its cursor of tuples; in a batch it has rows once the batch has ended."""
    return await settle(connection.cursor(row_factory=tuple_row).execute(statement, values))


async def rows(connection: Any, statement: str, values: Parameters = ()) -> list[tuple[Any, ...]]:
    """Return the rows of a statement."""
    found: list[tuple[Any, ...]] = await settle((await send(connection, statement, values)).fetchall())
    return found
