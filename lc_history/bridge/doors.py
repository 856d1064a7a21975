"""The two doors of an operation that is written once, and the mark of which one is in use."""

from __future__ import annotations

import atexit
import logging
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import ContextVar
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast
from weakref import WeakSet

from lc_history.bridge.abandoned import outside_collection
from lc_history.errors import ColourError

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("lc_history")

_streams: WeakSet[Any] = WeakSet()
"""The generators that are being driven."""

blocking_door: ContextVar[bool] = ContextVar("lc_history_blocking_door", default=False)
"""Set while a coroutine is driven."""


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end now, or raise `ColourError` because it would have to wait."""
    token = blocking_door.set(True)
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        blocking_door.reset(token)
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
    """Yield from an async generator by driving it; closed early, or open when the program ends, it closes that one."""

    async def step() -> T:
        return await anext(items)

    _streams.add(items)
    try:
        while True:
            hooks = sys.get_asyncgen_hooks()
            sys.set_asyncgen_hooks(firstiter=None, finalizer=_close)
            try:
                item = drive(step())
            except StopAsyncIteration:
                return
            finally:
                sys.set_asyncgen_hooks(*hooks)
            yield item
    finally:
        _close(items)


def _close(items: AsyncGenerator[Any, Any]) -> None:
    """Close a generator by the blocking door, also where the garbage collector comes to it before its driver."""

    async def close() -> None:
        await items.aclose()

    outside_collection(lambda: drive(close()))


def _close_what_is_open() -> None:
    """Close the streams that nobody has, while the interpreter is whole: once it is taken down, drivers crash."""
    for items in list(_streams):
        if items.ag_running:  # another thread is reading it
            continue
        try:
            _close(items)
        except Exception:
            logger.exception("a stream that was left open could not be closed")


atexit.register(_close_what_is_open)


class Closing:
    """What is closed at the end of its ``with`` or ``async with`` block."""

    async def aclose(self) -> None:
        """Release the connections that this has opened itself; what it was given stays open."""
        raise NotImplementedError

    close = door(aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def is_blocking() -> bool:
    """Tell whether the blocking door is the one in use."""
    return blocking_door.get()
