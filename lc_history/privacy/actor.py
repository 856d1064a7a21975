"""Who acts: a name that goes with a task, and with what it starts, into the audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

_actor: ContextVar[str | None] = ContextVar("lc_history_actor", default=None)


@contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Name who acts within the block: here, in the tasks that it starts and in the threads of LangChain and LangGraph.

    A thread that you start yourself begins with nobody's name, unless it runs in ``contextvars.copy_context()``.

    >>> with acting_as("support/kim"):
    ...     pass
    """
    if not isinstance(actor, str) or not actor:
        raise ValueError(f'an actor is a name such as "support/kim", not {actor!r}')
    with still_acting_as(actor):
        yield


@contextmanager
def still_acting_as(actor: str | None) -> Iterator[None]:
    """Go on under the name, or none, that `acting` has told earlier."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        with suppress(ValueError):  # a generator that ends in another context, where nothing was named
            _actor.reset(token)


def acting() -> str | None:
    """Return who acts here, as `acting_as` has it."""
    return _actor.get()
