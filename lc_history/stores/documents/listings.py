"""Where the sessions of a document store stand in its listings, which sort by plain text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Final

from lc_history.model import SessionKey, SessionPage, microseconds
from lc_history.store import cursor_after, cursor_position
from lc_history.stores.heads import Head, spelled

HIGHEST: Final = "~"
"""Sorts after every place."""


def digest(*names: str) -> str:
    """Return a short name for names of any characters and length; no two of them share one."""
    return sha256("\0".join(map(spelled, names)).encode()).hexdigest()


def listed_at(head: Head, key: SessionKey) -> str:
    """Return where the session stands in listings: by time, and where that is equal by name."""
    return f"{microseconds(head.updated_at):016x}.{digest(key.user_id, key.session_id)}"


def listed_after(cursor: str | None) -> str:
    """Return the place in a listing that a cursor of `page_of` stands for."""
    return "{:016x}.{}".format(*cursor_position(cursor, int, str)) if cursor else ""


def not_after(time: datetime | None) -> str:
    """Return what sorts after every place of that time or before; after all places where there is none."""
    return HIGHEST if time is None else f"{microseconds(time):016x}{HIGHEST}"


def page_of(found: Sequence[tuple[str, str]], limit: int, now: datetime) -> SessionPage:
    """Return a page of up to ``limit`` of the heads found, each given as its place in the listing and its text."""
    heads = [Head.loads(text) for _, text in found[:limit]]
    items = [head.info(key) for key, head in heads if head.expires_at is None or head.expires_at > now]
    if len(found) <= limit:
        return SessionPage(items)
    time, _, name = found[limit - 1][0].partition(".")
    return SessionPage(items, cursor_after(int(time, 16), name))
