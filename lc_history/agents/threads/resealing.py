"""Sealing again, under the current key, what an older key has sealed: online, in small batches, row by row."""

# ruff: noqa: S608 - what is put into these texts are columns of this module; what comes from outside is a parameter
from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol

from lc_history.agents.checkpoints.database import Database, rows
from lc_history.agents.effects.rows import effect_place
from lc_history.agents.encoding.sealing import ENVELOPE, READABLE, blob_place, envelope_place, write_places
from lc_history.agents.encoding.values import SEALED, Stored, Values
from lc_history.errors import PolicyError
from lc_history.model import SessionKey
from lc_history.privacy.keyring import SEAL, Keyring, bind, is_sealed
from lc_history.rotation import rotate as rotate_session
from lc_history.stores.postgres import PostgresStore
from lc_history.transcript import Policy, Transcript

BATCH_ROWS: Final = 200


def _stale(column: str) -> str:
    """Return the condition that a value begins with a seal, and not with the current key's; or with none, if asked."""
    return f"substring({column} FROM 1 FOR %(length)s) <> %(prefix)s AND position(%(seal)s IN {column}) = 1"


_STALE_BLOBS = f"""
SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs
WHERE {_stale("blob")} LIMIT %(rows)s
"""
_BLOBS_OF = """
SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs
WHERE thread_id = %(thread)s AND blob IS NOT NULL
"""
_BLOB = """
UPDATE checkpoint_blobs SET type = %s, blob = %s
WHERE thread_id = %s AND checkpoint_ns = %s AND channel = %s AND version = %s AND blob = %s RETURNING 1
"""
_STALE_WRITES = f"""
WITH stale AS (
    SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoint_writes
    WHERE {_stale("blob")} LIMIT %(rows)s)
SELECT * FROM (
    SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, (row_number() OVER (
           PARTITION BY thread_id, checkpoint_ns, checkpoint_id, task_id, channel ORDER BY idx))::int - 1 AS turn
    FROM checkpoint_writes WHERE (thread_id, checkpoint_ns, checkpoint_id) IN (SELECT * FROM stale)) AS numbered
WHERE {_stale("blob")}
"""
_WRITES_OF = """
SELECT thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, type, blob, (row_number() OVER (
       PARTITION BY thread_id, checkpoint_ns, checkpoint_id, task_id, channel ORDER BY idx))::int - 1 AS turn
FROM checkpoint_writes WHERE thread_id = %(thread)s
"""
_WRITE = """
UPDATE checkpoint_writes SET type = %s, blob = %s
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = %s AND task_id = %s AND idx = %s AND blob = %s
RETURNING 1
"""
_STALE_BODIES = f"""
SELECT thread_id, name, type, body FROM lch_bodies WHERE type <> 'references'
AND {_stale("body")} LIMIT %(rows)s
"""
_BODIES_OF = "SELECT thread_id, name, type, body FROM lch_bodies WHERE type <> 'references' AND thread_id = %(thread)s"
_BODY = "UPDATE lch_bodies SET body = %s WHERE thread_id = %s AND name = %s AND body = %s RETURNING 1"
_STALE_CHECKPOINTS = f"""
SELECT thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata FROM checkpoints
WHERE {_stale("decode(coalesce(metadata ->> 'lch_sealed', ''), 'base64')")} LIMIT %(rows)s
"""
_CHECKPOINTS_OF = """
SELECT thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata FROM checkpoints WHERE thread_id = %(thread)s
"""
_CHECKPOINT = """
UPDATE checkpoints SET checkpoint = %s, metadata = %s
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = %s AND metadata = %s RETURNING 1
"""
_STALE_EFFECTS = f"""
SELECT thread_id, effect_key, result_type, result FROM lch_effects
WHERE {_stale("result")} LIMIT %(rows)s
"""
_EFFECT = "UPDATE lch_effects SET result = %s WHERE thread_id = %s AND effect_key = %s AND result = %s RETURNING 1"
_STALE_TITLES = f"""
SELECT thread_id, title FROM lch_threads
WHERE {_stale("title")} LIMIT %(rows)s
"""
_TITLE = "UPDATE lch_threads SET title = %s WHERE thread_id = %s AND title = %s RETURNING 1"
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


async def rows_per_key(database: Database, keys: Keyring | None) -> dict[str | None, int]:
    """Return how many rows each key has sealed; None for those that none has."""
    keys = _required(keys)
    return dict(Counter(keys.key_id(bytes(body).ljust(120, b"\0")) for (body,) in await database.rows(_KEYS)))


async def rotate(
    database: Database, serde: SerializerProtocol, given: Keyring | None, *, seal_plaintext: bool = False
) -> int:
    """Seal every row that an older key has sealed, or none if that is asked for, and return how many those were."""
    keys = _required(given)
    prefix = keys.seal(b"", b"")[: 5 + len(keys.current)]
    seal = b"" if seal_plaintext else SEAL
    stale = {"prefix": prefix, "length": len(prefix), "seal": seal, "rows": BATCH_ROWS}
    done = 0
    stale_rows = (_STALE_BLOBS, _STALE_WRITES, _STALE_BODIES, _STALE_CHECKPOINTS, _STALE_EFFECTS, _STALE_TITLES)
    for query, again in zip(stale_rows, (*_SEAL, _seal_effect, _seal_title), strict=True):

        async def work(connection: Any, query: str = query, again: Seal = again) -> int:
            async with database.transaction(connection):
                found = await rows(connection, query, stale)
                for row in found:
                    await again(connection, lambda thread_id: Values(serde, thread_id, keys), row, None)
                return len(found)

        while changed := await database.run(work):
            done += changed
    return done + await _rotate_words(database, keys, seal_plaintext=seal_plaintext)


