"""Finds records that cannot be read, and sets them aside without losing a byte."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass

from lc_history.errors import DecodeError
from lc_history.model import MESSAGES, Record, SessionKey
from lc_history.transcript import QUARANTINED, Transcript

PAGE = 500
"""Records read in one round trip."""


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
        its place, so that the rest reads without complaint.
    """
    after = 0
    while records := (await transcript.store.read(transcript.key, after=after, first=PAGE)).records:
        for record in records:
            reason = _illness(transcript, record)
            if reason is not None:
                moved = set_aside and await _set_aside(transcript, record, reason)
                yield Finding(transcript.key, record.seq, reason, moved)
        after = records[-1].seq


def _illness(transcript: Transcript, record: Record) -> str | None:
    if record.body == QUARANTINED:
        return None
    try:
        transcript.policy.codec.decode(transcript.opened(record, MESSAGES))
    except DecodeError as error:
        return str(error)
    return None


async def _set_aside(transcript: Transcript, record: Record, reason: str) -> bool:
    note = {"seq": record.seq, "id": record.id, "reason": reason, "body": b64encode(record.body).decode()}
    await transcript.note("quarantine", f"{record.seq}", note)
    return await transcript.store.replace(transcript.key, record.seq, QUARANTINED, expected=record.body)
