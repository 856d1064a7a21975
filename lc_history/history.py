"""Histories as LangChain knows them: `ChatHistories` opens a store, `ChatHistory` is one conversation in it.

Every operation has two doors, ``x()`` and ``await ax()``, on the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import uuid4

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import ConfigurableFieldSpec, ensure_config
from typing_extensions import override

from lc_history.bridge import door, drive
from lc_history.model import DEFAULT_USER, Appended, Expiry, SessionInfo, SessionKey
from lc_history.privacy.keyring import Keyring
from lc_history.store import Store
from lc_history.stores import open_store
from lc_history.transcript import Label, Policy, Reading, Transcript

if TYPE_CHECKING:
    from langchain_core.chat_history import BaseChatMessageHistory
else:
    try:
        from langchain_core.chat_history import BaseChatMessageHistory
    except ImportError:  # langchain-core 2.0 drops the base class; nothing here needs more of it than its name
        BaseChatMessageHistory = object

history_factory_config: list[ConfigurableFieldSpec] = [
    ConfigurableFieldSpec(
        id="user_id",
        annotation=str,
        name="User ID",
        description="Whose conversation it is.",
        default=DEFAULT_USER,
        is_shared=True,
    ),
    ConfigurableFieldSpec(
        id="session_id",
        annotation=str,
        name="Session ID",
        description="Which conversation of this user it is.",
        is_shared=True,
    ),
]
"""For ``RunnableWithMessageHistory(..., history_factory_config=...)``: sessions by user and session."""


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


@dataclass(frozen=True, slots=True)
class SessionListing:
    """One page of sessions, and the cursor that asks for the next; None at the end."""

    items: list[Session]
    cursor: str | None = None


class ChatHistory(BaseChatMessageHistory):
    """One conversation, as a LangChain chat message history.

    >>> from langchain_core.messages import HumanMessage
    >>> history = ChatHistories.open("memory://").session("s1", user_id="ann")
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
        return None if found is None else _session(*found)

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
                tags=label.tags if tags is None else tuple(tags),
                metadata=label.metadata if metadata is None else dict(metadata),
            )
            found = await self.transcript.describe(None if changed == label else changed, archived=archived)
        if found is None:
            message = f"there is no {self.transcript.key}: begin it with a message or with new_session()"
            raise KeyError(message)
        return _session(*found)

    describe = door(adescribe)

    def __str__(self) -> str:
        return str(self.transcript.key)


class RunHistory(ChatHistory):
    """A conversation as one run of ``RunnableWithMessageHistory`` sees it: both of its reads are one snapshot.

    That runnable reads the history when it begins and again when it ends, and cuts its input by the length of the
    second read: with another writer in between it would drop the user's words. Outside a run, reads are fresh.
    """

    def __init__(self, transcript: Transcript) -> None:
        super().__init__(transcript)
        self._snapshot: Reading | None = None

    @override
    async def aget_messages(self) -> list[BaseMessage]:
        if ensure_config().get("configurable", {}).get("message_history") is not self:
            return await super().aget_messages()
        seen: Reading = self._snapshot or await self.transcript.read()
        self._snapshot = seen
        return seen.messages

    @override
    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        seen, self._snapshot = self._snapshot, None
        if seen is None:
            await super().aadd_messages(messages)
        else:
            await self.transcript.append(_once(messages, seen.messages), not_erased_since=seen.last_seq)

    add_messages = door(aadd_messages)