async def _rotate_words(database: Database, keys: Keyring, *, seal_plaintext: bool) -> int:
    """Seal what was said in threads, and return how many records were not."""
    store, after, done = PostgresStore(database.postgres), "", 0
    while threads := await database.rows(_THREADS, (after, BATCH_ROWS)):
        for thread_id, user_id in threads:
            transcript = Transcript(store, SessionKey(user_id, thread_id), Policy(keys=keys))
            count = await rotate_session(transcript, seal_plaintext=seal_plaintext)
            done += count.total() - count[keys.current]
        after = threads[-1][0]
    return done


async def seal_copy(connection: Any, serde: SerializerProtocol, keys: Keyring, *, source: str, target: str) -> None:
    """Seal what was copied from another thread to where it stands now."""
    for query, seal in zip((_BLOBS_OF, _WRITES_OF, _BODIES_OF, _CHECKPOINTS_OF), _SEAL, strict=True):
        for row in await rows(connection, query, {"thread": target}):
            await seal(connection, lambda thread_id: Values(serde, thread_id, keys), row, source)


def _required(keys: Keyring | None) -> Keyring:
    if keys is None:
        raise PolicyError("this checkpointer has no keys: open_checkpointer(url, keys=Keyring(...))")
    return keys


Make = Callable[[str], Values]
Seal = Callable[[Any, Make, tuple[Any, ...], str | None], Awaitable[None]]
"""Seals one row again; it was bound to the thread that is given, or to its own."""


def _again(
    make: Make, thread_id: str, held: Stored, place: Callable[[str], bytes], was: str | None
) -> tuple[str, bytes]:
    if held.kind.startswith(SEALED):
        held = make(was or thread_id).opened(held, place(was or thread_id))
    return make(thread_id).sealed(held, place(thread_id))


async def _seal_blob(connection: Any, make: Make, row: tuple[Any, ...], was: str | None) -> None:
    thread_id, *rest, kind, blob = row
    new = _again(make, thread_id, Stored(kind, bytes(blob)), lambda thread: blob_place(thread, *rest), was)
    await rows(connection, _BLOB, (*new, thread_id, *rest, blob))


async def _seal_write(connection: Any, make: Make, row: tuple[Any, ...], was: str | None) -> None:
    thread_id, namespace, checkpoint_id, task, idx, channel, kind, blob, turn = row

    def place(thread: str) -> bytes:
        return write_places(thread, namespace, checkpoint_id, [(task, channel)] * (turn + 1))[-1]

    new = _again(make, thread_id, Stored(kind, bytes(blob)), place, was)
    await rows(connection, _WRITE, (*new, thread_id, namespace, checkpoint_id, task, idx, blob))


async def _seal_body(connection: Any, make: Make, row: tuple[Any, ...], was: str | None) -> None:
    thread_id, name, kind, body = row
    values, name = make(thread_id), bytes(name)
    plain = bytes(body)
    if is_sealed(plain):
        plain = make(was or thread_id).opened_body(name, kind, plain)[1]
    values.bodies[name] = (kind, plain)
    await rows(connection, _BODY, (values.body_row(name)[-1], thread_id, name, body))


async def _seal_checkpoint(connection: Any, make: Make, row: tuple[Any, ...], was: str | None) -> None:
    thread_id, namespace, checkpoint_id, checkpoint, metadata = row
    values, kept = make(thread_id), checkpoint
    assert values.keys is not None  # noqa: S101 - callers make them with keys
    readable = {name: metadata[name] for name in READABLE if name in metadata}
    if ENVELOPE in metadata:
        place = envelope_place(was or thread_id, namespace, checkpoint)
        envelope = values.keys.open(b64decode(metadata[ENVELOPE]), place)
    else:  # the marker of a snapshot, `true`, stands beside its blob, which goes before a short value
        kept = {**checkpoint, "channel_values": {}}
        short = checkpoint.get("channel_values") or {}
        envelope = values.serde.dumps_typed({"metadata": metadata, "short": short})[1]
    sealed = values.keys.seal(envelope, envelope_place(thread_id, namespace, checkpoint))
    new = json.dumps({**readable, ENVELOPE: b64encode(sealed).decode()})
    where = (thread_id, namespace, checkpoint_id, json.dumps(metadata))
    await rows(connection, _CHECKPOINT, (json.dumps(kept), new, *where))


async def _seal_effect(connection: Any, make: Make, row: tuple[Any, ...], _: str | None) -> None:
    thread_id, key, kind, result = row
    sealed = _bound_again(make(thread_id), bytes(result), effect_place(thread_id, key, kind))
    await rows(connection, _EFFECT, (sealed, thread_id, key, result))


async def _seal_title(connection: Any, make: Make, row: tuple[Any, ...], _: str | None) -> None:
    thread_id, title = row
    sealed = _bound_again(make(thread_id), bytes(title), bind("title", thread_id))
    await rows(connection, _TITLE, (sealed, thread_id, title))


def _bound_again(values: Values, body: bytes, place: bytes) -> bytes:
    assert values.keys is not None  # noqa: S101 - callers make them with keys
    return values.keys.seal(values.keys.open(body, place) if is_sealed(body) else body, place)


_SEAL: Final[tuple[Seal, ...]] = (_seal_blob, _seal_write, _seal_body, _seal_checkpoint)
