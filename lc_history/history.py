"""One conversation, as LangChain knows it. Every operation has two doors, ``x()`` and ``await ax()``, on one object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from langchain_core.messages import BaseMessage
from typing_extensions import override

from lc_history.bridge import door, drive
from lc_history.model import Appended, SessionInfo, several
from lc_history.reading import Label, Reading
from lc_history.transcript import Transcript

if TYPE_CHECKING:
    from langchain_core.chat_history import BaseChatMessageHistory
else:
    try:
        from langchain_core.chat_history import BaseChatMessageHistory
    except ImportError:  # langchain-core 2.0 drops the base class; nothing here needs more of it than its name
        BaseChatMessageHistory = object


@dataclass(frozen=True, slots=True)
class Session:
    """What a listing shows of a conversation: whose it is, its label, its size and its times."""

    user_id: str
    session_id: str
    label: Label
    count: int
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    archived: bool

    @classmethod
    def of(cls, info: SessionInfo, label: Label) -> Self:
        """Return what a store and a label tell of a session."""
        return cls(
            user_id=info.key.user_id,
            session_id=info.key.session_id,
            label=label,
            count=info.count,
            created_at=info.created_at,
            updated_at=info.updated_at,
            expires_at=info.expires_at,
            archived=info.archived,
        )


class ChatHistory(BaseChatMessageHistory):
    """One conversation, as a LangChain chat message history.

    >>> from langchain_core.messages import HumanMessage
    >>> from lc_history import InMemoryChatMessageHistory
    >>> history = InMemoryChatMessageHistory()
    >>> history.add_messages([HumanMessage("hello"), HumanMessage("anybody there?")])
    >>> [message.content for message in history.last(1)]
    ['anybody there?']
    """

    def __init__(self, transcript: Transcript) -> None:
        self.transcript = transcript

    async def aget_messages(self) -> list[BaseMessage]:
        """Return the whole conversation, oldest first."""
        return (await self.transcript.read()).messages

    @property
    @override
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # LangChain declares an attribute
        """The whole conversation, oldest first."""
        return drive(self.aget_messages())

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages as one atomic turn, each id once."""
        await self.aappend(messages)

    add_messages = door(aadd_messages)

    async def aappend(self, messages: Sequence[BaseMessage], *, expected_seq: int | None = None) -> Appended:
        """Append messages as one atomic turn, each id once, and return their numbers and which were new.

        expected_seq: `ConflictError` unless the conversation still ends with this number.
        """
        return await self.transcript.append(messages, expected_seq=expected_seq)

    append = door(aappend)

    async def alast(self, count: int) -> list[BaseMessage]:
        """Return the last so many messages, oldest first, at the same cost in a conversation of any length."""
        return (await self.transcript.read(last=count)).messages

    last = door(alast)

    async def apage(
        self, *, after: int = 0, before: int | None = None, first: int | None = None, last: int | None = None
    ) -> Reading:
        """Return the messages with ``after < seq < before`` with their numbers and times: the first or last so many."""
        return await self.transcript.read(after=after, before=before, first=first, last=last)

    page = door(apage)

    async def aclear(self) -> None:
        """Erase the conversation with everything that belongs to it; a turn in flight does not undo it."""
        await self.transcript.erase()

    clear = door(aclear)

    async def ainfo(self) -> Session | None:
        """Return the conversation's label, size and times, without reading a message; None where there is none."""
        found = await self.transcript.info()
        return None if found is None else Session.of(*found)

    info = door(ainfo)

    async def adescribe(
        self,
        *,
        title: str | None = None,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        archived: bool | None = None,
    ) -> Session:
        """Change what is given and return the whole: rename, tag, archive (True) or restore (False).

        `KeyError` where there is no such session.
        """
        found = await self.transcript.info()
        if found is not None:
            label = found[1]
            changed = replace(
                label,
                title=label.title if title is None else title,
                tags=label.tags if tags is None else several("tags", tags, str),
                metadata=label.metadata if metadata is None else dict(metadata),
            )
            found = await self.transcript.describe(None if changed == label else changed, archived=archived)
        if found is None:
            message = f"there is no {self.transcript.key}: begin it with a message or with new_session()"
            raise KeyError(message)
        return Session.of(*found)

    describe = door(adescribe)

    def __str__(self) -> str:
        return str(self.transcript.key)
