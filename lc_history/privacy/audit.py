"""Who did what to a conversation: a trail of events, each named after the one before it.

The id of an event is the digest of its predecessor, id and body as they are stored. A store takes an id once, so two
writers cannot both follow the same event: the trail is one chain without a lock. What is altered, left out, moved or
put in between breaks it, and that shows without a key, also after the key was destroyed. Whoever makes the rest of the
chain anew behind such a change is found out by a seal, which they have no key for, or by a head that was kept.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from json import dumps, loads
from typing import Any, Final, Literal, NamedTuple, Self, get_args
from uuid import uuid4
from weakref import WeakSet

from typing_extensions import override

from lc_history.bridge import Closing, breathe, door, pause
from lc_history.errors import ConflictError, DecodeError, PolicyError, StoreUnavailableError
from lc_history.model import DEFAULT_USER, Entry, Expiry, Lane, Record, SessionKey, several
from lc_history.privacy.actor import acting
from lc_history.privacy.keyring import Keyring, bind, bound_to, is_sealed
from lc_history.store import Store, every_record
from lc_history.stores import open_store

Action = Literal[
    "read", "append", "erase", "describe", "export", "import", "set_aside", "rotate", "answer", "update", "fork"
]
"""What was done to a conversation, or to an agent's thread.

read       messages or side records were read, by a person or for a model
append     messages or side records were stored
erase      all of it, its messages up to a number, or one lane
describe   its title, tags or metadata were changed, it was archived or restored
export     written out in the clear
import     put in place from an export
set_aside  an unreadable message was moved to the quarantine
rotate     sealed anew with the current key
answer     a person's answer to a question of an agent was given to it
update     the state of a thread was changed by hand
fork       a thread was begun as a copy of this one
"""
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

LANE: Final[Lane] = "audit"
RIVALS: Final = 100
"""How many other events may come between before one of a conversation is given up, and its action with it."""

SLICE: Final = 100
"""Events opened before the event loop gets a turn: about 2 ms where they are sealed."""
STEP: Final = 0.002
"""By how many seconds the pause may grow after each event of somebody else that came between."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that was done, or at least begun: it is written before what it tells of."""

    seq: int
    at: datetime
    """By the clock of who did it."""
    actor: str | None
    """As `acting_as` has it; None where nobody was named."""
    action: Action
    detail: dict[str, Any]
    """Ids, numbers and counts, such as ``{"last": 20}``; never a word of the conversation."""


class AuditHead(NamedTuple):
    """How far a trail has come: keep it elsewhere, and `AuditTrail.verify` shows that nothing before it was changed."""

    seq: int
    digest: str


