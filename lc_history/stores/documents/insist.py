"""How often a document store tries again: bounded, with growing pauses, and only what is safe to repeat."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Final, TypeVar

from lc_history.bridge import pause
from lc_history.errors import ConflictError, StoreError, StoreUnavailableError

T = TypeVar("T")

ATTEMPTS: Final = 25
"""How often a change is tried that others keep getting ahead of: some ten seconds in all."""
BUSY_ATTEMPTS: Final = 10
"""How often a call is made that the server has no capacity for: some seconds in all, as long as it takes to grow."""
PATIENCE: Final = 3
"""How often a call is made that gets no answer."""


class AgainError(Exception):
    """What an attempt raises when it must be made again, from the beginning."""


class Verdict(Enum):
    """What an error means."""

    RIVAL = auto()  # somebody else has written between our read and our write
    SILENT = auto()  # no answer
    BUSY = auto()  # not now: it has no capacity for it
    REFUSED = auto()  # asking again will not help
    FOREIGN = auto()  # not the driver's


_UNANSWERED: Final = {
    Verdict.SILENT: (PATIENCE, "{server} did not answer for {whose}: try again later, or check its address"),
    Verdict.BUSY: (BUSY_ATTEMPTS, "{whose} needs more than {server} has capacity for: try again later, or raise it"),
}


async def insist(
    server: str, whose: object, attempt: Callable[[int], Awaitable[T]], *, verdict: Callable[[Exception], Verdict]
) -> T:
    """Return what an attempt returns, given its number from 0; every attempt must be safe to repeat."""
    unanswered = Counter[Verdict]()
    for number in range(ATTEMPTS):
        try:
            return await attempt(number)
        except AgainError as error:
            rival: Exception = error
        except Exception as error:
            found = verdict(error)
            if found is Verdict.FOREIGN:
                raise
            if found is Verdict.REFUSED:
                raise StoreError(f"{server} refused what was asked for {whose}: {error}") from error
            unanswered[found] += 1
            times, words = _UNANSWERED.get(found, (ATTEMPTS + 1, ""))
            if unanswered[found] == times:
                raise StoreUnavailableError(f"{words.format(server=server, whose=whose)} ({error})") from error
            rival = error
        await pause(random.uniform(0, min(1.0, 0.01 * 2**number)))  # noqa: S311 - so that rivals get out of step
    message = f"{whose} is being changed by too many at once; nothing was written: try again later"
    raise ConflictError(message) from rival
