"""Finds records that cannot be read, and sets them aside without losing a byte."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from lc_history.errors import DecodeError
from lc_history.model import MESSAGES, Record, SessionKey
from lc_history.privacy.keyring import is_sealed
from lc_history.store import every_record
from lc_history.transcript import QUARANTINED, Transcript


@dataclass(frozen=True, slots=True)
class Finding:
    """A message that cannot be read, why, and whether it was set aside."""

    key: SessionKey
    seq: int
    reason: str
    set_aside: bool = False


async def examine(transcript: Transcript, *, set_aside: bool = False) -> AsyncIterator[Finding]:
    """Yield every message of a session that cannot be read.

    set_aside: move its bytes to the session's quarantine, from where `export` still brings them, and leave a mark in
        its place, so that the rest reads without complaint. What another keyring may still read stays where it is.
    """
    async for record in every_record(transcript.store, transcript.key):
        reason = _illness(transcript, record)
        if reason is not None:
            hopeless = set_aside and await _is_beyond_keys(transcript, record)
            moved = hopeless and await _set_aside(transcript, record, reason)
            yield Finding(transcript.key, record.seq, reason, moved)


def _illness(transcript: Transcript, record: Record) -> str | None:
    if record.body == QUARANTINED:
        return None
    try:
        transcript.policy.codec.decode(transcript.opened(record, MESSAGES))
    except DecodeError as error:
        return str(error)
    return None


async def _is_beyond_keys(transcript: Transcript, record: Record) -> bool:
    """Tell whether no other keyring can read it: its key is here, and has opened another record of the session."""
    keys = transcript.policy.keys
    if keys is None:
        return not is_sealed(record.body)
    try:
        key_id = keys.key_id(record.body)
    except DecodeError:  # of a newer version, perhaps
        return False
    if key_id is None:
        return not _is_message(transcript, record.body)  # one from before there were keys waits to be sealed
    return await _fits(transcript, key_id)


async def _fits(transcript: Transcript, key_id: str) -> bool:
    async for record in every_record(transcript.store, transcript.key):
        with suppress(DecodeError):
            transcript.opened(record, MESSAGES)
            if transcript.policy.keys and transcript.policy.keys.key_id(record.body) == key_id:
                return True
    return False


def _is_message(transcript: Transcript, body: bytes) -> bool:
    try:
        transcript.policy.codec.decode(body)
    except DecodeError:
        return False
    return True


async def _set_aside(transcript: Transcript, record: Record, reason: str) -> bool:
    note = {"seq": record.seq, "id": record.id, "reason": reason, "body": b64encode(record.body).decode()}
    await transcript.record("set_aside", seq=record.seq)
    await transcript.note("quarantine", f"{record.seq}", note)
    return await transcript.store.replace(transcript.key, record.seq, QUARANTINED, expected=record.body)
