"""Many conversations indexed ahead of time, by a worker: no turn waits for it, and every session can be searched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from lc_history.bridge import door
from lc_history.errors import DecodeError
from lc_history.model import SessionKey
from lc_history.store import Store, every_session
from lc_history.strategies.recall.index import SearchFailedError
from lc_history.strategies.recall.strategy import Recall
from lc_history.transcript import Policy, Transcript


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
        async with aclosing(every_session(self._store, user_id=self._user_id)) as sessions:
            async for info in sessions:
                try:
                    await self._recall.catch_up(Transcript(self._store, info.key, self._policy))
                    report.sessions += 1
                except (DecodeError, SearchFailedError) as error:
                    report.failures[info.key] = error
                if self._progress is not None:
                    self._progress(report)
        return report

    run_once = door(arun_once)
