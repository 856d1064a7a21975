"""How the Redis store names its keys and frames its records.

    lch:{ann:s1}            the head of a session and the numbers of its ids (a hash)
    lch:{ann:s1}:messages   its records, one list per lane
    lch:{ann}:recent        a user's sessions by their last change (a sorted set), and ...:lapsing by their expiry
    lch:{*3}:recent         the same for one shard of all sessions

What stands in braces decides the slot in a cluster, so the keys of a session stay together. Names are
percent-encoded: no user, no session and no shard can be taken for another.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes
from zlib import crc32

from lc_history.bridge import breathe
from lc_history.model import LANES, Record, SessionInfo, SessionKey, microseconds, moment

SHARDS: Final = 16
"""The index of all sessions lies in this many places, lest one key take every write of a cluster."""

_HEADER: Final = Struct(">QQI")  # number, microseconds, length of the id; then the id and the body
_BREATH: Final = 250  # records taken apart in about half a millisecond


class Names(NamedTuple):
    """The keys of one session and of the indexes that list it."""

    member: str
    head: str
    lists: tuple[str, ...]
    user_index: tuple[str, str]
    shard_index: tuple[str, str]


@lru_cache(maxsize=4096)
def names_of(prefix: str, key: SessionKey) -> Names:
    """Return the keys of a session."""
    user, session = _escape(key.user_id), _escape(key.session_id)
    member = f"{user}:{session}"
    head = f"{prefix}:{{{member}}}"
    shard = crc32(member.encode()) % SHARDS
    lists = tuple(f"{head}:{lane}" for lane in LANES)
    return Names(member, head, lists, user_index(prefix, key.user_id), shard_index(prefix, shard))


def user_index(prefix: str, user_id: str) -> tuple[str, str]:
    """Return the keys that list one user's sessions."""
    return _index(f"{prefix}:{{{_escape(user_id)}}}")


def shard_index(prefix: str, shard: int) -> tuple[str, str]:
    """Return the keys that list one shard of all sessions."""
    return _index(f"{prefix}:{{*{shard}}}")  # no escaped name has an asterisk


def session_of(member: bytes) -> SessionKey:
    """Return the session that an index lists."""
    user, _, session = member.partition(b":")
    return SessionKey(_unescape(user), _unescape(session))


def text(string: str) -> bytes:
    """Return the bytes of any string, also of one with lone surrogates."""
    return string.encode("utf-8", "surrogatepass")


def frame(record: Record) -> bytes:
    """Return the bytes of a record as the scripts make them."""
    name = text(record.id)
    return _HEADER.pack(record.seq, microseconds(record.created_at), len(name)) + name + record.body


async def records_in(elements: Iterable[bytes]) -> list[Record]:
    """Return the records of a list's elements, without holding up the event loop."""
    records: list[Record] = []
    at, time = 0, moment(0)  # a turn has one time
    for element in elements:
        seq, created, length = _HEADER.unpack_from(element)
        if created != at:
            at, time = created, moment(created)
        begin = _HEADER.size + length
        name = element[_HEADER.size : begin].decode("utf-8", "surrogatepass")
        records.append(Record(seq, name, element[begin:], time))
        if not len(records) % _BREATH:
            await breathe()
    return records


def info_of(key: SessionKey, reply: list[int | bytes]) -> SessionInfo:
    """Return what the scripts tell of a session."""
    last_seq, count, created, updated, expires, archived, version = map(int, reply[:7])
    return SessionInfo(
        key=key,
        last_seq=last_seq,
        count=count,
        created_at=moment(created),
        updated_at=moment(updated),
        expires_at=moment(expires) if expires else None,
        archived=bool(archived),
        description=bytes(reply[7]),
        version=version,
    )


def _index(stem: str) -> tuple[str, str]:
    return f"{stem}:recent", f"{stem}:lapsing"


def _escape(name: str) -> str:
    return quote(text(name), safe="")


def _unescape(name: bytes) -> str:
    return unquote_to_bytes(name).decode("utf-8", "surrogatepass")
