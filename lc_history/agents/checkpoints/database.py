"""One PostgreSQL for agents: a write is one round trip, and what broke with its connection is done once more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

from psycopg import errors
from psycopg.rows import tuple_row

from lc_history.agents.checkpoints.refusals import explained
from lc_history.bridge import entered, settle
from lc_history.errors import StoreError
from lc_history.postgres import Postgres, quoted

T = TypeVar("T")
Parameters = Sequence[Any] | Mapping[str, Any]

_MOST_ATTEMPTS: Final = 5
"""How often what collided with another transaction, or whose connection was killed again, is begun anew."""


class Database:
    """Runs work on connections of either colour, with the schema in sight of LangGraph's unqualified SQL."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.closed = False
        self._path = quoted(postgres.schema) if postgres.schema else None

    async def rows(
        self, statement: str, values: Parameters = (), *, thread_id: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the rows of one statement that may be sent twice; the thread is for an error's sentence.

        It names the schema, ``{schema}lch_threads``, and so is all that has to be sent.
        """

        async def work(connection: Any) -> list[tuple[Any, ...]]:
            return await rows(connection, self.postgres.qualified(statement), values)

        return await self.run(work, thread_id)

    async def run(self, work: Callable[[Any], Awaitable[T]], thread_id: str | None = None) -> T:
        """Return what work that may be repeated returns; it opens its own `batch` or `transaction`."""
        if self.closed:
            raise StoreError("this checkpointer is closed: open another, or close it later")

        async def safe(connection: Any) -> T:
            with explained(thread_id):
                return await work(connection)

        for _ in range(_MOST_ATTEMPTS):
            try:
                return await self.postgres.run(safe)
            except StoreError as error:
                cause = error.__cause__
                collided = isinstance(cause, errors.SerializationFailure | errors.DeadlockDetected)
                if not collided and not getattr(cause, "broke_connection", False):
                    raise
        return await self.postgres.run(safe)

    async def close(self) -> None:
        """Run nothing more; close the connections that were opened for this."""
        self.closed = True
        await self.postgres.close()

    def batch(self, connection: Any) -> AbstractAsyncContextManager[Any]:
        """Send the statements together: they stand or fall together, and their results come at the end.

        A pipeline up to its sync is one transaction and one round trip. A pooler that lends its connections by
        transaction takes no pipelines, so there it is an ordinary transaction. The statements name the schema.
        """
        return entered(connection.pipeline() if self.postgres.prepare else connection.transaction())

    @asynccontextmanager
    async def transaction(self, connection: Any, first: str | None = None) -> AsyncIterator[None]:
        """Run the statements one after the other, all or none; ``first`` sets the transaction up."""
        async with entered(connection.transaction()):
            if first:
                await send(connection, first)
            await self.look_into_schema(connection)
            yield

    async def look_into_schema(self, connection: Any) -> None:
        """Have unqualified names of this transaction mean the tables of the schema."""
        if self._path:
            await send(connection, _PATH, (self._path,))


_PATH: Final = "SELECT set_config('search_path', %s, true)"


async def send(connection: Any, statement: str, values: Parameters = ()) -> Any:
    """Send a statement, and return its cursor of tuples; in a batch it has rows once the batch has ended."""
    return await settle(connection.cursor(row_factory=tuple_row).execute(statement, values))


async def rows(connection: Any, statement: str, values: Parameters = ()) -> list[tuple[Any, ...]]:
    """Return the rows of a statement."""
    found: list[tuple[Any, ...]] = await settle((await send(connection, statement, values)).fetchall())
    return found