class ChatHistories:
    """The conversations of one store.

    >>> histories = ChatHistories.open("memory://", ttl=timedelta(hours=24))
    >>> history = histories.new_session("ann", title="Tea")
    >>> [session.label.title for session in histories.sessions("ann").items]
    ['Tea']
    """

    def __init__(self, store: Store, *, policy: Policy | None = None) -> None:
        self.store, self.policy = store, policy or Policy()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        ttl: timedelta | None = None,
        sliding: bool = False,
        keys: Keyring | None = None,
        redact: Callable[[BaseMessage], BaseMessage] | None = None,
        unreadable: Literal["raise", "report"] = "raise",
        **options: Any,
    ) -> Self:
        """Return the histories behind a URL; nothing is connected before the first use.

        url: ``redis://host:6379/0``, ``sqlite:///path``, ``postgresql://``, ``firestore://project``,
            ``dynamodb://table``, ``memory://``, or ``redis://...+postgresql://...`` for a hot and a cold store.
        ttl, sliding: how long a session lives, from its first message or from its latest.
        keys: seals everything at rest.
        redact: applied to every message before it is stored.
        unreadable: whether a damaged record raises or is reported while reading goes on.
        options: those of the store's ``from_url``, such as ``key_prefix`` or ``schema``.
        """
        expiry = None if ttl is None else Expiry(ttl, sliding)
        policy = Policy(redact=redact, keys=keys, expiry=expiry, unreadable=unreadable)
        return cls(open_store(url, **options), policy=policy)

    def session(
        self,
        session_id: str,
        *,
        user_id: str = DEFAULT_USER,
        ttl: timedelta | None = None,
        sliding: bool = False,
    ) -> ChatHistory:
        """Return a conversation, whether or not it has begun; connects to nothing.

        ttl, sliding: for this session, in place of the histories' own.
        """
        return ChatHistory(self._transcript(session_id, user_id, ttl, sliding=sliding))

    def get_session_history(self, session_id: str, user_id: str = DEFAULT_USER) -> RunHistory:
        """Return a conversation for one run: the factory that ``RunnableWithMessageHistory`` asks for.

        With `history_factory_config` it is called with both names, without it with the session's alone.
        """
        return RunHistory(self._transcript(session_id, user_id))

    async def anew_session(
        self,
        user_id: str = DEFAULT_USER,
        *,
        title: str = "",
        tags: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> ChatHistory:
        """Begin a conversation under a new random name (a UUID4) and return it."""
        history = self.session(str(uuid4()), user_id=user_id)
        await history.transcript.describe(Label(title, tuple(tags), dict(metadata or {})), create=True)
        return history

    new_session = door(anew_session)

    async def asessions(
        self,
        user_id: str = DEFAULT_USER,
        *,
        archived: bool | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> SessionListing:
        """Return one page of a user's conversations, the most recently updated first, without reading any.

        archived: only those that are (True) or are not (False).
        """
        page = await self.store.sessions(user_id, archived=archived, limit=limit, cursor=cursor)
        items = [_session(info, Transcript(self.store, info.key, self.policy).label(info)) for info in page.items]
        return SessionListing(items, page.cursor)

    sessions = door(asessions)

    async def amigrate(self) -> None:
        """Create or upgrade what the store needs: tables and indexes, where it has any."""
        await self.store.migrate()

    migrate = door(amigrate)

    async def aclose(self) -> None:
        """Release the connections that the store has opened itself."""
        await self.store.close()

    close = door(aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _transcript(
        self, session_id: str, user_id: str, ttl: timedelta | None = None, *, sliding: bool = False
    ) -> Transcript:
        policy = self.policy if ttl is None else replace(self.policy, expiry=Expiry(ttl, sliding))
        return Transcript(self.store, SessionKey(user_id, session_id), policy)


def _session(info: SessionInfo, label: Label) -> Session:
    return Session(
        user_id=info.key.user_id,
        session_id=info.key.session_id,
        label=label,
        count=info.count,
        created_at=info.created_at,
        updated_at=info.updated_at,
        expires_at=info.expires_at,
        archived=info.archived,
    )


def _once(messages: Sequence[BaseMessage], seen: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return what a run has added: an agent answers with the whole conversation, its input included.

    Left out are messages that the run has read, and an input without an id that comes again with one.
    """
    known = {message.id for message in seen}
    echoed = [message for message in messages if message.id and message.id not in known]
    added: list[BaseMessage] = []
    for message in messages:
        if message.id is None and isinstance(message, HumanMessage):
            again = next((one for one in echoed if one.content == message.content and type(one) is type(message)), None)
            if again is not None:
                echoed.remove(again)
                continue
        if message.id is None or message.id not in known:
            added.append(message)
    return added
