"""Which row each value of a checkpoint stands in, and with keys, nothing the user supplied outside a seal.

LangGraph's saver writes short values and metadata as readable JSON. With keys they travel in one envelope, which is
bound to the checkpoint and to everything in it that stays readable.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from math import isfinite
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # a snapshot is a value in this wrapping

from lc_history.agents.encoding.exact import has_lone_surrogate
from lc_history.agents.encoding.values import Placed, Stored, Values
from lc_history.errors import DecodeError
from lc_history.privacy.keyring import Keyring, bind

READABLE: Final = ("source", "step", "parents", "run_id", "counters_since_delta_snapshot")
"""The metadata that stay readable: LangGraph's own bookkeeping, which its SQL looks into."""
ENVELOPE: Final = "lch_sealed"
_ADDRESS: Final = ("thread_id", "checkpoint_ns", "checkpoint_id")


def blob_place(thread_id: str, namespace: str, channel: str, version: Any) -> bytes:
    """Return what names the row of a channel's value."""
    return bind("blob", thread_id, namespace, channel, str(version))


def write_places(thread_id: str, namespace: str, checkpoint_id: str, writes: Iterable[tuple[str, str]]) -> list[bytes]:
    """Return what names the rows of pending writes, given as tasks and channels in their order."""
    turns: dict[tuple[str, str], count[int]] = {}
    return [
        bind(
            "write",
            thread_id,
            namespace,
            checkpoint_id,
            task,
            channel,
            str(next(turns.setdefault((task, channel), count()))),
        )
        for task, channel in writes
    ]


def sealed_put(
    values: Values, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
) -> tuple[RunnableConfig, Checkpoint, CheckpointMetadata]:
    """Return what LangGraph's saver is given to write, with everything placed and sealed."""
    if values.keys is None:
        channels = {name: _for_json(value) for name, value in checkpoint["channel_values"].items()}
        return config, {**checkpoint, "channel_values": channels}, metadata
    where = config["configurable"]
    namespace, versions = where.get("checkpoint_ns") or "", checkpoint["channel_versions"]
    short: dict[str, Any] = {}
    placed: dict[str, Any] = {}
    for channel, value in checkpoint["channel_values"].items():
        place = blob_place(values.thread_id, namespace, channel, versions.get(channel))
        if value is None or isinstance(value, str | int | float | bool):
            short[channel] = value
        elif isinstance(value, _DeltaSnapshot):
            placed[channel] = _DeltaSnapshot(Placed(value.value, place))
        else:
            placed[channel] = Placed(value, place)
    whole = get_serializable_checkpoint_metadata(config, metadata)
    held = [channel for channel in placed if channel in versions]
    envelope = values.serde.dumps_typed({"metadata": dict(whole), "short": short, "held": held})[1]
    sealed = values.keys.seal(envelope, envelope_place(values.thread_id, namespace, checkpoint))
    kept: dict[str, Any] = {**whole}
    shown: Any = {name: kept[name] for name in READABLE if name in kept}
    shown[ENVELOPE] = b64encode(sealed).decode()
    return (
        {"configurable": {name: where[name] for name in _ADDRESS if name in where}},
        {**checkpoint, "channel_values": placed},
        shown,
    )


def _for_json(value: Any) -> Any:
    """Return a value such that LangGraph keeps it as bytes where PostgreSQL's JSON could not hold it."""
    odd = isinstance(value, str) and ("\0" in value or has_lone_surrogate(value))
    return Placed(value, b"") if odd or (isinstance(value, float) and not isfinite(value)) else value


def sealed_writes(
    values: Values, config: RunnableConfig, task_id: str, writes: Sequence[tuple[str, Any]]
) -> Sequence[tuple[str, Any]]:
    """Return the writes that LangGraph's saver is given."""
    if values.keys is None:
        return writes
    where = config["configurable"]
    named = [(task_id, channel) for channel, _ in writes]
    places = write_places(values.thread_id, where.get("checkpoint_ns") or "", where["checkpoint_id"], named)
    return [(channel, Placed(value, place)) for (channel, value), place in zip(writes, places, strict=True)]


def opened_tuple(values: Values, found: CheckpointTuple) -> CheckpointTuple:
    """Return a tuple with its seals taken off; message lists are still `Stored`."""
    where = found.config["configurable"]
    namespace, checkpoint = where["checkpoint_ns"], found.checkpoint
    channels: dict[str, Any] = {}
    metadata = found.metadata
    if values.keys is not None:
        metadata, channels = _open_envelope(values, values.keys, found)
    for channel, value in checkpoint["channel_values"].items():
        if isinstance(value, Stored):
            version = checkpoint["channel_versions"].get(channel)
            channels[channel] = values.opened(value, blob_place(values.thread_id, namespace, channel, version))
        elif values.keys is None:
            channels[channel] = value
    writes = found.pending_writes or []
    places = write_places(
        values.thread_id, namespace, checkpoint["id"], [(task, channel) for task, channel, _ in writes]
    )
    opened = [
        (task, channel, values.opened(value, place))
        for (task, channel, value), place in zip(writes, places, strict=True)
    ]
    return found._replace(
        checkpoint={**checkpoint, "channel_values": channels}, metadata=metadata, pending_writes=opened
    )


def _open_envelope(values: Values, keys: Keyring, found: CheckpointTuple) -> tuple[CheckpointMetadata, dict[str, Any]]:
    where = found.config["configurable"]
    what = f"checkpoint {where['checkpoint_id']!r} of thread {values.thread_id!r}"
    sealed = found.metadata.get(ENVELOPE)
    if not isinstance(sealed, str):
        raise DecodeError(
            f"{what} is not sealed, and with keys plaintext is refused: "
            "rotate_keys(seal_plaintext=True) seals what was stored before there were keys"
        )
    try:
        place = envelope_place(values.thread_id, where["checkpoint_ns"], found.checkpoint)
        opened = values.serde.loads_typed(("msgpack", keys.open(b64decode(sealed), place)))
    except (DecodeError, ValueError) as error:
        raise DecodeError(f"{what} is {error}") from error
    if gone := set(opened.get("held", ())) - found.checkpoint["channel_values"].keys():
        raise DecodeError(f"{what} held a value of {', '.join(sorted(gone))} whose row is gone")
    return opened["metadata"], opened["short"]


def envelope_place(thread_id: str, namespace: str, checkpoint: Mapping[str, Any]) -> bytes:
    """Return what names a checkpoint, and all that stays readable of it."""
    readable = {name: value for name, value in checkpoint.items() if name != "channel_values"}
    return bind("checkpoint", thread_id, namespace, json.dumps(readable, sort_keys=True))
