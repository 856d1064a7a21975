"""Sessions as lines of JSON: everything a session holds, in the clear, for another store or for its owner."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from types import UnionType
from typing import Any, Final

from lc_history.errors import ConflictError
from lc_history.model import LANES, MESSAGES, Entry, Lane, Record, SessionCopy, SessionInfo, SessionKey, Slice
from lc_history.privacy import audit
from lc_history.reading import Label
from lc_history.store import every_record
from lc_history.transcript import QUARANTINED, Transcript

FORMAT = 1
HEAD: Final[dict[str, type | UnionType]] = {
    **dict.fromkeys(("user_id", "session_id", "title", "created_at", "updated_at"), str),
    "tags": list,
    "metadata": dict,
    "archived": bool,
    "expires_at": str | None,
}
"""What the first row of a session says of it."""
MAX_SEQ: Final = 1 << 53
"""No store has given so high a number."""


async def exported(transcript: Transcript) -> AsyncIterator[dict[str, Any]]:
    """Yield the session's head, then every record of every lane; `KeyError` where there is no session.

    A row keeps the record's body as text where it is text and as base64 where it is not; messages also show their
    type and their text, for people to read. An event of an audit trail is given as it is stored, seal and all: the
    next one is named after it.
    """
    found = await transcript.info()
    if found is None:
        message = f"there is no {transcript.key}"
        raise KeyError(message)
    info, label = found
    await transcript.record("export")
    yield {
        "lc_history": FORMAT,
        "user_id": info.key.user_id,
        "session_id": info.key.session_id,
        "title": label.title,
        "tags": label.tags,
        "metadata": label.metadata,
        "archived": info.archived,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "expires_at": info.expires_at,
    }
    for lane in LANES:
        async for record in every_record(transcript.store, transcript.key, lane=lane):
            yield _row(transcript, lane, record)


async def imported(head: dict[str, Any], rows: Iterable[dict[str, Any]], into: Transcript) -> int:
    """Put an exported session in place and return how many messages are new; numbers and times are kept.

    Where the session is there already, the messages whose ids it lacks are appended.
    """
    lanes: dict[Lane, list[Record]] = {lane: [] for lane in LANES}
    for row in rows:
        try:
            lane, record = _record(row, into)
            follows = not lanes[lane] or record.seq > lanes[lane][-1].seq
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            message = f"this is no record of {into.key}, of which nothing was imported: {row!r:.100}"
            raise ValueError(message) from error
        if not follows:
            message = f"number {record.seq} of {into.key} is out of order, so nothing of it was imported: {row!r:.100}"
            raise ValueError(message)
        lanes[lane].append(record)
    info = _info(head, into, lanes[MESSAGES])
    copy = SessionCopy(info, {lane: _slice(records) for lane, records in lanes.items()})
    await into.record("import", messages=len(lanes[MESSAGES]))
    try:
        await into.store.load(copy)
    except ConflictError:
        entries = [Entry(record.id, record.body) for record in lanes[MESSAGES]]
        return sum((await into.store.append(into.key, entries)).new)
    return len(lanes[MESSAGES])


def session_of(head: dict[str, Any]) -> SessionKey:
    """Return whose session an exported head names; `ValueError` if it is none of ours."""
    if head.get("lc_history") == FORMAT and all(isinstance(head.get(name, ...), kind) for name, kind in HEAD.items()):
        return SessionKey(head["user_id"], head["session_id"])
    message = f"expected a session exported by lc-history in format {FORMAT}, not {str(head)[:80]}"
    raise ValueError(message)


def _record(row: dict[str, Any], into: Transcript) -> tuple[Lane, Record]:
    lane: Lane = row["lane"]
    body, name, seq = row["body"], str(row["id"]), int(row["seq"])
    if not 0 < seq < MAX_SEQ:
        raise ValueError(f"{seq} is no number of a record")
    data = body.encode() if isinstance(body, str) else b64decode(body["base64"], validate=True)
    sealed = data if data == QUARANTINED or lane == audit.LANE else into.sealed(data, lane, name)
    return LANES[LANES.index(lane)], Record(seq, name, sealed, _moment(row["created_at"]))


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is in no year of the calendar") from error


def _row(transcript: Transcript, lane: Lane, record: Record) -> dict[str, Any]:
    as_it_is = record.body == QUARANTINED or lane == audit.LANE
    body = record.body if as_it_is else transcript.opened(record, lane)
    row: dict[str, Any] = {"lane": lane, "seq": record.seq, "id": record.id, "created_at": record.created_at}
    if lane == MESSAGES and body != QUARANTINED:
        message = transcript.policy.codec.decode(body)
        row |= {"type": message.type, "text": message.text}
    try:
        return {**row, "body": body.decode()}
    except UnicodeDecodeError:
        return {**row, "body": {"base64": b64encode(body).decode()}}


def _slice(records: list[Record]) -> Slice:
    return Slice(records, records[-1].seq if records else 0)


def _info(head: dict[str, Any], into: Transcript, messages: list[Record]) -> SessionInfo:
    expires_at = head["expires_at"]
    return SessionInfo(
        key=into.key,
        last_seq=messages[-1].seq if messages else 0,
        count=len(messages),
        created_at=_moment(head["created_at"]),
        updated_at=_moment(head["updated_at"]),
        expires_at=None if expires_at is None else _moment(expires_at),
        archived=head["archived"],
        description=into.description(Label(head["title"], tuple(head["tags"]), head["metadata"])),
        version=0,
    )
