"""Sealing again, under the current key, what an older key has sealed: online, in small batches, row by row.

A batch begins after the last row of the one before, in the order of the primary key: what cannot be opened is passed
by, and no row is looked at twice.
"""

# ruff: noqa: S608 - what is put into these texts are columns of this module; what comes from outside is a parameter
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol

from lc_history.agents.checkpoints.database import Database, rows
from lc_history.agents.encoding.values import Values
from lc_history.agents.threads.resealing import SEAL_AGAIN, Make
from lc_history.errors import DecodeError, PolicyError
from lc_history.model import SessionKey
from lc_history.privacy.keyring import SEAL, Keyring
from lc_history.rotation import Refused, RotationError
from lc_history.rotation import rotate as rotate_session
from lc_history.stores.postgres import PostgresStore
from lc_history.transcript import Policy, Transcript

BATCH_ROWS: Final = 200


def _stale(column: str) -> str:
    """Return the condition that a value begins with a seal, and not with the current key's; or with none, if asked."""
    return f"substring({column} FROM 1 FOR %(length)s) <> %(prefix)s AND position(%(seal)s IN {column}) = 1"


_STALE_BLOBS = f"""
SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs
WHERE {_stale("blob")} AND (thread_id, checkpoint_ns, channel, version) > (%(p0)s, %(p1)s, %(p2)s, %(p3)s)
ORDER BY thread_id, checkpoint_ns, channel, version LIMIT %(rows)s
"""
_STALE_WRITES = f"""
WITH stale AS (
    SELECT DISTINCT thread_id, checkpoint_ns, checkpoint_id FROM checkpoint_writes
    WHERE {_stale("blob")} AND (thread_id, checkpoint_ns, checkpoint_id) > (%(p0)s, %(p1)s, %(p2)s)
    ORDER BY 1, 2, 3 LIMIT %(rows)s)
SELECT * FROM (
    SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, (row_number() OVER (
           PARTITION BY thread_id, checkpoint_ns, checkpoint_id, task_id, channel ORDER BY idx))::int - 1 AS turn
    FROM checkpoint_writes WHERE (thread_id, checkpoint_ns, checkpoint_id) IN (SELECT * FROM stale)) AS numbered
WHERE {_stale("blob")} ORDER BY thread_id, checkpoint_ns, checkpoint_id
"""
_STALE_BODIES = f"""
SELECT thread_id, name, type, body FROM lch_bodies WHERE type <> 'references'
AND {_stale("body")} AND (thread_id, name) > (%(p0)s, %(p1)s::bytea) ORDER BY thread_id, name LIMIT %(rows)s
"""
_STALE_CHECKPOINTS = f"""
SELECT thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata FROM checkpoints
WHERE {_stale("decode(coalesce(metadata ->> 'lch_sealed', ''), 'base64')")}
AND (thread_id, checkpoint_ns, checkpoint_id) > (%(p0)s, %(p1)s, %(p2)s)
ORDER BY thread_id, checkpoint_ns, checkpoint_id LIMIT %(rows)s
"""
_STALE_EFFECTS = f"""
SELECT thread_id, effect_key, result_type, result FROM lch_effects
WHERE {_stale("result")} AND (thread_id, effect_key) > (%(p0)s, %(p1)s)
ORDER BY thread_id, effect_key LIMIT %(rows)s
"""
_STALE_TITLES = f"""
SELECT thread_id, title FROM lch_threads
WHERE {_stale("title")} AND thread_id > %(p0)s ORDER BY thread_id LIMIT %(rows)s
"""
_THREADS = """
SELECT thread_id, user_id FROM {schema}lch_threads WHERE deleted_at IS NULL AND thread_id > %s ORDER BY 1 LIMIT %s
"""
_KEYS = r"""
SELECT body FROM (
    SELECT substring(blob FROM 1 FOR 80) AS body FROM {schema}checkpoint_blobs WHERE blob IS NOT NULL
    UNION ALL SELECT substring(blob FROM 1 FOR 80) FROM {schema}checkpoint_writes
    UNION ALL SELECT substring(body FROM 1 FOR 80) FROM {schema}lch_bodies WHERE type <> 'references'
    UNION ALL SELECT substring(result FROM 1 FOR 80) FROM {schema}lch_effects WHERE result IS NOT NULL
    UNION ALL SELECT substring(title FROM 1 FOR 80) FROM {schema}lch_threads WHERE title IS NOT NULL
    UNION ALL SELECT substring(r.body FROM 1 FOR 80) FROM {schema}lch_threads t
        JOIN {schema}lc_history_sessions s ON s.session_id = replace(t.thread_id, '\', '\\')
                                  AND s.user_id = replace(t.user_id, '\', '\\')
        JOIN {schema}lc_history_records r ON r.stream BETWEEN s.id * 16 AND s.id * 16 + 15 WHERE t.deleted_at IS NULL
    UNION ALL SELECT decode(coalesce(metadata ->> 'lch_sealed', ''), 'base64') FROM {schema}checkpoints) AS sealed
"""


