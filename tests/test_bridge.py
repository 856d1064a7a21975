"""The bridge: one body, two doors."""

from __future__ import annotations

import asyncio
import inspect
import pkgutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import Any

import pytest

import lc_history
from lc_history.bridge import (
    Clients,
    Places,
    Pulse,
    Threads,
    breathe,
    collect,
    complete,
    door,
    drive,
    drive_each,
    each,
    either,
    entered,
    is_blocking,
    pause,
    settle,
)
from lc_history.errors import ColourError


async def answer(value: Any = 42) -> Any:
    return value


class TestDrive:
    def test_returns_what_the_coroutine_returns(self):
        assert drive(answer()) == 42

    def test_raises_what_the_coroutine_raises(self):
        async def fail() -> None:
            raise KeyError("gone")

        with pytest.raises(KeyError, match="gone"):
            drive(fail())
        assert not is_blocking()

    def test_refuses_to_wait_and_says_who_would_have(self):
        cleaned = []

        async def waits() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.append(True)

        async def inside_a_loop() -> None:
            with pytest.raises(ColourError, match=r"waits would have to wait: await its async door"):
                drive(waits())

        asyncio.run(inside_a_loop())
        assert cleaned == [True], "what was begun is cleaned up"
        assert not is_blocking()

    def test_nothing_in_it_waits(self):
        async def work() -> bool:
            await breathe()
            await pause(0)
            assert await settle(1) == 1
            assert await settle(answer(2)) == 2
            return is_blocking()

        assert drive(work()) is True

    def test_each_thread_and_task_has_its_own_door(self):
        seen = {}

        async def work() -> None:
            with ThreadPoolExecutor(1) as pool:
                seen["other thread"] = pool.submit(is_blocking).result()
            seen["driven"] = is_blocking()

        async def main() -> None:
            other = asyncio.create_task(answer_door())
            drive(work())
            seen["loop"] = is_blocking()
            seen["task"] = await other

        async def answer_door() -> bool:
            return is_blocking()

        asyncio.run(main())
        assert seen == {"other thread": False, "driven": True, "loop": False, "task": False}


class Speaker:
    """Has one body and two doors."""

    async def agreet(self, name: str, /, *, times: int = 1) -> str:
        """Greet someone."""
        return " ".join([await self.word()] * times) + f" {name}"

    async def word(self) -> str:
        return "hello"

    greet = door(agreet)


class Whisperer(Speaker):
    async def agreet(self, name: str, /, *, times: int = 1) -> str:
        return (await super().agreet(name, times=times)).lower() + "..."


class TestDoor:
    def test_both_doors_do_the_same(self):
        assert Speaker().greet("Ann", times=2) == asyncio.run(Speaker().agreet("Ann", times=2)) == "hello hello Ann"

    def test_it_shows_its_own_name_and_the_others_words(self):
        assert Speaker.greet.__name__ == "greet"
        assert Speaker.greet.__qualname__ == "Speaker.greet"
        assert Speaker.greet.__doc__ == "Greet someone."
        assert inspect.signature(Speaker.greet) == inspect.signature(Speaker.agreet)
        assert not inspect.iscoroutinefunction(Speaker.greet)

    def test_overriding_one_overrides_both(self):
        assert Whisperer().greet("Ann") == "hello ann..."


def _pairs() -> list[Any]:
    """Return every method of the library that has two doors."""
    found = []
    for module in pkgutil.walk_packages(lc_history.__path__, "lc_history."):
        if module.name.endswith("__main__"):
            continue
        for name, kind in vars(import_module(module.name)).items():
            if not inspect.isclass(kind) or kind.__module__ != module.name:
                continue
            for verb, method in vars(kind).items():
                other = vars(kind).get(f"a{verb}")
                if inspect.isfunction(method) and inspect.isfunction(other):
                    found.append(pytest.param(method, other, id=f"{name}.{verb}"))
    return found


class TestParity:
    """A method by two doors is one method."""

    @pytest.mark.parametrize(("blocking", "waiting"), _pairs())
    def test_same_signature_and_docstring(self, blocking, waiting):
        assert blocking.__doc__ == waiting.__doc__
        ours, theirs = inspect.signature(blocking).parameters, inspect.signature(waiting).parameters
        assert list(ours) == list(theirs)
        for name in ours:
            assert (ours[name].kind, ours[name].default) == (theirs[name].kind, theirs[name].default), name

    def test_there_are_some(self):
        assert len(_pairs()) > 3


class TestGenerators:
    async def _count(self, closed: list[bool]) -> Any:
        try:
            for number in range(3):
                yield number
        finally:
            closed.append(is_blocking())

    def test_driven_to_the_end(self):
        closed: list[bool] = []
        assert list(drive_each(self._count(closed))) == [0, 1, 2]
        assert closed == [True]

    def test_closed_early(self):
        closed: list[bool] = []
        items = drive_each(self._count(closed))
        assert next(items) == 0
        items.close()
        assert closed == [True]

    @pytest.mark.parametrize("colour", ["blocking", "async"])
    def test_somebody_elses_generator(self, colour):
        doors = []

        def blocking() -> Iterator[int]:
            doors.append(is_blocking())
            yield 1

        async def waiting() -> Any:
            doors.append(is_blocking())
            yield 2

        async def work() -> list[int]:
            return [item async for item in each(blocking, waiting)]

        assert (drive(work()) if colour == "blocking" else asyncio.run(work())) == (
            [1] if colour == "blocking" else [2]
        )
        assert doors == [False], "somebody else's code chooses its own door"

    def test_somebody_elses_call(self):
        async def work() -> tuple[bool, bool]:
            return await either(is_blocking, answer), is_blocking()

        assert drive(work()) == (False, True)
        assert asyncio.run(work()) == (42, False)

    def test_collected_from_either(self):
        closed: list[bool] = []

        async def work() -> list[list[int]]:
            return [await collect(range(2)), await collect(self._count(closed))]

        assert asyncio.run(work()) == [[0, 1], [0, 1, 2]]
        assert drive(work()) == [[0, 1], [0, 1, 2]]


