"""Seals what a session holds with the keyring's current key, while it is in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lc_history.errors import DecodeError, PolicyError
from lc_history.model import LANES, Lane, Record
from lc_history.privacy import audit
from lc_history.store import every_record
from lc_history.transcript import QUARANTINED, Transcript

PLAINTEXT = "(none)"
"""What `rotate` counts records under that were never sealed."""
_LABEL: Final = "description"
"""What a label is bound to in the place of a lane."""
_MOST_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Refused:
    """A record or row that could not be opened, and stays as it is."""

    table: str
    row: Mapping[str, Any]
    """What names it there."""
    reason: str

    def __str__(self) -> str:
        return f"{self.table} {', '.join(f'{name} {value!r}' for name, value in self.row.items())}: {self.reason}"


class RotationError(DecodeError):
    """Some records could not be opened and stay as they are; all others are sealed with the current key."""

    def __init__(self, refused: Sequence[Refused], *, count: Counter[str] | None = None, sealed: int = 0) -> None:
        shown = "; ".join(map(str, refused[:_MOST_SHOWN]))
        more = f"; and {len(refused) - _MOST_SHOWN} more" if len(refused) > _MOST_SHOWN else ""
        super().__init__(
            f"{len(refused)} could not be opened and stay as they are, {sealed} were sealed with the current key: "
            f"{shown}{more}"
        )
        self.refused, self.sealed = tuple(refused), sealed
        self.count = Counter[str]() if count is None else count
        """What `rotate` would have returned."""


async def rotate(transcript: Transcript, *, seal_plaintext: bool = False, dry_run: bool = False) -> Counter[str]:
    """Seal every record and the label of a session with the current key; return how many each key had sealed.

    Each record is replaced only if it is still the one that was read, so a turn may arrive meanwhile; running it twice
    does no harm. Only the key that a record names has to be in the keyring. What cannot be opened stays as it is, and
    after all others `RotationError`, a `DecodeError`, names it.

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
    refused: list[Refused] = []
    sealed = 0
    async for lane, record in _records(transcript):
        try:
            sealed_by = keys.key_id(record.body)
            count[sealed_by or PLAINTEXT] += 1
            if sealed_by == keys.current or dry_run or lane == audit.LANE:
                continue
            await _seal(transcript, lane, record, plain=sealed_by is None, seal_plaintext=seal_plaintext)
        except DecodeError as error:
            session = {"session": transcript.key.session_id, "user": transcript.key.user_id}
            refused.append(Refused("records", {**session, "lane": lane or _LABEL, "number": record.seq}, str(error)))
        else:
            sealed += 1
    if refused:
        raise RotationError(refused, count=count, sealed=sealed)
    return count


async def _records(transcript: Transcript) -> AsyncIterator[tuple[Lane | None, Record]]:
    """Yield every record with its lane, and the label, which has none."""
    for lane in LANES:
        async for record in every_record(transcript.store, transcript.key, lane=lane):
            if record.body != QUARANTINED:
                yield lane, record
    info = await transcript.store.describe(transcript.key)
    if info is not None and info.description:
        yield None, Record(0, "", info.description, info.created_at)


async def _seal(
    transcript: Transcript, lane: Lane | None, record: Record, *, plain: bool, seal_plaintext: bool
) -> None:
    if plain and not seal_plaintext:
        message = f"record {record.seq} of {transcript.key} is not sealed: give seal_plaintext=True to seal it"
        raise DecodeError(message)
    opened = record.body if plain else transcript.opened(record, lane or _LABEL)
    body = transcript.sealed(opened, lane or _LABEL, record.id)
    if lane is None:
        await transcript.store.describe(transcript.key, description=body)
    else:
        await transcript.store.replace(transcript.key, record.seq, body, expected=record.body, lane=lane)
