"""What waits on behalf of a driver: its clients of both colours, its threads, its heartbeat."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from lc_history.bridge.doors import blocking_door, drive
from lc_history.errors import ColourError

P = ParamSpec("P")
T = TypeVar("T")
B = TypeVar("B")
W = TypeVar("W")

logger = logging.getLogger("lc_history")

Lock = threading.Lock
"""For state that lives in this process; what lives in a server is guarded there."""


class Clients(Generic[B, W]):
    """The blocking and the waiting client of one driver; calling it gives the one for the door in use.

    Each is a callable that makes the client when it is first needed, or None where there is none. A waiting
    client belongs to the event loop that uses it, so each loop gets its own: ``asyncio.run`` twice just works.
    at_loop_end: closes a waiting client that nobody has closed when its loop cancels what is left, as ``asyncio.run``
    does at its end.
    """

    def __init__(
        self,
        blocking: Callable[[], B] | None,
        waiting: Callable[[], W] | None,
        *,
        at_loop_end: Callable[[W], Awaitable[None]] | None = None,
    ) -> None:
        self._make_blocking, self._make_waiting, self._at_loop_end = blocking, waiting, at_loop_end
        self._blocking: B | None = None
        self._waiting: WeakKeyDictionary[asyncio.AbstractEventLoop, W] = WeakKeyDictionary()
        self._ends: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()
        self._making = threading.Lock()

    def __call__(self) -> B | W:
        """Return the client for the door in use; raise `ColourError` where there is none."""
        make: Callable[[], B] | Callable[[], W] | None
        make = self._make_blocking if blocking_door.get() else self._make_waiting
        if make is None:
            have, want = ("an async", "a blocking") if blocking_door.get() else ("a blocking", "an async")
            message = f"this store was given {have} client only: use that door, or give {want} client as well"
            raise ColourError(message)
        return self._one_blocking() if blocking_door.get() else self._one_waiting()

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
            for gone in [other for other in self._waiting if other.is_closed()]:
                del self._waiting[gone]  # a client may know its loop, and keep it here for ever
            client = self._waiting[loop] = self._make_waiting()
            if self._at_loop_end is not None:
                self._ends[loop] = loop.create_task(self._until_cancelled(client, self._at_loop_end))
        assert client is not None  # noqa: S101 - __call__ has checked that it can be made
        return client

    async def _until_cancelled(self, client: W, close: Callable[[W], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_future()
        finally:
            if self._waiting.get(loop) is client:  # not closed by its user; whoever comes now gets a new one
                del self._waiting[loop]
                await close(client)

    def made(self) -> list[B | W]:
        """Return the clients that the door in use can close, and forget them: a later call makes new ones."""
        with self._making:
            blocking, self._blocking = self._blocking, None
        mine = None if blocking_door.get() else self._waiting.pop(asyncio.get_running_loop(), None)
        if mine is not None and (end := self._ends.pop(asyncio.get_running_loop(), None)) is not None:
            end.cancel()
        return [client for client in (mine, blocking) if client is not None]


class Threads:
    """A bounded pool of threads for a driver that only blocks; the blocking door calls it directly."""

    def __init__(self, count: int, *, name: str) -> None:
        self._make = partial(ThreadPoolExecutor, count, thread_name_prefix=name)
        self._begin()

    def _begin(self) -> None:
        self._process, self._pool = os.getpid(), self._make()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns: called here, or in the pool while the event loop goes on."""
        if blocking_door.get():
            return function(*args, **kwargs)
        if self._process != os.getpid():  # a forked process has none of its parent's threads
            self._begin()
        return await asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Let the running calls end and the threads go; a later call starts new ones."""
        done = self._pool
        self._begin()
        done.shutdown(wait=False)


class Pulse:
    """Repeats an operation in a thread of its own, also while the event loop or the main thread is busy.

    It uses blocking clients; where there are none, it asks the event loop that was running when it began.
    """

    def __init__(self, operation: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        self._operation, self._name = operation, name
        self._lock = threading.Lock()
        self._seconds = float("inf")
        self._resting = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._enough = threading.Event()

    def every(self, seconds: float) -> None:
        """Begin to repeat, or go on at least this often."""
        with self._lock:
            self._resting = False
            self._loop = None if blocking_door.get() else asyncio.get_running_loop()
            if seconds >= self._seconds and self._thread is not None and self._thread.is_alive():
                return
            self._enough.set()
            self._enough, self._seconds = threading.Event(), min(seconds, self._seconds)
            beat = threading.Thread(
                target=self._repeat, args=(self._enough, self._seconds), name=self._name, daemon=True
            )
            beat.start()
            self._thread = beat

    def rest(self) -> None:
        """Repeat no more, until `every` is called again: its thread, which costs more than a beat, waits for that."""
        self._resting = True

    def _repeat(self, enough: threading.Event, seconds: float) -> None:
        while not enough.wait(seconds):
            with self._lock:
                if self._resting:
                    if self._thread is threading.current_thread():
                        self._thread, self._seconds = None, float("inf")
                    return
                loop = self._loop
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
        if blocking_door.get():
            yield
            return
        loop = asyncio.get_running_loop()
        async with self._free.setdefault(loop, asyncio.Semaphore(self._count)):
            yield


class Slots:
    """At most so many at a time, of all threads or of the tasks of one event loop; the others wait for a while."""

    def __init__(self, count: int) -> None:
        self._free: SimpleQueue[None] | None = SimpleQueue() if blocking_door.get() else None
        self._tasks = asyncio.Semaphore(count)
        for _ in range(count if self._free is not None else 0):
            self.free()

    async def take(self, seconds: float) -> bool:
        """Take a slot, and return whether one was free in time."""
        if self._free is not None:  # a queue of slots: a tenth of what Python's own semaphore takes
            try:
                self._free.get(timeout=seconds)
            except Empty:
                return False
            return True
        if self._tasks.locked():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await self._tasks.acquire()
            return False
        return await self._tasks.acquire()

    def free(self) -> None:
        """Give the slot to the next one."""
        if self._free is not None:
            self._free.put(None)
        else:
            self._tasks.release()
