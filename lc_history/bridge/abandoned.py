"""What must not be done within a garbage collection, done right after it in a thread of its own.

The collector may come at any moment, also while its thread holds a lock: a store's, a driver's, logging's. To close
a stream that it has found is to append to a store, which would wait for that lock for ever. So what it finds is only
noted, which takes no lock; what is dropped at any other moment is closed there and then.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
from _thread import allocate_lock, get_ident, start_new_thread
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

logger = logging.getLogger("lc_history")


class _Collection:
    """What the garbage collector has found, and the thread that it is at work in."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.forget()

    def forget(self) -> None:
        """Begin with nothing put off, as a forked process does: what was is its parent's to do."""
        self._found: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._one_at_a_time = allocate_lock()

    def watch(self, phase: str, _: dict[str, Any]) -> None:
        """Note where a collection begins and ends; then have done what was put off.

        By one new thread, however much was found, started without a look at the others, whose list may be locked.
        """
        self.thread = get_ident() if phase == "start" else None
        if self.thread is None and not self._found.empty():
            start_new_thread(self.finish, ())

    def put_off(self, work: Callable[[], None]) -> None:
        """Have it done when the collection is over."""
        self._found.put(work)

    def finish(self) -> None:
        """Do what was put off, in the order in which it was found."""
        with self._one_at_a_time:
            while True:
                try:
                    work = self._found.get_nowait()
                except Empty:
                    return
                try:
                    work()
                except Exception:
                    logger.exception("what the garbage collector found could not be closed")

    def end(self) -> None:
        """Finish before the program ends; what is collected from here on is closed at once, for nothing is locked."""
        gc.callbacks.remove(self.watch)
        self.finish()


def outside_collection(work: Callable[[], None]) -> None:
    """Do it now, or right after the garbage collection that is under way in this thread."""
    if _collection.thread == get_ident():
        _collection.put_off(work)
    else:
        work()


_collection = _Collection()
gc.callbacks.append(_collection.watch)
atexit.register(_collection.end)
if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=_collection.forget)
