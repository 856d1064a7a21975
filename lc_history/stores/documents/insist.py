"""How often a document store tries again: bounded, with growing pauses, and only what is safe to repeat."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Final, TypeVar

from lc_history.bridge import pause
from lc_history.errors import ConflictError, StoreError, StoreUnavailableError

T = TypeVar("T")

ATTEMPTS: Final = 25
"""How often a change is tried that others keep getting ahead of: some ten seconds in all."""
PATIENCE: Final = 3
"""How often a call is made that gets no answer."""


class AgainError(Exception):
    """What an attempt raises when it must be made again, from the beginning."""


class Verdict(Enum):
    """What an error means."""

    RIVAL = auto()  # somebody else has written between our read and our write
    SILENT = auto()  # no answer, or not now
    REFUSED = auto()  # asking again will not help
    FOREIGN = auto()  # not the driver's


async def insist(
    server: str, whose: object, attempt: Callable[[int], Awaitable[T]], *, verdict: Callable[[Exception], Verdict]
) -> T:
    """Return what an attempt returns, given its number from 0; every attempt must be safe to repeat."""
    silent = 0
    for number in range(ATTEMPTS):
        try:
            return await attempt(number)
        except AgainError as error:
            rival: Exception = error
        except Exception as error:
            match verdict(error):
                case Verdict.FOREIGN:
                    raise
                case Verdict.REFUSED:
                    raise StoreError(f"{server} refused what was asked for {whose}: {error}") from error
                case Verdict.SILENT:
                    silent += 1
            if silent == PATIENCE:
                message = f"{server} did not answer for {whose}: try again later, or check its address ({error})"
                raise StoreUnavailableError(message) from error
            rival = error
        await pause(random.uniform(0, min(1.0, 0.01 * 2**number)))  # noqa: S311 - so that rivals get out of step
    message = f"{whose} is being changed by too many at once; nothing was written: try again later"
    raise ConflictError(message) from rival
