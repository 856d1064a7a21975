"""The bodies of messages in their table, each once per thread, and those that this process has seen lately."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from lc_history.agents.checkpoints.database import rows
from lc_history.agents.encoding.references import GROUP, split
from lc_history.agents.encoding.twins import Originals
from lc_history.agents.encoding.values import Values
from lc_history.bridge import Lock

Bodies = dict[bytes, tuple[str, bytes]]

KEEP: Final = """
INSERT INTO {schema}lch_bodies (thread_id, name, type, body) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
_OF_A_THREAD: Final = 1000
"""Bytes of a thread of which nothing is known yet."""
_REACH: Final = """
WITH RECURSIVE reached (name) AS (
    SELECT unnest(%(names)s::bytea[])
    UNION
    SELECT substring(g.body FROM at FOR 16) FROM reached
    JOIN lch_bodies g ON g.thread_id = %(thread)s AND g.name = reached.name AND g.type = 'references'
    CROSS JOIN LATERAL generate_series(1, length(g.body), 16) AS at)
SELECT b.name, b.type, b.body FROM reached JOIN lch_bodies b ON b.thread_id = %(thread)s AND b.name = reached.name
"""


class SeenBodies:
    """Bodies that this process knows to be stored, by thread, the least recently used threads forgotten first.

    That one is remembered here is never taken for granted: a write makes the server check.
    """

    def __init__(self, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._threads: OrderedDict[str, Bodies] = OrderedDict()
        self._originals: dict[str, Originals] = {}
        self._lock = Lock()

    def of(self, thread_id: str) -> Bodies:
        """Return what is known of a thread, to be read only."""
        with self._lock:
            if thread_id not in self._threads:
                return {}
            self._threads.move_to_end(thread_id)
            return self._threads[thread_id]

    def originals(self, thread_id: str) -> Originals:
        """Return the messages of a thread as they were last read or written; kept as long as its bodies."""
        with self._lock:
            if thread_id not in self._threads:
                self._threads[thread_id] = {}
                self._bytes += _OF_A_THREAD
                self._shrink()
            return self._originals.setdefault(thread_id, Originals())

    def add(self, thread_id: str, bodies: Mapping[bytes, tuple[str, bytes]]) -> None:
        """Remember more of a thread."""
        with self._lock:
            known = self._threads.get(thread_id)
            more = {name: kept for name, kept in bodies.items() if known is None or name not in known}
            if more or known is None:
                self._threads[thread_id] = {**(known or {}), **more}
                self._bytes += _size(more) + (_OF_A_THREAD if known is None else 0)
            self._threads.move_to_end(thread_id)
            self._shrink()

    def forget(self, thread_id: str) -> None:
        """Forget a thread, whose bodies may have been deleted."""
        with self._lock:
            if thread_id in self._threads:
                self._drop(thread_id)

    def _shrink(self) -> None:
        while self._bytes > self._max_bytes and self._threads:
            self._drop(next(iter(self._threads)))

    def _drop(self, thread_id: str) -> None:
        self._bytes -= _size(self._threads.pop(thread_id)) + _OF_A_THREAD
        self._originals.pop(thread_id, None)


def required(values: Values, known: Mapping[bytes, Any]) -> bytes | None:
    """Return what the values were taken to have stored before, for ``lch_admit`` to make sure of; None if nothing.

    Names stand together: psycopg writes a list in Python, item by item.
    """
    names = set(values.direct)
    for kind, body in values.bodies.values():
        if kind == GROUP:
            names.update(split(body))
    return b"".join(name for name in names if name in known) or None


async def reach(connection: Any, values: Values, names: Iterable[bytes]) -> Bodies:
    """Return the bodies of these names, and of all names in groups among them, each proven to be that body."""
    found = await rows(connection, _REACH, {"thread": values.thread_id, "names": list(names)})
    return {name: values.opened_body(name, kind, body) for name, kind, body in found}


def _size(bodies: Mapping[bytes, tuple[str, bytes]]) -> int:
    return sum(3 * len(body) + 1000 for _, body in bodies.values())  # also as a decoded message
