"""When a store refuses: the conditions of `append` and `load`, for stores that judge them in Python."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from lc_history.errors import ConflictError
from lc_history.model import MESSAGES, Expiry, SessionCopy, SessionKey, State


class Remembered(Protocol):
    """A session, or, when it is not alive, what is remembered of one that was erased or moved away."""

    @property
    def alive(self) -> bool:
        """Whether the session can be read."""

    @property
    def moved(self) -> bool:
        """Whether it stands in another store."""

    @property
    def erased_seq(self) -> int:
        """The highest number of the messages lane when it was last erased; 0 if it never was."""

    @property
    def version(self) -> int:
        """What grows with every change."""


def check_append(
    key: SessionKey,
    session: Remembered,
    last_seq: int,
    *,
    expected_seq: int | None = None,
    not_erased_since: int | None = None,
    create: bool = True,
) -> None:
    """Raise `ConflictError` if nothing new may be added; last_seq: of the lane that is appended to."""
    if session.moved:
        message = f"{key} was moved to another store: load it back, then append"
    elif not_erased_since is not None and session.erased_seq > not_erased_since:
        message = f"{key} was erased while this turn was under way; nothing of the turn was kept"
    elif not (create or session.alive):
        message = f"{key} does not exist: begin it first, or append with create=True"
    elif expected_seq is not None and expected_seq != last_seq:
        message = f"{key} has come to number {last_seq}, not {expected_seq}: read what was added, then append"
    else:
        return
    raise ConflictError(message)


def check_life(key: SessionKey, expires_at: datetime | None, expiry: Expiry | None, now: datetime) -> None:
    """Raise `ConflictError` if the living session would end sooner than it does now, and must not."""
    if expiry is None or expiry.shortens:
        return
    if expires_at is None or (expiry.sliding and now + expiry.ttl < expires_at):
        raise ConflictError(f"{key} would end sooner than it does now; nothing was changed")


def check_erasure(key: SessionKey, session: Remembered, moved_version: int | None, only: State | None) -> None:
    """Raise `ConflictError` if the session is not as it was copied, or not what alone is to be erased."""
    if moved_version is not None and not (session.alive and session.version == moved_version):
        raise ConflictError(f"{key} has changed since it was copied: copy it again")
    if only is not None and not (session.alive if only == "alive" else session.moved):
        raise ConflictError(f"{key} is not here any more as it was seen ({only}); nothing was erased")


def check_load(copy: SessionCopy, there: Remembered, over_version: int | None) -> int:
    """Return the version that the copy gets in this place; `ConflictError` if it may not take it."""
    if there.alive:
        allowed = over_version == there.version
    elif there.moved:
        allowed = copy.info.version >= there.version
    else:
        allowed = all(record.seq > there.erased_seq for record in copy.lanes[MESSAGES].records)
    if not allowed:
        raise ConflictError(f"{copy.info.key} has changed here since it was copied: copy it again")
    takes_over = there.alive or (there.erased_seq and not there.moved)
    return max(copy.info.version, there.version) + 1 if takes_over else copy.info.version