def test_context_managers_of_either_kind():
    log = []

    @contextmanager
    def blocking() -> Iterator[str]:
        try:
            yield "b"
        finally:
            log.append("b left")

    @asynccontextmanager
    async def waiting() -> Any:
        try:
            yield "a"
        finally:
            log.append("a left")

    async def work(manager: Any) -> str:
        async with entered(manager) as value:
            return value

    assert drive(work(blocking())) == "b"
    assert asyncio.run(work(waiting())) == "a"
    assert log == ["b left", "a left"]


def test_a_cancelled_task_completes_what_must_not_be_cut_short():
    done = []

    async def save() -> None:
        await asyncio.sleep(0.02)
        done.append(True)

    async def main() -> None:
        task = asyncio.create_task(complete(save()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert done == [True]


class TestClients:
    async def _use(self, clients: Clients[Any, Any]) -> Any:
        return clients()

    def test_each_door_gets_its_own_made_once(self):
        made = []
        clients = Clients(lambda: made.append("b") or object(), lambda: made.append("a") or object())
        assert made == [], "nothing is made before it is needed"
        blocking = drive(self._use(clients))
        assert drive(self._use(clients)) is blocking

        async def twice() -> Any:
            assert await self._use(clients) is await self._use(clients)
            return await self._use(clients)

        assert asyncio.run(twice()) is not blocking
        assert made == ["b", "a"]

    def test_each_event_loop_gets_its_own(self):
        clients: Clients[Any, Any] = Clients(None, object)
        first, second = asyncio.run(self._use(clients)), asyncio.run(self._use(clients))
        assert first is not second

    def test_threads_share_one_blocking_client(self):
        together, made = threading.Barrier(8), []
        clients: Clients[Any, Any] = Clients(lambda: made.append(pause) or object(), None)

        def use(_: int) -> Any:
            together.wait()
            return drive(self._use(clients))

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(use, range(8)))) == 1
        assert len(made) == 1

    def test_the_missing_one_is_named(self):
        with pytest.raises(ColourError, match="an async client only"):
            drive(self._use(Clients(None, object)))
        with pytest.raises(ColourError, match="a blocking client only"):
            asyncio.run(self._use(Clients(object, None)))

    def test_made_gives_those_to_close_and_forgets_them(self):
        clients: Clients[Any, Any] = Clients(object, object)
        assert clients.made() == [] if is_blocking() else True
        blocking = drive(self._use(clients))

        async def close() -> list[Any]:
            waiting = await self._use(clients)
            made = clients.made()
            assert made == [waiting, blocking]
            return clients.made()

        assert asyncio.run(close()) == []
        assert drive(self._use(clients)) is not blocking

    def test_what_nobody_closed_is_closed_with_its_loop(self):
        closed = []

        async def close(client):
            closed.append(client)

        clients: Clients[Any, Any] = Clients(None, object, at_loop_end=close)

        async def leave_open() -> Any:
            return await self._use(clients)

        async def close_first() -> Any:
            await self._use(clients)
            clients.made()

        assert closed == [asyncio.run(leave_open())]
        asyncio.run(close_first())
        assert len(closed) == 1


class TestThreads:
    def test_the_blocking_door_stays_in_its_thread(self):
        assert drive(Threads(1, name="kit").run(threading.get_ident)) == threading.get_ident()

    def test_the_event_loop_goes_on(self):
        threads = Threads(1, name="kit")
        go = threading.Event()

        async def main() -> str:
            waiting = asyncio.create_task(threads.run(lambda: go.wait(5) and threading.current_thread().name))
            await asyncio.sleep(0)
            go.set()  # only a loop that goes on gets here
            return await waiting

        assert asyncio.run(main()).startswith("kit")
        threads.close()

    def test_usable_after_close(self):
        threads = Threads(1, name="kit")

        async def main() -> list[int]:
            first = await threads.run(threading.get_ident)
            threads.close()
            return [first, await threads.run(threading.get_ident)]

        assert len(asyncio.run(main())) == 2
        threads.close()

    def test_what_is_raised_arrives(self):
        threads = Threads(1, name="kit")
        with pytest.raises(ZeroDivisionError):
            asyncio.run(threads.run(lambda: 1 // 0))
        threads.close()


def test_places_let_so_many_in():
    places, inside, most = Places(2), [0], [0]

    async def visit() -> None:
        async with places.taken():
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            await asyncio.sleep(0.001)
            inside[0] -= 1

    async def main() -> None:
        await asyncio.gather(*(visit() for _ in range(6)))

    asyncio.run(main())
    asyncio.run(main())  # another loop, another queue
    assert most == [2]


def test_a_pulse_beats_while_the_main_thread_is_busy():
    beaten, enough = [], threading.Event()

    async def beat() -> None:
        beaten.append(is_blocking())
        if len(beaten) == 1:
            raise RuntimeError("the first beat fails")
        enough.set()

    pulse = Pulse(beat, name="kit-pulse")
    drive(_every(pulse, 0.005))
    assert enough.wait(5)
    pulse.rest()
    assert beaten[:2] == [True, True]


async def _every(pulse: Pulse, seconds: float) -> None:
    pulse.every(seconds)
