"""A compiled graph of which one run at a time works on a thread, and which answers a repeated turn from memory.

It is the graph's own class, with two methods changed: everything that runs a graph goes through `stream` or
`astream`, so invoke, batch, astream_events and whatever comes are covered without being repeated here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Self, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config, merge_configs
from langgraph._internal._serde import build_serde_allowlist  # what compile() calls; langgraph has no public name
from langgraph.pregel import Pregel
from langgraph.types import Command, StateUpdate
from typing_extensions import override

from lc_history.agents.checkpoints.address import Address
from lc_history.agents.checkpoints.checkpointer import Checkpointer
from lc_history.agents.effects.repair import asettle_thread
from lc_history.agents.running.approvals import Pending, answered, pending
from lc_history.agents.running.lease import LEASE_KEY, Lease, OnBusy
from lc_history.agents.running.turns import check_graph, chunks_of, continued
from lc_history.bridge import complete, door, drive_each, each, either

G = TypeVar("G", bound="Pregel[Any, Any, Any, Any]")

_INTERRUPT_ID = re.compile("[0-9a-f]{32}")
_NESTED = "__pregel_task_id"
"""In the ``configurable`` of a graph that runs inside another's task, and so under its lease."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How a run meets another on its thread: what it does, how long a lease lasts, how long it waits at most."""

    on_busy: OnBusy = "enqueue"
    lease: timedelta = timedelta(seconds=30)
    wait: timedelta | None = None


def resumable(
    graph: G,
    *,
    on_busy: OnBusy = "enqueue",
    lease: timedelta = timedelta(seconds=30),
    wait: timedelta | None = None,
) -> G:
    """Return the graph such that one run at a time works on a thread, and nothing acknowledged is lost.

    graph: compiled with a checkpointer of `open_checkpointer`; it stays as it is.
    on_busy: what a run does when another holds its thread, see `OnBusy`.
    lease: how long a run that froze or died keeps its thread; a live one keeps it as long as it takes.
    wait: how long "enqueue" and "interrupt" wait at most, then `ThreadBusyError`; None waits for ever.

    The result runs with ``durability="sync"`` unless told otherwise. ``configurable={"turn_id": ...}`` makes a
    retry the same turn: it is continued, or its result is returned again, also after later turns.
    """
    if not isinstance(graph, Pregel):
        raise TypeError(f"resumable() takes a compiled graph, not {type(graph).__name__}: call compile() first")
    saver = graph.checkpointer
    if not isinstance(saver, Checkpointer):
        raise TypeError(
            f"resumable() needs a graph with a checkpointer of open_checkpointer(url), not {type(saver).__name__}: "
            "compile(checkpointer=open_checkpointer(url))"
        )
    agent: Any = Pregel.copy(graph)
    if not isinstance(graph, ResumableGraph):
        agent.__class__ = _resumable_kind(type(graph))
    agent.checkpointer = saver.with_allowlist(_classes_of(graph))
    agent.manners = Manners(on_busy, lease, wait)
    return cast("G", agent)


