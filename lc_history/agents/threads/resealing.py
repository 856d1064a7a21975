"""Sealing a row again, under the current key or to another thread: each in its own way, by what it is bound to."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from langgraph.checkpoint.serde.base import SerializerProtocol

from lc_history.agents.checkpoints.database import rows
from lc_history.agents.effects.rows import effect_place
from lc_history.agents.encoding.sealing import ENVELOPE, READABLE, blob_place, envelope_place, write_places
from lc_history.agents.encoding.values import SEALED, Stored, Values
from lc_history.privacy.keyring import Keyring, bind, is_sealed

_BLOBS_OF = """
SELECT thread_id, checkpoint_ns, channel, version, type, blob FROM checkpoint_blobs
WHERE thread_id = %(thread)s AND blob IS NOT NULL
"""
_BLOB = """
UPDATE checkpoint_blobs SET type = %s, blob = %s
WHERE thread_id = %s AND checkpoint_ns = %s AND channel = %s AND version = %s AND blob = %s RETURNING 1
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
_BODIES_OF = "SELECT thread_id, name, type, body FROM lch_bodies WHERE type <> 'references' AND thread_id = %(thread)s"
_BODY = "UPDATE lch_bodies SET body = %s WHERE thread_id = %s AND name = %s AND body = %s RETURNING 1"
_CHECKPOINTS_OF = """
SELECT thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata FROM checkpoints WHERE thread_id = %(thread)s
"""
_CHECKPOINT = """
UPDATE checkpoints SET checkpoint = %s, metadata = %s
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = %s AND metadata = %s RETURNING 1
"""
_EFFECT = "UPDATE lch_effects SET result = %s WHERE thread_id = %s AND effect_key = %s AND result = %s RETURNING 1"
_TITLE = "UPDATE lch_threads SET title = %s WHERE thread_id = %s AND title = %s RETURNING 1"


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


SEAL_AGAIN: Final[Mapping[str, Seal]] = {
    "checkpoint_blobs": _seal_blob,
    "checkpoint_writes": _seal_write,
    "lch_bodies": _seal_body,
    "checkpoints": _seal_checkpoint,
    "lch_effects": _seal_effect,
    "lch_threads": _seal_title,
}
_COPIED: Final = {
    "checkpoint_blobs": _BLOBS_OF,
    "checkpoint_writes": _WRITES_OF,
    "lch_bodies": _BODIES_OF,
    "checkpoints": _CHECKPOINTS_OF,
}


async def seal_copy(connection: Any, serde: SerializerProtocol, keys: Keyring, *, source: str, target: str) -> None:
    """Seal what was copied from another thread to where it stands now."""
    for table, query in _COPIED.items():
        for row in await rows(connection, query, {"thread": target}):
            await SEAL_AGAIN[table](connection, lambda thread_id: Values(serde, thread_id, keys), row, source)
