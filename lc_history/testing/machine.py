"""Random histories: whatever is done to a store, it answers as a dict in a few lines would."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from typing_extensions import override

from lc_history.errors import ConflictError
from lc_history.model import LANES, MESSAGES, Entry, Lane, SessionCopy, SessionKey
from lc_history.store import Store
from lc_history.testing.plain import PlainSession

T = TypeVar("T")

_NAMES = st.sampled_from(["s1", "s1", "s1", "s2"])  # what happens to one session matters most
_LANES = st.sampled_from(["messages", "messages", "audit"])
_TURNS = st.lists(st.sampled_from("abcdef"), max_size=4)
_BODIES = st.sampled_from([b"", b"one", b"two"])
_NUMBERS = st.integers(0, 7)


def check_random_histories(
    store: Store, run: Callable[[Coroutine[Any, Any, Any]], Any], *, examples: int, steps: int = 30
) -> None:
    """Do random things to a store through a door, and compare every answer with the model's."""
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # shrinking would run thousands of histories, on a real server
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(partial(_Machine, store, run), settings=profile)  # type: ignore[arg-type]  # any factory


class _Machine(RuleBasedStateMachine):
    def __init__(self, store: Store, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__()
        self.store, self.run, self.user = store, run, f"user-{uuid4().hex}"
        self.model = {"s1": PlainSession(), "s2": PlainSession()}
        self.copies: dict[str, list[tuple[SessionCopy, int]]] = {"s1": [], "s2": []}
        self.touched = "s1"

    def key(self, name: str) -> SessionKey:
        self.touched = name
        return SessionKey(self.user, name)

    def compare(self, wanted: Callable[[], T], coroutine: Coroutine[Any, Any, T]) -> None:
        """Check that both return the same, or that both refuse."""
        expected: T | type[ConflictError] = ConflictError
        with suppress(ConflictError):
            expected = wanted()
        answer: T | type[ConflictError] = ConflictError
        with suppress(ConflictError):
            answer = self.run(coroutine)
        assert answer == expected

    @rule(
        name=_NAMES,
        lane=_LANES,
        ids=_TURNS,
        body=_BODIES,
        expected=st.none() | _NUMBERS,
        since=st.none() | _NUMBERS,
        create=st.booleans(),
    )
    def append(
        self, name: str, lane: Lane, ids: list[str], body: bytes, expected: int | None, since: int | None, create: bool
    ) -> None:
        turn = [Entry(id_, body) for id_ in ids]

        async def appended() -> tuple[tuple[int, ...], tuple[bool, ...]]:
            answer = await self.store.append(
                self.key(name), turn, lane=lane, expected_seq=expected, not_erased_since=since, create=create
            )
            return answer.seqs, answer.new

        self.compare(lambda: self.model[name].append(lane, turn, expected, since, create=create), appended())

    @initialize(ids=_TURNS, aside=_TURNS)
    def begin(self, ids: list[str], aside: list[str]) -> None:
        self.append("s1", "messages", ids, b"one", None, None, True)
        self.append("s1", "audit", aside, b"one", None, None, True)

    @rule(name=_NAMES, lane=_LANES, ids=_TURNS, body=_BODIES)
    def append_plainly(self, name: str, lane: Lane, ids: list[str], body: bytes) -> None:
        self.append(name, lane, ids, body, None, None, True)

    @rule(name=_NAMES, ids=_TURNS, known=st.booleans())
    def append_what_was_awaited(self, name: str, ids: list[str], known: bool) -> None:
        session = self.model[name]
        seen = session.lanes[MESSAGES].last_seq if known else session.erased_seq
        self.append(name, MESSAGES, ids, b"two", session.lanes[MESSAGES].last_seq, seen, True)

    @rule(name=_NAMES, lane=_LANES, seq=_NUMBERS, body=_BODIES, expected=_BODIES)
    def replace(self, name: str, lane: Lane, seq: int, body: bytes, expected: bytes) -> None:
        records = self.model[name].lanes[lane].records

        def wanted() -> bool:
            if seq not in records or records[seq][1] != expected:
                return False
            records[seq] = (records[seq][0], body)
            self.model[name].changes += 1
            return True

        self.compare(wanted, self.store.replace(self.key(name), seq, body, expected=expected, lane=lane))

    @rule(name=_NAMES, lane=_LANES, through=_NUMBERS)
    def trim(self, name: str, lane: Lane, through: int) -> None:
        session = self.model[name]

        def wanted() -> int:
            gone = [seq for seq in session.lanes[lane].records if seq <= through]
            for seq in gone:
                del session.lanes[lane].records[seq]
            session.changes += bool(gone)
            return len(gone) if lane == MESSAGES else 0

        self.compare(wanted, self.store.delete(self.key(name), through=through, lane=lane))

    @rule(name=_NAMES)
    def erase(self, name: str) -> None:
        self.compare(lambda: self.model[name].empty("erased"), self.store.delete(self.key(name)))

    @rule(name=_NAMES, description=st.none() | _BODIES, archived=st.none() | st.booleans(), create=st.booleans())
    def describe(self, name: str, description: bytes | None, archived: bool | None, create: bool) -> None:
        session = self.model[name]

        def wanted() -> tuple[bytes, bool] | None:
            if create:
                session.begin()
            if session.state != "alive":
                return None
            if (description, archived) != (None, None):
                session.changes += 1
            session.description = session.description if description is None else description
            session.archived = session.archived if archived is None else archived
            return session.description, session.archived

        async def described() -> tuple[bytes, bool] | None:
            key = self.key(name)
            info = await self.store.describe(key, description=description, archived=archived, create=create)
            return (info.description, info.archived) if info else None

        self.compare(wanted, described())

    @rule(name=_NAMES)
    def copy(self, name: str) -> None:
        async def copied() -> SessionCopy | None:
            info = await self.store.describe(self.key(name))
            lanes = {lane: await self.store.read(self.key(name), lane=lane) for lane in LANES}
            return SessionCopy(info, lanes) if info else None

        copy = self.run(copied())
        assert (copy is not None) == (self.model[name].state == "alive")
        if copy is not None:
            self.copies[name].append((copy, self.model[name].changes))

    @rule(name=_NAMES, fresh=st.booleans())
    def move(self, name: str, fresh: bool) -> None:
        if fresh:
            self.copy(name)
        if not self.copies[name]:
            return
        copy, changes = self.copies[name][-1]
        session = self.model[name]

        def wanted() -> int:
            if session.state != "alive" or session.changes != changes:
                raise ConflictError
            return session.empty("moved")

        self.compare(wanted, self.store.delete(self.key(name), moved_version=copy.info.version))

    @rule(name=_NAMES, which=st.integers(0, 2), replacing=st.booleans())
    def load(self, name: str, which: int, replacing: bool) -> None:
        if which >= len(self.copies[name]):
            return
        copy, changes = self.copies[name][-1 - which]
        current = self.run(self.store.describe(self.key(name)))
        over_version = current.version if replacing and current else None

        async def loaded() -> None:
            await self.store.load(copy, over_version=over_version)

        self.compare(lambda: self.model[name].load(copy, changes, replacing=replacing), loaded())

    @rule(
        name=_NAMES,
        lane=_LANES,
        after=_NUMBERS,
        before=st.none() | _NUMBERS,
        first=st.none() | st.integers(1, 3),
        from_end=st.booleans(),
    )
    def read(self, name: str, lane: Lane, after: int, before: int | None, first: int | None, from_end: bool) -> None:
        model = self.model[name].lanes[lane]
        wanted = [seq for seq in model.records if seq > after and (before is None or seq < before)]
        limit = {"last" if from_end else "first": first}
        found = self.run(self.store.read(self.key(name), lane=lane, after=after, before=before, **limit))
        cut = wanted[-first:] if from_end and first else wanted[:first]
        assert [record.seq for record in found.records] == cut

    @invariant()
    def the_store_is_the_model(self) -> None:
        name, session = self.touched, self.model[self.touched]
        for lane in ("messages", "audit"):
            model, found = session.lanes[lane], self.run(self.store.read(self.key(name), lane=lane))
            assert {record.seq: (record.id, record.body) for record in found.records} == model.records
            assert found.last_seq == model.last_seq
        info = self.run(self.store.describe(self.key(name)))
        assert (info is not None) == (session.state == "alive")
        if info is not None:
            messages = session.lanes[MESSAGES]
            assert (info.count, info.last_seq) == (len(messages.records), messages.last_seq)
            assert (info.description, info.archived) == (session.description, session.archived)

    @override
    def teardown(self) -> None:
        alive = {name for name, session in self.model.items() if session.state == "alive"}
        for page in (self.run(self.store.sessions(self.user)), self.run(self.store.sessions(self.user, limit=1))):
            assert {info.key.session_id for info in page.items} <= alive
            assert page.cursor or {info.key.session_id for info in page.items} == alive
