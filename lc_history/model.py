"""What a store keeps: sessions of numbered, opaque records, and what it tells about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple, Self, TypeVar, get_args

T = TypeVar("T")

MAX_NAME_CHARACTERS: Final = 512
MAX_TTL: Final = timedelta(days=73_000)
"""Two centuries: until then a count of microseconds is exact on every store. None keeps a session for ever."""
DEFAULT_USER: Final = "default"
"""The user of an application that does not name its users."""

MICROSECOND: Final = timedelta(microseconds=1)
"""What stores count time in."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

ALL_MESSAGES: Final = "__remove_all__"
"""What a ``RemoveMessage`` names to remove all before it: LangGraph's ``REMOVE_ALL_MESSAGES``."""

Lane = Literal["messages", "summaries", "anchors", "memory", "audit", "quarantine"]
"""The conversation itself, and the side records that live and die with it.

messages   what was said
summaries  rolling summaries, each covering the messages up to a number
anchors    where a window was last cut
memory     what an agent chose to remember
audit      who did what to the session: kept by an `AuditTrail`, in a store of its own
quarantine bodies that could not be read, set aside by the doctor
"""
LANES: Final[tuple[Lane, ...]] = get_args(Lane)
MESSAGES: Final[Lane] = "messages"


State = Literal["alive", "moved"]
"""Of a session in one store: it can be read here, or it stands in another store."""


@dataclass(frozen=True, slots=True, order=True)
class SessionKey:
    """The name of one conversation of one user.

    Both are any non-empty strings of up to 512 characters. A store escapes and never interprets them: ``a:b``,
    ``*``, ``../x`` and newlines are just names, and no two different names are ever the same session.

    >>> SessionKey("ann", "s1")
    SessionKey(user_id='ann', session_id='s1')
    >>> SessionKey("ann", "")
    Traceback (most recent call last):
    ValueError: session_id must not be empty
    """

    user_id: str
    session_id: str

    def __post_init__(self) -> None:
        check_name("user_id", self.user_id)
        check_name("session_id", self.session_id)

    def __str__(self) -> str:
        return f"session {self.session_id!r} of user {self.user_id!r}"


def check_name(what: str, name: object) -> None:
    """Raise `TypeError` or `ValueError` unless the name is a non-empty string of at most 512 characters."""
    if not isinstance(name, str):
        message = f"{what} must be a str, not {type(name).__name__}"
        raise TypeError(message)
    if not name:
        message = f"{what} must not be empty"
        raise ValueError(message)
    if len(name) > MAX_NAME_CHARACTERS:
        message = f"{what} has {len(name)} characters; at most {MAX_NAME_CHARACTERS} are allowed"
        raise ValueError(message)


def microseconds(time: datetime) -> int:
    """Return a time as a whole number, exactly: the microseconds since 1970."""
    return (time - _EPOCH) // MICROSECOND


def moment(count: int) -> datetime:
    """Return the time that `microseconds` has made a number of."""
    return _EPOCH + count * MICROSECOND


def several(what: str, values: Iterable[T], kind: type[T]) -> tuple[T, ...]:
    """Return several values as a tuple; `TypeError` for one alone: Python would take a string letter by letter."""
    listed = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else None
    if listed is None or not all(isinstance(each, kind) for each in listed):
        message = f"{what} must be a list of {kind.__name__}, not {values!r:.80}: put one alone in brackets"
        raise TypeError(message)
    return listed


# Those of which there are many are tuples: they take a third of the time to make.
class Entry(NamedTuple):
    """What is appended: an id, which is the idempotency key, and opaque bytes."""

    id: str
    body: bytes


class Record(NamedTuple):
    """An entry as it is kept, numbered by the store within its lane."""

    seq: int
    id: str
    body: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Expiry:
    """How long a session lives: from its first record, or, when sliding, from its latest write."""

    ttl: timedelta
    sliding: bool = False
    shortens: bool = True
    """Whether it may end a session sooner than it would have ended; where not, that is a `ConflictError`."""

    def __post_init__(self) -> None:
        if not isinstance(self.ttl, timedelta):
            message = f"ttl must be a timedelta, not {type(self.ttl).__name__}"
            raise TypeError(message)
        if not timedelta(milliseconds=1) <= self.ttl <= MAX_TTL:
            message = f"ttl must be at least a millisecond and at most {MAX_TTL.days:,} days, not {self.ttl}"
            raise ValueError(message)

    @classmethod
    def of(cls, ttl: timedelta | None, *, sliding: bool) -> Self | None:
        """Return how long a session lives by these options, None where it stays; `ValueError` where one is missing."""
        if ttl is None and sliding:
            message = "sliding=True moves the end of a ttl, and there is none: give ttl=timedelta(...) as well"
            raise ValueError(message)
        return None if ttl is None else cls(ttl, sliding)


@dataclass(frozen=True, slots=True)
class Appended:
    """Where the entries of one append stand, in their order, and which of them were new."""

    seqs: tuple[int, ...]
    new: tuple[bool, ...]
    created: bool = False
    """Whether this append began the session."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Records of one lane, ascending, and the highest number the lane has ever given."""

    records: list[Record] = field(default_factory=list)
    last_seq: int = 0


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a listing shows of a session, without reading a body; counts and numbers are of its messages."""

    key: SessionKey
    last_seq: int
    count: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    archived: bool
    description: bytes
    version: int
    """Grows with every change of the session, in any lane; one that begins after its end has a version of its own.
    One that was moved away and comes back unchanged has the version that it had."""


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some sessions, and the cursor that asks for those after them; None at the end."""

    items: list[SessionInfo]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class SessionCopy:
    """A whole session as one store had it at one moment, for another store to `load`."""

    info: SessionInfo
    lanes: dict[Lane, Slice]
