"""One run per thread: a lease that every write of the run is checked against, in the write's own transaction.

The lease is a row with an owner, an epoch and an expiry that a heartbeat moves on. Whoever finds it expired takes
it; from then on the former owner, frozen or slow, can write nothing. No session locks: it works through PgBouncer.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import uuid4

from langgraph.runtime import RunControl

from lc_history.agents.checkpoints.database import Database
from lc_history.bridge import Pulse, pause
from lc_history.errors import LeaseLostError, StoreUnavailableError, ThreadBusyError

OnBusy = Literal["enqueue", "reject", "interrupt", "rollback"]
"""What a run does when another holds its thread.

enqueue    wait for its turn, first come first served
reject     raise `ThreadBusyError`, which names the holder
interrupt  ask the other to stop at its next step, and go before those who wait
rollback   take the thread at once, back to where it stood before the other run

What is rolled back is the state: the other run's checkpoints go, and the index counts what is left. What it said stays
in the transcript, since it was said, and its effects stay in the ledger, since they happened. The turn that it worked
on is over: a client that sends it again is told so by a `ConflictError`, and does not bring back by a retry what a
newer turn has replaced; who still wants it asks under another ``turn_id``. A turn that stood in the thread before the
other run began stands there again.
"""
Outcome = Literal["untouched", "broke", "updated", "paused", "ended"]
"""How a run leaves its thread: as it was, on the way, in a state that somebody made, where it was told to stop perhaps,
or with nothing left to do."""

LEASE_KEY: Final = "__lch_lease"
"""Where in ``configurable`` a run carries its lease; names with two underscores stay out of metadata."""

_TURNS = ("turn_checkpoint", "rolled_back", "last_turn")
_ANSWER = ("granted", "holder", "ahead", "base", *_TURNS, "settled", "paused")
_ACQUIRE = f"SELECT {', '.join(_ANSWER)} FROM {{schema}}lch_acquire(%s, %s, %s, %s, %s, %s, %s)"  # noqa: S608 - our own names
_RENEW = """
UPDATE {schema}lch_leases AS held SET expires_at = clock_timestamp() + mine.duration
FROM unnest(%s::text[], %s::text[], %s::interval[]) AS mine (thread_id, run_id, duration)
WHERE held.thread_id = mine.thread_id AND held.run_id = mine.run_id RETURNING held.run_id, held.stop
"""
_RELEASE = "SELECT {schema}lch_release(%s, %s, %s, %s)"

_SHORTEST_WAIT = 0.02
_LONGEST_WAIT = 0.5
_BEATS_PER_LEASE = 3


@dataclass(eq=False, slots=True)
class Lease:
    """The right of one run to write to one thread, for as long as nobody took it."""

    thread_id: str
    user_id: str
    run_id: str
    duration: timedelta
    turn_id: str | None = None
    turn_checkpoint_id: str | None = None
    """What an earlier attempt at the same turn has come to; None if there was none."""
    rolled_back: bool = False
    """Whether that attempt was undone by a newer run."""
    last_turn_id: str | None = None
    """The turn that the thread's latest checkpoint belongs to."""
    base_checkpoint_id: str | None = None
    """Where the thread stood when the run began; None for a new thread."""
    control: RunControl = field(default_factory=RunControl)
    settled: bool = False
    """Whether the run before came to its end: no call was left open, no task, and nobody was asked."""
    paused: bool = False
    """Whether the run before may have stopped where a person was to let it go on."""
    outcome: Outcome = "untouched"
    """What giving the thread back now would say of this run."""
    lost: bool = False
    empty: bool = False
    """Whether nothing is there to be read: the thread had no checkpoint, and this run has written none yet."""

    written: str | None = None
    """The last checkpoint of the thread that the run sent."""

    def touch(self, checkpoint_id: str | None) -> None:
        """Note that the run is about to write: unless it says otherwise later, it broke off on the way."""
        self.outcome, self.empty = "broke", False
        self.written = checkpoint_id or self.written

    def heard(self, stop: str | None) -> None:
        """Ask the run to stop at its next step, if somebody wants that."""
        if stop is not None:
            self.control.request_drain(stop)

    def lose(self) -> None:
        """Note that another run, or a deletion, took the thread."""
        self.lost = True
        self.control.request_drain("this run was taken over")

    def check(self) -> None:
        """Raise `LeaseLostError` if it is known that the thread was taken; asks nobody."""
        if self.lost:
            raise LeaseLostError(f"thread {self.thread_id!r} was taken over from this run; nothing more may be written")


