"""Seals what a session holds with the keyring's current key, while it is in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

from lc_history.errors import DecodeError, PolicyError
from lc_history.model import LANES, Lane, Record
from lc_history.privacy import audit
from lc_history.store import every_record
from lc_history.transcript import QUARANTINED, Transcript

PLAINTEXT = "(none)"
"""What `rotate` counts records under that were never sealed."""


async def rotate(transcript: Transcript, *, seal_plaintext: bool = False, dry_run: bool = False) -> Counter[str]:
    """Seal every record and the label of a session with the current key; return how many each key had sealed.

    Each record is replaced only if it is still the one that was read, so a turn may arrive meanwhile; running it twice
    does no harm. Only the key that a record names has to be in the keyring; `DecodeError` where it is missing.

    An audit trail that is kept in the session is counted and stays as it is: its seals are part of its chain.

    seal_plaintext: also records that were stored before there were keys, which are refused otherwise.
    dry_run: only count.
    """
    keys = transcript.policy.keys
    if keys is None:
        message = f"{transcript.key} cannot be sealed anew without a keyring: give keys="
        raise PolicyError(message)
    if not dry_run:
        await transcript.record("rotate", key=keys.current)
    count: Counter[str] = Counter()
    async for lane, record in _records(transcript):
        sealed_by = keys.key_id(record.body)
        count[sealed_by or PLAINTEXT] += 1
        if sealed_by == keys.current or dry_run or lane == audit.LANE:
            continue
        if sealed_by is None and not seal_plaintext:
            message = f"record {record.seq} of {transcript.key} is not sealed: give seal_plaintext=True to seal it"
            raise DecodeError(message)
        plain = record.body if sealed_by is None else transcript.opened(record, lane)
        body = transcript.sealed(plain, lane, record.id)
        await transcript.store.replace(transcript.key, record.seq, body, expected=record.body, lane=lane)
    await _rotate_label(transcript, count, seal_plaintext=seal_plaintext, dry_run=dry_run)
    return count


async def _records(transcript: Transcript) -> AsyncIterator[tuple[Lane, Record]]:
    for lane in LANES:
        async for record in every_record(transcript.store, transcript.key, lane=lane):
            if record.body != QUARANTINED:
                yield lane, record


async def _rotate_label(transcript: Transcript, count: Counter[str], *, seal_plaintext: bool, dry_run: bool) -> None:
    keys, info = transcript.policy.keys, await transcript.store.describe(transcript.key)
    if keys is None or info is None or not info.description:
        return
    sealed_by = keys.key_id(info.description)
    count[sealed_by or PLAINTEXT] += 1
    if sealed_by != keys.current and not dry_run and (sealed_by is not None or seal_plaintext):
        plain = info.description
        if sealed_by is not None:
            plain = transcript.opened(Record(0, "", plain, info.created_at), "description")
        await transcript.store.describe(transcript.key, description=transcript.sealed(plain, "description", ""))
