"""The conversations of one store: opened from a URL, one object each, begun, listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, Self
from uuid import uuid4

from langchain_core.messages import BaseMessage
from langchain_core.runnables import ConfigurableFieldSpec
from typing_extensions import override

from lc_history.bridge import Closing, door
from lc_history.history import ChatHistory, Session
from lc_history.model import DEFAULT_USER, Expiry, SessionKey, check_name, several
from lc_history.privacy.audit import AuditTrail
from lc_history.privacy.keyring import Keyring
from lc_history.reading import Label
from lc_history.run_history import RunHistory
from lc_history.store import Store, every_session
from lc_history.stores import open_store
from lc_history.strategies.view import Full, Strategy
from lc_history.transcript import Policy, Transcript

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
class SessionListing:
    """One page of sessions, and the cursor that asks for the next; None at the end."""

    items: list[Session]
    cursor: str | None = None


class ChatHistories(Closing):
    """The conversations of one store.

    policy: what is done to messages on their way into the store and out of it.
    strategy: what the model sees of a conversation in `get_session_history`, `with_history` and the middleware;
        everything, unless it is told.

    >>> histories = ChatHistories.open("memory://", ttl=timedelta(hours=24))
    >>> history = histories.new_session("ann", title="Tea")
    >>> [session.label.title for session in histories.sessions("ann").items]
    ['Tea']
    """

    def __init__(self, store: Store, *, policy: Policy | None = None, strategy: Strategy | None = None) -> None:
        self.store, self.policy, self.strategy = store, policy or Policy(), strategy or Full()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        ttl: timedelta | None = None,
        sliding: bool = False,
        keys: Keyring | None = None,
        redact: Callable[[BaseMessage], BaseMessage] | None = None,
        audit: AuditTrail | None = None,
        unreadable: Literal["raise", "report"] = "raise",
        strategy: Strategy | None = None,
        **options: Any,
    ) -> Self:
        """Return the histories behind a URL; nothing is connected before the first use.

        url: ``redis://host:6379/0``, ``sqlite:///path``, ``postgresql://``, ``firestore://project``,
            ``dynamodb://table``, ``memory://``, or ``redis://...+postgresql://...`` for a hot and a cold store.
        ttl, sliding: how long a session lives, from its first message or from its latest.
        keys: seals everything at rest.
        redact: applied to every message before it is stored.
        audit: records who reads, writes, erases and exports; it stays open when the histories are closed.
        unreadable: whether a damaged record raises or is reported while reading goes on.
        strategy: what the model sees of a conversation, such as ``Window(budget_tokens=8000)``; else everything.
        options: those of the store's ``from_url``, such as ``key_prefix`` or ``schema``.
        """
        expiry = Expiry.of(ttl, sliding=sliding)
        policy = Policy(redact=redact, keys=keys, expiry=expiry, audit=audit, unreadable=unreadable)
        return cls(open_store(url, **options), policy=policy, strategy=strategy)

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

        With `history_factory_config` it is called with both names, without it with the session's alone. What it
        returns is for one run at a time: a factory of your own calls it each time.
        """
        return RunHistory(self._transcript(session_id, user_id), self.strategy)

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
        label = Label(title, several("tags", tags, str), dict(metadata or {}))
        await history.transcript.describe(label, create=True)
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

        archived: only those that are (True) or are not (False). `ValueError` for a limit below 1.
        """
        if limit < 1:
            message = f"a page holds at least one session, not {limit}"
            raise ValueError(message)
        check_name("user_id", user_id)
        page = await self.store.sessions(user_id, archived=archived, limit=limit, cursor=cursor)
        items = [Session.of(info, Transcript(self.store, info.key, self.policy).label(info)) for info in page.items]
        return SessionListing(items, page.cursor)

    sessions = door(asessions)

    async def aforget(self, user_id: str) -> int:
        """Erase every conversation of a user with all that belongs to it, and return how many there were.

        A conversation that begins while this runs may stay: keep the user from writing first. Running it again is safe.
        """
        check_name("user_id", user_id)
        gone = 0
        async with aclosing(every_session(self.store, user_id=user_id)) as sessions:
            async for info in sessions:
                await Transcript(self.store, info.key, self.policy).erase()
                gone += 1
        return gone

    forget = door(aforget)

    async def amigrate(self) -> None:
        """Create or upgrade what the store needs: tables and indexes, where it has any."""
        await self.store.migrate()

    migrate = door(amigrate)

    @override
    async def aclose(self) -> None:
        await self.store.close()

    def _transcript(
        self, session_id: str, user_id: str, ttl: timedelta | None = None, *, sliding: bool = False
    ) -> Transcript:
        expiry = Expiry.of(ttl, sliding=sliding)
        policy = self.policy if expiry is None else replace(self.policy, expiry=expiry)
        return Transcript(self.store, SessionKey(user_id, session_id), policy)
