"""What is read of a conversation: messages in their places, side records, and the label that a person gave it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage

from lc_history.model import several


class Said(NamedTuple):
    """A message, its number and id in the session, and when it was stored."""

    seq: int
    id: str
    created_at: datetime
    message: BaseMessage

    def belongs_to(self, turn_id: str | None, part: str | None = None) -> bool:
        """Tell whether a turn of that id has stored it: its id is ``turn_id/part/number``."""
        if turn_id is None:
            return False
        turn, *rest = self.id.rsplit("/", 2)
        return turn == turn_id and len(rest) == 2 and part in (None, rest[0])  # noqa: PLR2004 - part and number


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that cannot be decoded, and why."""

    seq: int
    record_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What one read found, ascending, and the highest number the session has ever given."""

    said: list[Said]
    last_seq: int
    unreadable: list[Unreadable]

    @property
    def messages(self) -> list[BaseMessage]:
        """The messages alone."""
        return [one.message for one in self.said]


@dataclass(frozen=True, slots=True)
class Note:
    """A side record of the session: JSON data under an id, numbered within its lane."""

    seq: int
    id: str
    value: Any


@dataclass(frozen=True, slots=True)
class Label:
    """What a person calls a session: a title, tags and any further JSON data."""

    title: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        several("tags", self.tags, str)
