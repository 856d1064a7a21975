"""The only module that knows blocking from async.

Every operation of the library is written once, as ``async def``. The async door awaits it. The blocking door
drives it: with blocking clients nothing in it ever waits, so one ``send(None)`` runs it to its end. No event
loop, no thread, no generated code.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing, asynccontextmanager, closing
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

from lc_history.errors import ColourError

P = ParamSpec("P")
T = TypeVar("T")
B = TypeVar("B")
W = TypeVar("W")

logger = logging.getLogger(__name__)

Lock = threading.Lock
"""For state that lives in this process; what lives in a server is guarded there."""

_blocking: ContextVar[bool] = ContextVar("lc_history_blocking", default=False)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end now, or raise `ColourError` because it would have to wait."""
    token = _blocking.set(True)
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        _blocking.reset(token)
    coroutine.close()
    name = getattr(coroutine, "__qualname__", coroutine)
    message = f"{name} would have to wait: await its async door, or give a blocking client"
    raise ColourError(message)


def door(operation: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the blocking door of an async method: same signature, same docstring, driven.

    It calls the method by name, so a subclass overrides the async one and both doors have changed.
    """
    name = operation.__name__

    @wraps(operation)
    def blocking(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return cast("T", drive(getattr(self, name)(*args, **kwargs)))

    # A name such as "alast" becomes "last", so that tracebacks and help() show the door that was used.
    blocking.__name__ = name.removeprefix("a")
    blocking.__qualname__ = operation.__qualname__.removesuffix(name) + blocking.__name__
    return blocking


def drive_each(items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Yield from an async generator by driving it; closed early, it closes that one."""

    async def step() -> T:
        return await anext(items)

    async def close() -> None:
        await items.aclose()

    try:
        while True:
            try:
                item = drive(step())
            except StopAsyncIteration:
                return
            yield item
    finally:
        drive(close())


def is_blocking() -> bool:
    """Tell whether the blocking door is the one in use."""
    return _blocking.get()


async def settle(value: Awaitable[T] | T) -> T:
    """Return a driver's answer, awaited unless a blocking client has already given it."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def entered(manager: AbstractContextManager[T] | AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter a context manager of either kind."""
    if isinstance(manager, AbstractAsyncContextManager):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


async def collect(items: Iterable[T] | AsyncIterable[T]) -> list[T]:
    """Gather an iterator of either kind into a list."""
    if isinstance(items, AsyncIterable):
        return [item async for item in items]
    return list(items)


async def either(blocking: Callable[[], T], waiting: Callable[[], Awaitable[T]]) -> T:
    """Call somebody else's code by the door in use; what it calls in turn chooses its own door."""
    if not _blocking.get():
        return await waiting()
    token = _blocking.set(False)
    try:
        return blocking()
    finally:
        _blocking.reset(token)


async def each(blocking: Callable[[], Iterator[T]], waiting: Callable[[], AsyncIterator[T]]) -> AsyncGenerator[T, None]:
    """Yield from somebody else's generator by the door in use; closed early, it closes that one."""
    if not _blocking.get():
        async with aclosing(cast("AsyncGenerator[T, None]", waiting())) as items:
            async for item in items:
                yield item
        return
    with closing(cast("Generator[T, None, None]", await either(blocking, _never))) as steps:
        end = object()
        while (step := await either(lambda: next(steps, end), _never)) is not end:
            yield cast("T", step)


async def _never() -> Any:
    raise AssertionError  # only the blocking door gets here


async def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end even when this task is cancelled meanwhile; then the cancellation goes on."""
    if _blocking.get():
        return await coroutine
    task = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def breathe() -> None:
    """Let other tasks of the event loop run; nothing on the blocking door."""
    if not _blocking.get():
        await asyncio.sleep(0)


async def pause(seconds: float) -> None:
    """Wait, without holding up the event loop on the async door."""
    if _blocking.get():
        time.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


class Clients(Generic[B, W]):
    """The blocking and the waiting client of one driver; calling it gives the one for the door in use.

    Each is a callable that makes the client when it is first needed, or None where there is none. A waiting
    client belongs to the event loop that uses it, so each loop gets its own: ``asyncio.run`` twice just works.
    """

    def __init__(self, blocking: Callable[[], B] | None, waiting: Callable[[], W] | None) -> None:
        self._make_blocking, self._make_waiting = blocking, waiting
        self._blocking: B | None = None
        self._waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, W] = WeakKeyDictionary()
        self._making = threading.Lock()

    def __call__(self) -> B | W:
        """Return the client for the door in use; raise `ColourError` where there is none."""
        make: Callable[[], B] | Callable[[], W] | None
        make = self._make_blocking if _blocking.get() else self._make_waiting
        if make is None:
            have, want = ("an async", "a blocking") if _blocking.get() else ("a blocking", "an async")
            message = f"this store was given {have} client only: use that door, or give {want} client as well"
            raise ColourError(message)
        return self._one_blocking() if _blocking.get() else self._one_waiting()

    def _one_blocking(self) -> B:
        client = self._blocking
        if client is None and self._make_blocking is not None:
            with self._making:
                client = self._blocking = self._make_blocking() if self._blocking is None else self._blocking
        assert client is not None  # noqa: S101 - __call__ has checked that it can be made
        return client

    def _one_waiting(self) -> W:
        loop = asyncio.get_running_loop()
        client = self._waiting.get(loop)
        if client is None and self._make_waiting is not None:
            client = self._waiting[loop] = self._make_waiting()
        assert client is not None  # noqa: S101 - __call__ has checked that it can be made
        return client

    def made(self) -> list[B | W]:
        """Return the clients that the door in use can close, and forget them: a later call makes new ones."""
        with self._making:
            blocking, self._blocking = self._blocking, None
        mine = None if _blocking.get() else self._waiting.pop(asyncio.get_running_loop(), None)
        return [client for client in (mine, blocking) if client is not None]


class Threads:
    """A bounded pool of threads for a driver that only blocks; the blocking door calls it directly."""

    def __init__(self, count: int, *, name: str) -> None:
        self._make = partial(ThreadPoolExecutor, count, thread_name_prefix=name)
        self._pool = self._make()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns: called here, or in the pool while the event loop goes on."""
        if _blocking.get():
            return function(*args, **kwargs)
        return await asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Let the running calls end and the threads go; a later call starts new ones."""
        done, self._pool = self._pool, self._make()
        done.shutdown(wait=False)


class Pulse:
    """Repeats an operation in a thread of its own, also while the event loop or the main thread is busy.

    It uses blocking clients; where there are none, it asks the event loop that was running when it began.
    """

    def __init__(self, operation: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        self._operation, self._name = operation, name
        self._lock = threading.Lock()
        self._seconds = float("inf")
        self._thread: threading.Thread | None = None
        self._enough = threading.Event()

    def every(self, seconds: float) -> None:
        """Begin to repeat, or go on at least this often."""
        with self._lock:
            if seconds >= self._seconds and self._thread is not None and self._thread.is_alive():
                return
            self._enough.set()
            self._enough, self._seconds = threading.Event(), min(seconds, self._seconds)
            loop = None if _blocking.get() else asyncio.get_running_loop()
            beat = threading.Thread(
                target=self._repeat, args=(self._enough, self._seconds, loop), name=self._name, daemon=True
            )
            beat.start()
            self._thread = beat

    def rest(self) -> None:
        """Repeat no more, until `every` is called again."""
        with self._lock:
            self._enough.set()
            self._thread, self._seconds = None, float("inf")

    def _repeat(self, enough: threading.Event, seconds: float, loop: asyncio.AbstractEventLoop | None) -> None:
        while not enough.wait(seconds):
            try:
                drive(self._operation())
            except ColourError:
                if loop is not None and not loop.is_closed():
                    asyncio.run_coroutine_threadsafe(self._operation(), loop)
            except Exception:  # the next beat tries again; what stays undone shows to its owner
                logger.warning("%s: one beat failed", self._name, exc_info=True)


class Places:
    """At most so many tasks of one event loop at a time, the others wait; the blocking door goes straight in."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold one place."""
        if _blocking.get():
            yield
            return
        loop = asyncio.get_running_loop()
        async with self._free.setdefault(loop, asyncio.Semaphore(self._count)):
            yield