class AuditTrail(Closing):
    """The trail of each conversation, in a store that outlives the conversation's erasure.

    store: any store but the conversations' own, whose erasure would take the trail with it: another database, or
        another schema, ``key_prefix`` or file.
    keys: seals every event; a trail is not sealed anew when keys rotate, so its old ones are kept as long as it is.
    ttl: how long a trail is kept after its latest event; None keeps it.
    actions: those that are recorded.

    Given to ``ChatHistories.open(..., audit=trail)``. What cannot be recorded is not done: the error of this store
    goes to the caller.

    >>> from lc_history import ChatHistories, acting_as
    >>> trail = AuditTrail.open("memory://")
    >>> histories = ChatHistories.open("memory://", audit=trail)
    >>> with acting_as("support/kim"):
    ...     messages = histories.session("s1", user_id="ann").messages
    >>> [(event.actor, event.action) for event in trail.events("s1", user_id="ann")]
    [('support/kim', 'read')]
    """

    def __init__(
        self,
        store: Store,
        *,
        keys: Keyring | None = None,
        ttl: timedelta | None = None,
        actions: Collection[Action] = ACTIONS,
    ) -> None:
        self.store, self.keys, self.actions = store, keys, frozenset(several("actions", actions, str))
        if unknown := self.actions - set(ACTIONS):
            raise ValueError(f"actions must be some of {', '.join(ACTIONS)}, not {', '.join(sorted(unknown))}")
        self._expiry = Expiry.of(ttl, sliding=ttl is not None)
        self._apart: WeakSet[Store] = WeakSet()

    @classmethod
    def open(
        cls,
        url: str,
        *,
        keys: Keyring | None = None,
        ttl: timedelta | None = None,
        actions: Collection[Action] = ACTIONS,
        **options: Any,
    ) -> Self:
        """Return the trail behind a URL; options are those of the store's ``from_url``. Nothing connects yet."""
        return cls(open_store(url, **options), keys=keys, ttl=ttl, actions=actions)

    async def amigrate(self) -> None:
        """Create or upgrade what the store needs: tables and indexes, where it has any."""
        await self.store.migrate()

    migrate = door(amigrate)

    async def arecord(
        self, key: SessionKey, action: Action, detail: Mapping[str, Any] | None = None
    ) -> AuditHead | None:
        """Add an event to a conversation's trail, behind whatever is there at this moment, and return where it stands.

        None where such an action is not among those that are recorded.
        """
        if action not in ACTIONS:
            raise ValueError(f"an action is one of {', '.join(ACTIONS)}, not {action!r}")
        if action not in self.actions:
            return None
        event = {"at": datetime.now(UTC).isoformat(), "actor": acting(), "action": action, "detail": detail or {}}
        plain = dumps({**event, "unique": uuid4().hex}).encode()
        for lost in range(RIVALS):
            if (placed := await self._placed(key, plain)) is not None:
                return placed
            await pause(random.uniform(0, lost * STEP))  # noqa: S311 - so that rivals get out of step
        message = f"{action} of {key} was not recorded, and not done: {RIVALS} others were first; try again"
        raise StoreUnavailableError(message)  # no ConflictError: that would tell of the conversation

    record = door(arecord)

    async def aevents(
        self, session_id: str, *, user_id: str = DEFAULT_USER, last: int | None = None
    ) -> list[AuditEvent]:
        """Return the events of a conversation, the oldest first: all or the last so many."""
        key = SessionKey(user_id, session_id)
        events: list[AuditEvent] = []
        for record in (await self.store.read(key, lane=LANE, last=last)).records:
            events.append(self._event(key, record))
            if not len(events) % SLICE:
                await breathe()
        return events

    events = door(aevents)

    async def averify(
        self, session_id: str, *, user_id: str = DEFAULT_USER, known: AuditHead | None = None
    ) -> AuditHead | None:
        """Make sure that the trail is whole, and return its head; None where there is no event.

        `DecodeError` names the first event that was altered, left out, moved or planted; with keys, that includes one
        that was not sealed with them. Where the first number is not 1, an earlier trail has expired or was erased.
        known: a head that this returned earlier, which must still be there. Without it, events cut off at the end show
            only if the store's own count of them was left as it was, and a trail that was made anew only by its seals.
        """
        key = SessionKey(user_id, session_id)
        counted = (await self.store.read(key, lane=LANE, last=1)).last_seq
        head, seen, follows = None, False, _beginning(key)
        async for record in every_record(self.store, key, lane=LANE):
            if record.id != follows:
                raise _broken(key, record.seq, "does not follow the one before it")
            if self.keys is not None:
                self._event(key, record)
            head = _head(record)
            follows = head.digest
            if known is not None and known.seq == head.seq:
                if known != head:
                    raise _broken(key, record.seq, "is not the one that was there")
                seen = True
            if not record.seq % SLICE:
                await breathe()
        if known is not None and not seen:
            raise _broken(key, known.seq, "is missing")
        if head is not None and counted > head.seq:
            raise _broken(key, counted, "is missing")
        return head

    verify = door(averify)

    @override
    async def aclose(self) -> None:
        await self.store.close()

    async def before(self, store: Store, key: SessionKey, action: Action, /, **detail: Any) -> None:
        """Record what is about to be done to a conversation in a store; None in the detail is left out.

        `PolicyError` where that store turns out to be the trail's own, by whatever name.
        """
        event = await self.arecord(key, action, {name: value for name, value in detail.items() if value is not None})
        if event is None or store in self._apart:
            return
        if event in [_head(one) for one in await self._at(key, event.seq, store)]:
            raise PolicyError(
                "the audit trail lies in the conversations' own store, and would be erased and expire with them; "
                "nothing was done: give it another store, or another schema=, key_prefix= or file"
            )
        self._apart.add(store)

    async def _placed(self, key: SessionKey, plain: bytes) -> AuditHead | None:
        """Put an event behind the latest one; None where another was first, or the trail has ended meanwhile."""
        found = await self.store.read(key, lane=LANE, last=1)
        latest = found.records[0] if found.records else None
        name = _head(latest).digest if latest else _beginning(key)
        body = self.keys.seal(plain, bound_to(key, LANE, name)) if self.keys else plain
        try:
            placed = await self.store.append(
                key,
                [Entry(name, body)],
                lane=LANE,
                expiry=self._expiry,
                expected_seq=found.last_seq if latest else None,
                create=latest is None,
            )
        except ConflictError:
            return None
        seq = placed.seqs[0]
        # What is not new may still be ours: the connection broke after the store had taken it.
        ours = placed.new[0] or body in [one.body for one in await self._at(key, seq, self.store)]
        return AuditHead(seq, _digest(name, body)) if ours else None

    async def _at(self, key: SessionKey, seq: int, store: Store) -> list[Record]:
        return (await store.read(key, lane=LANE, after=seq - 1, before=seq + 1)).records

    def _event(self, key: SessionKey, record: Record) -> AuditEvent:
        if self.keys is None and is_sealed(record.body):
            raise _broken(key, record.seq, "is sealed: give keys=, the keyring that did it")
        try:
            event = loads(self.keys.open(record.body, bound_to(key, LANE, record.id)) if self.keys else record.body)
            at = datetime.fromisoformat(event["at"])
            return AuditEvent(record.seq, at, event["actor"], event["action"], event["detail"])
        except (DecodeError, ValueError, TypeError, KeyError) as error:
            raise _broken(key, record.seq, f"cannot be read: {error}") from error


def _beginning(key: SessionKey) -> str:
    """Return the id of a trail's first event, which has no predecessor."""
    return sha256(bind("audit", key.user_id, key.session_id)).hexdigest()


def _head(record: Record) -> AuditHead:
    return AuditHead(record.seq, _digest(record.id, record.body))


def _digest(name: str, body: bytes) -> str:
    return sha256(bind(name) + body).hexdigest()


def _broken(key: SessionKey, seq: int, what: str) -> DecodeError:
    return DecodeError(f"event {seq} in the audit trail of {key} {what}")