class Leases:
    """Takes leases, keeps those of this process alive, and gives them back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held: dict[str, Lease] = {}
        self._pulse = Pulse(self._renew_all, name="lc-history-leases")

    async def acquire(
        self,
        thread_id: str,
        *,
        user_id: str,
        on_busy: OnBusy = "enqueue",
        duration: timedelta = timedelta(seconds=30),
        wait: timedelta | None = None,
        turn_id: str | None = None,
    ) -> Lease:
        """Take the thread, in the way that ``on_busy`` says; wait at most so long, then `ThreadBusyError`."""
        lease = Lease(thread_id, user_id, uuid4().hex, duration, turn_id)
        deadline = None if wait is None else datetime.now(UTC) + wait
        try:
            while not (answer := await self._ask(lease, on_busy))["granted"]:
                if on_busy == "reject" or (deadline is not None and datetime.now(UTC) >= deadline):
                    raise _busy(thread_id, answer["holder"])  # noqa: TRY301 - the ticket is given back below
                await pause(min(_SHORTEST_WAIT * (1 + answer["ahead"]), _LONGEST_WAIT))
        except BaseException:
            await self._forget(lease)
            raise
        lease.base_checkpoint_id, lease.empty = answer["base"], answer["base"] is None
        lease.settled, lease.paused = answer["settled"], answer["paused"]
        lease.turn_checkpoint_id, lease.last_turn_id = answer["turn_checkpoint"], answer["last_turn"]
        lease.rolled_back = bool(answer["rolled_back"])
        self._held[lease.run_id] = lease
        self._keep_alive(lease)
        return lease

    async def release(self, lease: Lease) -> None:
        """Give the thread back; nothing happens if it was taken over, but who finds its work undone has lost it."""
        self._held.pop(lease.run_id, None)
        if not self._held:
            self._pulse.rest()
            for other in list(self._held.values()):  # which was taken between the two
                self._keep_alive(other)
        if not lease.lost:
            await self._forget(lease)

    async def renew(self, lease: Lease) -> None:
        """Make sure, now, that the run still has its thread, or raise `LeaseLostError`: before an effect."""
        lease.check()
        await self._renew([lease])
        lease.check()

    def _keep_alive(self, lease: Lease) -> None:
        self._pulse.every(lease.duration.total_seconds() / _BEATS_PER_LEASE)

    async def _ask(self, lease: Lease, on_busy: OnBusy) -> dict[str, Any]:
        asked = (lease.thread_id, lease.user_id, lease.run_id, _whoami(), lease.duration, on_busy, lease.turn_id)
        return dict(
            zip(_ANSWER, (await self._database.rows(_ACQUIRE, asked, thread_id=lease.thread_id))[0], strict=True)
        )

    async def _forget(self, lease: Lease) -> None:
        # Best effort: what cannot be given back now is free when it expires.
        try:
            given = (lease.thread_id, lease.run_id, lease.outcome, lease.written)
            [[undone]] = await self._database.rows(_RELEASE, given)
        except StoreUnavailableError:
            return
        if undone:
            lease.lose()

    async def _renew_all(self) -> None:
        if held := list(self._held.values()):
            await self._renew(held)

    async def _renew(self, leases: list[Lease]) -> None:
        columns = [[x.thread_id for x in leases], [x.run_id for x in leases], [x.duration for x in leases]]
        mine = dict(await self._database.rows(_RENEW, tuple(columns)))
        for lease in leases:
            if lease.run_id in mine:
                lease.heard(mine[lease.run_id])
            elif lease.run_id in self._held:
                lease.lose()


def _busy(thread_id: str, holder: str | None) -> ThreadBusyError:
    return ThreadBusyError(
        f"thread {thread_id!r} is held by {holder or 'a run that waits before this one'}: "
        'try again later, or ask for on_busy="enqueue" and more time'
    )


def _whoami() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"
