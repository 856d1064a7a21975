"""Numbered SQL: the position of a step in its list is its version, and each name has a list of its own."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from lc_history.postgres.names import quoted

MIGRATIONS_LOCK: Final = int.from_bytes(sha256(b"lc-history migrations").digest()[:8], "big", signed=True)
MIGRATIONS: Final = "{schema}lc_history_migrations"
NEWEST: Final = "SELECT max(version) FROM {schema}lc_history_migrations WHERE name = %s"
CREATE: Final = """
CREATE TABLE IF NOT EXISTS {schema}lc_history_migrations (
    name text, version integer, done_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (name, version)
);
"""
RECORD: Final = "INSERT INTO {schema}lc_history_migrations (name, version) VALUES (%s, %s)"


def migration_script(name: str, steps: Sequence[str], *, schema: str | None = None) -> str:
    """Return the SQL that `Postgres.migrate` runs on a fresh database, for somebody who would rather run it by hand."""
    prefix = f"{quoted(schema)}." if schema else ""
    parts = [preamble(schema)]
    for version, step in enumerate(steps, 1):
        recorded = RECORD.replace("%s, %s", f"'{name}', {version}")
        parts.append(f"-- {name}, version {version}\n{step.strip().rstrip(';')};\n{recorded};")
    return "BEGIN;\n\n" + "\n\n".join(parts).replace("{schema}", prefix) + "\n\nCOMMIT;\n"


def preamble(schema: str | None) -> str:
    """Return the SQL that makes the schema, and the table that knows which steps were taken."""
    return f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)};\n{CREATE}" if schema else CREATE
