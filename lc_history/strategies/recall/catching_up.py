"""Many conversations indexed ahead of time, by a worker: no turn waits for it, and every session can be searched."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from lc_history.bridge import door
from lc_history.errors import DecodeError
from lc_history.model import SessionKey
from lc_history.store import Store
from lc_history.strategies.recall.index import SearchFailedError
from lc_history.strategies.recall.strategy import Recall
from lc_history.transcript import Policy, Transcript

PAGE = 100


@dataclass(slots=True)
class CatchUpReport:
    """What one pass over the conversations did."""

    sessions: int = 0
    """Those that are indexed now, all turns but the last."""
    failures: dict[SessionKey, DecodeError | SearchFailedError] = field(default_factory=dict)
    """What could not be read or embedded; the next pass tries again."""


class CatchUp:
    """Indexes what is not indexed yet, of all conversations of a store or of one user.

    Running it again does no harm, nor does running several at once; what was broken off, the next pass goes on with,
    after the turns that were indexed.

    policy: the one of the histories; `PolicyError` where it seals and the recall does not allow an index.
    progress: is called with the report so far after each session.
    """

    def __init__(
        self,
        recall: Recall,
        store: Store,
        *,
        policy: Policy | None = None,
        user_id: str | None = None,
        progress: Callable[[CatchUpReport], object] | None = None,
    ) -> None:
        self._recall, self._store, self._policy = recall, store, policy
        self._user_id, self._progress = user_id, progress

    async def arun_once(self) -> CatchUpReport:
        """Go over the conversations once, and return what was done."""
        report = CatchUpReport()
        async with aclosing(self._keys()) as keys:
            async for key in keys:
                try:
                    await self._recall.catch_up(Transcript(self._store, key, self._policy))
                    report.sessions += 1
                except (DecodeError, SearchFailedError) as error:
                    report.failures[key] = error
                if self._progress is not None:
                    self._progress(report)
        return report

    run_once = door(arun_once)

    async def _keys(self) -> AsyncGenerator[SessionKey, None]:
        cursor = None
        while True:
            if self._user_id is None:
                page = await self._store.scan(limit=PAGE, cursor=cursor)
            else:
                page = await self._store.sessions(self._user_id, limit=PAGE, cursor=cursor)
            for info in page.items:
                yield info.key
            cursor = page.cursor
            if cursor is None:
                return