class ResumableGraph(Pregel[Any, Any, Any, Any]):
    """What `resumable` adds to the class of a compiled graph."""

    manners: Manners

    @override
    def stream(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> Iterator[Any]:
        return drive_each(self._run(input, config, options))

    @override
    async def astream(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> AsyncIterator[Any]:
        async with aclosing(self._run(input, config, options)) as chunks:
            async for chunk in chunks:
                yield chunk

    @override
    async def abulk_update_state(
        self, config: RunnableConfig, supersteps: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        graph: Any = super()
        async with self._holding(config) as (lease, held):
            if lease is not None:
                await self._saver.arecord(lease.thread_id, lease.user_id, "update")
            updated: RunnableConfig = await either(
                lambda: graph.bulk_update_state(held, supersteps), lambda: graph.abulk_update_state(held, supersteps)
            )
            if lease is not None:
                lease.outcome = "updated"
        if lease is not None:
            updated["configurable"].pop(LEASE_KEY, None)
        return updated

    bulk_update_state = door(abulk_update_state)

    async def aresume(
        self, /, thread_id: str, answers: Mapping[str, Any], *, user_id: str | None = None, **options: Any
    ) -> Any:
        """Give a person's answers to interrupts of a thread, by their ids, and return what the run comes to.

        An answer is taken once: of two callers at the same time, one runs the graph and both get the result.
        Raises `ConflictError` if an interrupt is not pending any more, or never was.
        """
        config = _config_of(thread_id, user_id)
        saver, where = self._saver, Address.of(config)
        await answered(saver, where, answers)
        async with self._holding(config, goes_on=True, on_busy="enqueue") as (lease, held):
            if lease is not None:
                options = _under(lease, options)
                await check_graph(self, held, lease)
            if mine := await answered(saver, where, answers, taken_by=lease):
                result = await either(
                    lambda: self.invoke(Command(resume=mine), held, **options),
                    lambda: self.ainvoke(Command(resume=mine), held, **options),
                )
                self._came_to_its_end(lease, options)
                return result
            state = await either(lambda: self.get_state(config), lambda: self.aget_state(config))
            *_, result = chunks_of(self, state, {"stream_mode": "values"})
            return result

    resume = door(aresume)

    async def apending(self, *, user_id: str | None = None, limit: int = 100) -> list[Pending]:
        """Return what waits for a person in this user's threads, the longest waiting first, with what is asked.

        A question waits until the task that asked it has finished, also while a run works on an answer.
        """
        return await pending(self._saver, user_id, limit)

    pending = door(apending)

    @override
    def copy(self, update: dict[str, Any] | None = None) -> Self:
        made = super().copy({name: value for name, value in (update or {}).items() if name != "manners"})
        made.manners = (update or {}).get("manners", self.manners)
        return made

    @property
    def _saver(self) -> Checkpointer:
        saver = self.checkpointer
        assert isinstance(saver, Checkpointer)  # noqa: S101 - resumable() has made sure
        return saver

    async def _run(
        self, given: Any, config: RunnableConfig | None, options: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        graph: Any = super()
        goes_on = _goes_on(given)
        async with self._holding(config, goes_on=goes_on) as (lease, held):
            if isinstance(given, Command) and given.resume is not None:
                await self._record_answer(given.resume, held)
            if lease is not None:
                options = _under(lease, options)
            if lease is not None and lease.turn_checkpoint_id is not None:
                state = await continued(self, held, lease, goes_on=goes_on)
                if state is not None:
                    if lease.turn_checkpoint_id == lease.base_checkpoint_id and not state.next:
                        lease.outcome = "ended"  # also where the run before could not say so any more
                    for chunk in chunks_of(self, state, options):
                        yield chunk
                    return
                given = None  # the turn's input is in its checkpoint already
            elif lease is not None and not lease.settled and not goes_on:
                await asettle_thread(self, held)  # new input drops what a killed or interrupted run has left
            if lease is not None and goes_on and not lease.settled:
                await check_graph(self, held, lease)
            steps = each(lambda: graph.stream(given, held, **options), lambda: graph.astream(given, held, **options))
            async with aclosing(steps) as chunks:
                async for chunk in chunks:
                    yield chunk
            self._came_to_its_end(lease, options)

    async def _record_answer(self, answer: Any, config: RunnableConfig) -> None:
        """Record that a person answers, by the ids of the questions where the answer has them."""
        configurable = config.get("configurable", {})
        if "thread_id" in configurable and _NESTED not in configurable:
            named = isinstance(answer, dict) and all(_INTERRUPT_ID.fullmatch(str(name)) for name in answer)
            where = Address.of(config)
            await self._saver.arecord(
                where.thread_id, where.user_id, "answer", interrupts=sorted(answer) if named else None
            )

    def _came_to_its_end(self, lease: Lease | None, options: Mapping[str, Any]) -> None:
        if lease is not None:
            lease.outcome = "paused" if self._may_pause(options) else "ended"

    def _may_pause(self, options: Mapping[str, Any]) -> bool:
        """Tell whether a run may have stopped at a breakpoint, which leaves no trace in the checkpoint."""
        return any(
            options.get(name) or getattr(self, f"{name}_nodes") for name in ("interrupt_before", "interrupt_after")
        )

    @asynccontextmanager
    async def _holding(
        self, config: RunnableConfig | None, *, goes_on: bool = False, on_busy: OnBusy | None = None
    ) -> AsyncIterator[tuple[Lease | None, RunnableConfig]]:
        """Hold the thread of a config; None for the lease where the caller holds it, or there is no thread."""
        given = ensure_config(merge_configs(self.config, config) if self.config else config)
        configurable = given.get("configurable", {})
        if _NESTED in configurable or "thread_id" not in configurable or Address.of(given).lease is not None:
            yield None, config or {}
            return
        where = Address.of(given)
        lease = await self._saver.leases.acquire(
            where.thread_id,
            user_id=where.user_id,
            on_busy=on_busy or self.manners.on_busy,
            duration=self.manners.lease,
            wait=self.manners.wait,
            turn_id=where.turn_id,
        )
        more: dict[str, Any] = {LEASE_KEY: lease}
        if goes_on and where.turn_id is None and lease.last_turn_id:
            more["turn_id"] = lease.last_turn_id
        try:
            yield lease, {**(config or {}), "configurable": {**(config or {}).get("configurable", {}), **more}}
        except BaseException:
            lease.check()
            raise
        finally:
            await complete(self._saver.leases.release(lease))
        lease.check()  # nobody is told of an end that was undone a moment later


def _under(lease: Lease, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run that stores each step before the next, and stops when its lease is told to."""
    lease.control = options.get("control") or lease.control
    return {**options, "durability": options.get("durability") or "sync", "control": lease.control}


def _goes_on(given: Any) -> bool:
    """Tell whether an input lets a thread go on where it is, rather than saying something new."""
    return given is None or (isinstance(given, Command) and (given.resume is not None or not given.update))


@cache
def _resumable_kind(kind: type[Any]) -> type[Any]:
    own = {"__doc__": ResumableGraph.__doc__, "__module__": __name__}
    return type(f"Resumable{kind.__name__}", (ResumableGraph, kind), own)


def _classes_of(graph: Pregel[Any, Any, Any, Any]) -> set[tuple[str, ...]]:
    schemas = list(getattr(getattr(graph, "builder", None), "schemas", ()))
    return build_serde_allowlist(schemas=schemas, channels=dict(graph.channels))


def _config_of(thread_id: str, user_id: str | None) -> RunnableConfig:
    user = {} if user_id is None else {"user_id": user_id}
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **user}}
