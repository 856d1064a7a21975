"""LangGraph's tables and ours, made or upgraded by any number of processes at once."""

from __future__ import annotations

from typing import Any

from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from lc_history.agents.checkpoints import schema
from lc_history.agents.checkpoints.database import Database, rows, send
from lc_history.agents.checkpoints.savers import saver_on
from lc_history.agents.effects.rows import EFFECT_STEPS, EFFECTS
from lc_history.bridge import settle
from lc_history.postgres import MIGRATIONS_LOCK, migration_script, quoted
from lc_history.stores.postgres import PostgresStore
from lc_history.stores.postgres.sql import STEPS


async def install(database: Database) -> None:
    """Bring the tables up to date, LangGraph's by its own saver; nothing is written where they are."""
    name = database.postgres.schema

    async def work(connection: Any) -> None:
        async with database.transaction(connection):
            await send(connection, "SELECT pg_advisory_xact_lock(%s)", (MIGRATIONS_LOCK,))
            if name:
                await send(connection, f"CREATE SCHEMA IF NOT EXISTS {quoted(name)}")
            if not await _up_to_date(connection):
                upstream = saver_on(connection, JsonPlusSerializer())
                upstream.MIGRATIONS = _migrations()
                await settle(upstream.setup())

    await database.run(work)
    await database.postgres.migrate(schema.MIGRATIONS_NAME, schema.STEPS)
    await database.postgres.migrate(EFFECTS, EFFECT_STEPS)
    await PostgresStore(database.postgres).migrate()


def installation_script(name: str | None) -> str:
    """Return the SQL that `install` runs on a fresh database, for a DBA to read or to run."""
    versions = ", ".join(f"({version})" for version in range(len(_migrations())))
    done = f"INSERT INTO checkpoint_migrations (v) VALUES {versions} ON CONFLICT DO NOTHING;"  # noqa: S608 - numbers
    upstream = [step.strip().rstrip(";") + ";" for step in _migrations()]
    first = [f"CREATE SCHEMA IF NOT EXISTS {quoted(name)};", f"SET search_path TO {quoted(name)};"] if name else []
    ours = migration_script(schema.MIGRATIONS_NAME, schema.STEPS, schema=name)
    effects = migration_script(EFFECTS, EFFECT_STEPS, schema=name)
    transcript = migration_script("store", STEPS, schema=name)
    return "\n\n".join((*first, *upstream, done, ours, effects, transcript))


def _migrations() -> list[str]:
    # Indexes of empty tables need not be made concurrently, which would forbid the transaction.
    return [step.replace(" CONCURRENTLY", "") for step in PostgresSaver.MIGRATIONS]


async def _up_to_date(connection: Any) -> bool:
    [(table,)] = await rows(connection, "SELECT to_regclass('checkpoint_migrations')::text")
    if table is None:
        return False
    [(version,)] = await rows(connection, "SELECT max(v) FROM checkpoint_migrations")
    return version is not None and version >= len(_migrations()) - 1
