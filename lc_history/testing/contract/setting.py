"""Where the contract runs: what a store's tests give, and what every test gets through either door."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import wraps
from inspect import Parameter, iscoroutinefunction, signature
from types import FunctionType
from typing import Any, ClassVar, Protocol, Self, cast
from uuid import uuid4

import pytest
from typing_extensions import override

from lc_history.bridge import drive
from lc_history.model import MESSAGES, Lane, SessionKey
from lc_history.store import Store
from lc_history.testing.races import Colour, StoreOpener

Door = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end: driven, or on an event loop that lasts as long as the test."""


class SideDoor(Protocol):
    """Looks beneath a store, with a connection of its own, so that tests see past the code under test."""

    def raw_records(self, key: SessionKey) -> list[bytes]:
        """Return every stored value of a session in any lane (bodies, ids, description), as it lies there."""

    def corrupt(self, key: SessionKey, seq: int, *, lane: Lane = MESSAGES) -> None:
        """Damage what is stored of one record, as a bad disk or a bad program would."""


class Setting:
    """What a store's test class gives, and what every ``async def test_`` of it gets.

    A subclass gives the fixture `open_store`, and, to be looked at more closely, `side_door`. Its own
    ``async def test_`` methods run through both doors as well.
    """

    doors: ClassVar[tuple[Colour, ...]] = ("blocking", "async")
    """The doors of this store, where it has only one client."""
    writers: ClassVar[int] = 16
    """How many threads or tasks race each other."""
    processes: ClassVar[int] = 8
    """How many processes race each other; 0 for a store that lives in one."""
    turns: ClassVar[int] = 5
    """How many turns each of them writes."""
    attempts: ClassVar[int] = 1
    """How often a writer tries a turn, where the store gives up under contention by design."""
    kills: ClassVar[int] = 3
    """How many processes are killed while they append."""
    ttl: ClassVar[timedelta] = timedelta(milliseconds=250)
    """A life short enough to wait for, and long enough to write one turn in."""
    many_records: ClassVar[int] = 3000
    """How many records of 1 KB a long session has."""
    large_body_bytes: ClassVar[int] = 8 * 1024 * 1024
    """A body that every store must hold."""
    examples: ClassVar[int] = 15
    """How many random histories are compared with the model."""
    xfails: ClassVar[Mapping[str, str]] = {}
    """The tests that this store is known to fail, and why; they must fail."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, test in list(vars(cls).items()):
            if name.startswith("test_") and any(hasattr(parent, name) for parent in cls.__mro__[1:]):
                raise TypeError(f"{cls.__name__} overrides {name} of the contract: give the reason in xfails instead")
            if name.startswith("test_") and iscoroutinefunction(test):
                setattr(cls, name, _through_the_door(test))

    @pytest.fixture
    def open_store(self) -> StoreOpener:
        """Return a picklable callable that opens a new store object, always on the same data.

        The data is migrated and belongs to this class or this test: a key prefix, schema, collection or table. For
        the class, put ``@pytest.fixture(scope="class")`` over ``@classmethod``.
        """
        raise NotImplementedError(f"{type(self).__name__} must give the fixture open_store")

    @pytest.fixture
    def side_door(self) -> SideDoor:
        """Return a look beneath the store."""
        pytest.skip("this store's tests give no side door")

    @pytest.fixture(params=["blocking", "async"])
    def colour(self, request: pytest.FixtureRequest) -> Colour:
        """Return which door the test goes through."""
        colour: Colour = request.param
        if colour not in self.doors:
            pytest.skip(f"this store has no {colour} door")
        return colour

    @pytest.fixture
    def door(self, colour: Colour) -> Iterator[Door]:
        """Run coroutines through the door of this test."""
        if colour == "blocking":
            yield drive
        else:
            with asyncio.Runner() as runner:
                yield runner.run

    @pytest.fixture
    def another(self, open_store: StoreOpener, door: Door) -> Iterator[StoreOpener]:
        """Return what opens one more store on the same data, as another process would; closed with the test."""
        opened: list[Store] = []

        def open_another() -> Store:
            opened.append(open_store())
            return opened[-1]

        yield open_another
        for store in opened:
            door(store.close())

    @pytest.fixture
    def store(self, another: StoreOpener) -> Store:
        """Return the store under test."""
        return another()

    @pytest.fixture
    def user(self) -> str:
        """Return a user whom no other test has seen."""
        return f"user-{uuid4().hex}"

    @pytest.fixture
    def key(self, user: str) -> SessionKey:
        """Return a session that no other test has seen."""
        return SessionKey(user, "s1")

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch, store: Store) -> Clock:
        """Return the client's clock, to freeze and to turn; a store that asks its server's does not notice."""
        clock = Clock()
        monkeypatch.setattr(time, "time", clock.time)
        monkeypatch.setattr(time, "time_ns", lambda: int(clock.time() * 1_000_000_000))
        for name, module in list(sys.modules.items()):
            ours = name.startswith("lc_history.") or name == type(store).__module__
            if ours and vars(module).get("datetime") is datetime:
                monkeypatch.setattr(module, "datetime", clock.datetime)
        return clock

    @pytest.fixture(autouse=True)
    def _known_failure(self, request: pytest.FixtureRequest) -> None:
        reason = self.xfails.get(getattr(request.node, "originalname", request.node.name))
        if reason:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


class Clock:
    """A clock that can be stopped and set back."""

    def __init__(self) -> None:
        self.moment = time.time()
        clock = self

        class Datetime(datetime):
            @classmethod
            @override
            def now(cls, tz: tzinfo | None = None) -> Self:
                return cast("Self", datetime.fromtimestamp(clock.moment, tz or UTC))

        self.datetime = Datetime

    def time(self) -> float:
        """Return the seconds since 1970, as far as this clock knows."""
        return self.moment

    def turn(self, by: timedelta) -> None:
        """Set the clock forward or back."""
        self.moment += by.total_seconds()


def _through_the_door(test: FunctionType) -> Callable[..., None]:
    """Return a test for pytest to call, which runs the coroutine test through the door of its colour."""
    wanted = signature(test)

    @wraps(test)
    def run(self: Setting, door: Door, **fixtures: Any) -> None:
        door(test(self, **fixtures))

    parameters = [*wanted.parameters.values(), Parameter("door", Parameter.POSITIONAL_OR_KEYWORD)]
    run.__signature__ = wanted.replace(parameters=parameters)  # type: ignore[attr-defined]  # pytest reads it
    return run
