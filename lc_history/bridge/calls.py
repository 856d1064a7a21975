"""Calls whose answer may have to be waited for: by the door in use."""

from __future__ import annotations

import asyncio
import inspect
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
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    aclosing,
    closing,
)
from contextvars import copy_context
from typing import Any, TypeVar, cast

from lc_history.bridge.doors import blocking_door

T = TypeVar("T")


async def settle(value: Awaitable[T] | T) -> T:
    """Return a driver's answer, awaited unless a blocking client has already given it."""
    return await value if inspect.isawaitable(value) else value


class entered(AbstractAsyncContextManager[T]):  # noqa: N801 - it is called as a function is
    """Enter a context manager of either kind."""

    __slots__ = ("_manager",)

    def __init__(self, manager: AbstractContextManager[T] | AbstractAsyncContextManager[T]) -> None:
        self._manager = manager

    async def __aenter__(self) -> T:
        manager = self._manager
        return await manager.__aenter__() if hasattr(manager, "__aenter__") else manager.__enter__()

    async def __aexit__(self, *failure: object) -> bool | None:
        manager = self._manager
        leave: Any = getattr(manager, "__aexit__", None) or manager.__exit__  # type: ignore[union-attr]
        return await settle(leave(*failure))


async def collect(items: Iterable[T] | AsyncIterable[T]) -> list[T]:
    """Gather an iterator of either kind into a list."""
    if isinstance(items, AsyncIterable):
        return [item async for item in items]
    return list(items)


async def either(blocking: Callable[[], T], waiting: Callable[[], Awaitable[T]]) -> T:
    """Call somebody else's code by the door in use; what it calls in turn chooses its own door."""
    if not blocking_door.get():
        return await waiting()
    token = blocking_door.set(False)
    try:
        return blocking()
    finally:
        blocking_door.reset(token)


async def within(seconds: float, blocking: Callable[[], T], waiting: Callable[[], Awaitable[T]]) -> T:
    """Call somebody else's code by the door in use, or raise `TimeoutError` when it takes longer.

    A blocking call that is late goes on in a thread of its own, where nobody hears of it.
    """
    if not blocking_door.get():
        return await asyncio.wait_for(waiting(), seconds)
    answer: Future[T] = Future()

    def call() -> None:
        try:
            answer.set_result(blocking())
        except BaseException as error:  # noqa: BLE001  it goes on where the answer is waited for
            answer.set_exception(error)

    context = copy_context()
    context.run(blocking_door.set, False)
    threading.Thread(target=context.run, args=(call,), name="lc-history-within", daemon=True).start()
    return answer.result(seconds)


async def each(blocking: Callable[[], Iterator[T]], waiting: Callable[[], AsyncIterator[T]]) -> AsyncGenerator[T, None]:
    """Yield from somebody else's generator by the door in use; closed early, it closes that one."""
    if not blocking_door.get():
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
    if blocking_door.get():
        return await coroutine
    task, cancelled = asyncio.ensure_future(coroutine), None
    while not task.done():
        try:
            # What fails is raised below, not here: thrown into an async generator that is being closed, it would
            # leave that one "already running" for ever (CPython 3.11).
            await asyncio.wait([task])
        except asyncio.CancelledError as error:  # however often it is said: the first one goes on below
            cancelled = cancelled or error
    if cancelled is None:
        return task.result()
    if not task.cancelled() and task.exception() is not None:
        cancelled.add_note(f"Besides, what had to be completed failed: {task.exception()}")
    raise cancelled


def run_async(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop of its own: for a program whose user's code may know the async door only."""
    return asyncio.run(coroutine)


async def breathe() -> None:
    """Let other tasks of the event loop run; nothing on the blocking door."""
    if not blocking_door.get():
        await asyncio.sleep(0)


async def pause(seconds: float) -> None:
    """Wait, without holding up the event loop on the async door."""
    if blocking_door.get():
        time.sleep(seconds)
    else:
        await asyncio.sleep(seconds)
