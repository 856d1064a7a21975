"""How processes are ended: a group at once, and children that have left it, until none of them runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

ENDING_SECONDS: Final = 10
POLL_SECONDS: Final = 0.01


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the group that a process leads, if there is still one."""
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def children_of(pid: int) -> list[int]:
    """Return the children of a process; none where the system has no ``/proc`` to tell."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


def end(pids: Sequence[int]) -> None:
    """Kill processes that may be in no group of ours, and wait until none of them runs.

    PostgreSQL's backends lead sessions of their own and outlive their parent by a moment, in which they still answer.
    """
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + ENDING_SECONDS
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _runs(pid: int) -> bool:
    """Tell whether a process does anything still; one that was killed may wait for its parent to notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