ALTERED: Final = "(altered)"
"""What `rows_per_key` counts rows under whose seal is damaged."""


async def rows_per_key(database: Database, keys: Keyring | None) -> dict[str | None, int]:
    """Return how many rows each key has sealed; None for those that none has."""
    keys = _required(keys)

    def key_of(body: bytes) -> str | None:
        try:
            return keys.key_id(body.ljust(120, b"\0"))
        except DecodeError:
            return ALTERED

    return dict(Counter(key_of(bytes(body)) for (body,) in await database.rows(_KEYS)))


async def rotate(
    database: Database, serde: SerializerProtocol, given: Keyring | None, *, seal_plaintext: bool = False
) -> int:
    """Seal every row that an older key has sealed, or none if that is asked for, and return how many those were.

    What cannot be opened stays as it is, and after all others `RotationError` names it.
    """
    keys = _required(given)
    prefix = keys.seal(b"", b"")[: 5 + len(keys.current)]
    asked = {"prefix": prefix, "length": len(prefix), "seal": b"" if seal_plaintext else SEAL, "rows": BATCH_ROWS}
    done = [await _rotate_table(database, table, asked, lambda name: Values(serde, name, keys)) for table in _TABLES]
    done.append(await _rotate_words(database, keys, seal_plaintext=seal_plaintext))
    sealed, refused = sum(count for count, _ in done), [one for _, some in done for one in some]
    if refused:
        raise RotationError(refused, sealed=sealed)
    return sealed


async def _rotate_table(
    database: Database, table: _Table, asked: Mapping[str, Any], make: Make
) -> tuple[int, list[Refused]]:
    """Seal the rows of a table, and return how many those were, and which are not."""
    done, refused, after = 0, list[Refused](), table.first

    async def work(connection: Any) -> list[tuple[tuple[Any, ...], Refused | None]]:
        places = {f"p{place}": value for place, value in enumerate(after)}
        async with database.transaction(connection):
            found = await rows(connection, table.stale, {**asked, **places})
            return [(row, await _sealed(connection, table, row, make)) for row in found]

    while outcomes := await database.run(work):
        failed = [one for _, one in outcomes if one is not None]
        done, after = done + len(outcomes) - len(failed), outcomes[-1][0][: len(after)]
        refused += failed
    return done, refused


async def _sealed(connection: Any, table: _Table, row: tuple[Any, ...], make: Make) -> Refused | None:
    """Seal a row again, or return why it stays as it is."""
    try:
        await SEAL_AGAIN[table.name](connection, make, row, None)
    except (DecodeError, ValueError) as error:
        return Refused(table.name, dict(zip(table.names, row, strict=False)), str(error))
    return None


async def _rotate_words(database: Database, keys: Keyring, *, seal_plaintext: bool) -> tuple[int, list[Refused]]:
    """Seal what was said in threads, and return how many records were not, and which still are not."""
    store, after, done = PostgresStore(database.postgres), "", 0
    refused: list[Refused] = []
    while threads := await database.rows(_THREADS, (after, BATCH_ROWS)):
        for thread_id, user_id in threads:
            transcript = Transcript(store, SessionKey(user_id, thread_id), Policy(keys=keys))
            try:
                count = await rotate_session(transcript, seal_plaintext=seal_plaintext)
            except RotationError as error:
                done += error.sealed
                refused += error.refused
            else:
                done += count.total() - count[keys.current]
        after = threads[-1][0]
    return done, refused


def _required(keys: Keyring | None) -> Keyring:
    if keys is None:
        raise PolicyError("this checkpointer has no keys: open_checkpointer(url, keys=Keyring(...))")
    return keys


@dataclass(frozen=True, slots=True)
class _Table:
    """A table whose rows are sealed: how stale ones are found, and the names of the columns that come first."""

    name: str
    stale: str
    names: tuple[str, ...]
    first: tuple[Any, ...]
    """A place before all rows."""


_NAMES: Final = ("thread_id", "checkpoint_ns", "checkpoint_id")
_TABLES: Final = (
    _Table("checkpoint_blobs", _STALE_BLOBS, (*_NAMES[:2], "channel", "version"), ("",) * 4),
    _Table("checkpoint_writes", _STALE_WRITES, (*_NAMES, "task_id", "idx", "channel"), ("",) * 3),
    _Table("lch_bodies", _STALE_BODIES, ("thread_id", "name"), ("", b"")),
    _Table("checkpoints", _STALE_CHECKPOINTS, _NAMES, ("",) * 3),
    _Table("lch_effects", _STALE_EFFECTS, ("thread_id", "effect_key"), ("", "")),
    _Table("lch_threads", _STALE_TITLES, ("thread_id",), ("",)),
)
