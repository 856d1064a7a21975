"""A program that waits for the run to end, however it ends, and then ends the servers it has left behind.

It is told on its standard input what to watch. The run ends when it says so (an exit, Ctrl-C), when the input
closes (SIGKILL), or when this process has another parent (SIGKILL, but a child of the run holds the other end).
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator

GRACE_SECONDS = 1.0
LOOK_SECONDS = 0.5


def main(run: int) -> None:
    """Watch until the run with this process id has ended, then clean up after it."""
    groups: set[int] = set()
    directories: set[str] = set()
    for line in lines(run):
        what, _, value = line.partition(" ")
        if what == "directory":
            directories.add(value)
        elif what == "watch":
            groups.add(int(value))
        elif what == "forget":
            groups.discard(int(value))
        else:
            break
    alive = tell(groups, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = tell(alive, 0)
    tell(alive, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def lines(run: int) -> Iterator[str]:
    """Yield what the run says, until it is over."""
    rest = b""
    while os.getppid() == run:
        if not select.select([0], [], [], LOOK_SECONDS)[0]:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()


def tell(groups: set[int], number: int) -> set[int]:
    """Send a signal to each process group, and return those that are there."""
    there = set()
    for group in groups:
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            continue
        there.add(group)
    return there


if __name__ == "__main__":
    main(int(sys.argv[1]))
