"""Moves idle sessions of a tiered store from the hot to the cold one.

A move is: copy, load into the cold store, read it back and compare, then delete from the hot store. Loading is
refused if anybody else has written the cold copy meanwhile, deleting if the session has changed: so a move can be
broken off anywhere, and any number of workers may run at once. Each takes the sessions in an order of its own, so
that they seldom meet.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NoReturn

from lc_history.bridge import door, drive_each, pause
from lc_history.errors import ConflictError, HistoryError, StoreError, StoreUnavailableError
from lc_history.model import Lane, Record, SessionCopy, SessionInfo, SessionKey
from lc_history.stores.tiered.copies import copied, end_copy
from lc_history.stores.tiered.store import TieredStore


@dataclass(slots=True)
class ArchiveReport:
    """What one pass over the idle sessions did."""

    idle: int | None = None
    """Sessions that were idle when the pass began; None where nobody watches its progress, and none were counted."""
    moved: int = 0
    skipped: int = 0
    """Those that were in use, expired, or taken by another worker."""
    bytes: int = 0
    """Of the bodies that were moved."""
    failures: dict[SessionKey, HistoryError] = field(default_factory=dict)
    """What stays in the hot store, and why."""
    interrupted: StoreUnavailableError | None = None
    """Why the pass ended before it had seen every session."""

    @property
    def seen(self) -> int:
        """How many sessions were moved, skipped or failed so far."""
        return self.moved + self.skipped + len(self.failures)


class Archiver:
    """Moves the sessions that nobody has written to for some time.

    idle: how long a session was left alone before it is moved.
    progress: is called with the report so far when a pass begins and after each session. The idle sessions are counted
        for it: one listing more, of heads alone.

    >>> from lc_history.stores import open_store
    >>> store = TieredStore(hot=open_store("memory://"), cold=open_store("memory://"))
    >>> Archiver(store, idle=timedelta(minutes=30)).run_once().moved
    0
    """

    def __init__(
        self, store: TieredStore, *, idle: timedelta, progress: Callable[[ArchiveReport], object] | None = None
    ) -> None:
        self.store, self.idle, self.progress = store, idle, progress

    async def arun_once(self) -> ArchiveReport:
        """Move what is idle now, and return what was done.

        A session that cannot be moved is reported and stays where it is. Raises `StoreUnavailableError` when a store
        cannot be reached: what was moved is moved, and the next pass goes on.
        """
        report = ArchiveReport()
        await self._pass(report)
        return report

    run_once = door(arun_once)

    async def arun_every(self, interval: timedelta) -> AsyncGenerator[ArchiveReport, None]:
        """Run a pass, yield its report, wait, and so on until the caller stops.

        A store that cannot be reached ends a pass early, and the report says so.
        """
        while True:
            report = ArchiveReport()
            try:
                await self._pass(report)
            except StoreUnavailableError as error:
                report.interrupted = error
            yield report
            await pause(interval.total_seconds())

    def run_every(self, interval: timedelta) -> Generator[ArchiveReport, None, None]:
        """Run a pass, yield its report, wait, and so on until the caller stops.

        A store that cannot be reached ends a pass early, and the report says so.
        """
        return drive_each(self.arun_every(interval))

    async def _pass(self, report: ArchiveReport) -> None:
        border = datetime.now(UTC) - self.idle
        if self.progress is not None:
            report.idle = sum([len(page) async for page in self._pages(border)])
            self.progress(report)
        async for page in self._pages(border):
            for info in random.sample(page, len(page)):
                await self._try(info.key, border, report)
                if self.progress is not None:
                    self.progress(report)

    async def _pages(self, border: datetime) -> AsyncGenerator[list[SessionInfo], None]:
        cursor: str | None = None
        while True:
            page = await self.store.hot.scan(idle_since=border, cursor=cursor)
            yield page.items
            cursor = page.cursor
            if cursor is None:
                return

    async def _try(self, key: SessionKey, border: datetime, report: ArchiveReport) -> None:
        try:
            size = await self._move(key, border)
        except ConflictError:
            size = None
        except StoreUnavailableError:
            raise
        except HistoryError as error:
            report.failures[key] = error
            return
        if size is None:
            report.skipped += 1
        else:
            report.moved += 1
            report.bytes += size

    async def _move(self, key: SessionKey, border: datetime) -> int | None:
        """Move one session and return the bytes of its bodies; None or `ConflictError` where it is not to be moved."""
        hot, cold = self.store.hot, self.store.cold
        # The cold version comes first: whatever is loaded there from here on makes this move fail.
        there = await cold.describe(key)
        copy = await copied(hot, key)
        if copy is None or copy.info.updated_at > border:
            return None
        if not any(slice_.last_seq for slice_ in copy.lanes.values()):
            return None  # nothing was ever said: there is little to move, and no number to know it by when it ends
        await cold.load(copy, over_version=there.version if there else None)
        loaded = await copied(cold, key)
        if loaded is None or _content(loaded) != _content(copy):
            await self._refuse(copy.info)
        try:
            await hot.delete(key, moved_version=copy.info.version)
        except ConflictError:
            await self._withdraw(copy.info, loaded.info.version)
            raise
        return sum(len(record.body) for slice_ in copy.lanes.values() for record in slice_.records)

    async def _refuse(self, copied: SessionInfo) -> NoReturn:
        """Raise what explains that the cold store does not hold what was copied there."""
        info = await self.store.hot.describe(copied.key)
        if info is None or info.version != copied.version:
            raise ConflictError(f"{copied.key} has changed while it was being moved")
        raise StoreError(f"{copied.key} reads back otherwise than it was copied: it stays in the hot store")

    async def _withdraw(self, copied: SessionInfo, loaded_version: int) -> None:
        """Delete the cold copy again if the session was erased while it was being moved, and let it end no later."""
        hot, key = self.store.hot, copied.key
        await end_copy(key, hot=hot, cold=self.store.cold)
        erased = (await hot.read(key, last=1)).last_seq > copied.last_seq  # which leaves a number out, and a move none
        if erased and await hot.describe(key) is None:
            await self.store.cold.delete(key, moved_version=loaded_version)


def _content(copy: SessionCopy) -> tuple[SessionInfo, dict[Lane, list[Record]]]:
    """Return what must be the same in both stores; versions, and numbers given beyond the records, may be higher."""
    return replace(copy.info, version=0, last_seq=0), {lane: slice_.records for lane, slice_ in copy.lanes.items()}
