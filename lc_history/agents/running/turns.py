"""A turn that is asked for again: its result is shown again, or it goes on where it stopped, or says why not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel
from langgraph.pregel._task_status import read_task_statuses  # says itself: the only place that tells it
from langgraph.types import StateSnapshot

from lc_history.agents.running.lease import Lease
from lc_history.bridge import either
from lc_history.errors import ConflictError, HistoryError

Graph = Pregel[Any, Any, Any, Any]

_TO_NODE: Final = "branch:to:"
"""How LangGraph names the channel that makes a node run next."""


async def continued(graph: Graph, config: RunnableConfig, lease: Lease, *, goes_on: bool) -> StateSnapshot | None:
    """Return what the turn has come to, or None if it is the thread's latest and has still something to do.

    At a breakpoint it has come to what it was to do, unless the caller says that it goes on.
    """
    if lease.rolled_back:
        raise ConflictError(
            f"turn {lease.turn_id!r} of thread {lease.thread_id!r} was rolled back by a newer run: nothing of it is "
            "left in the thread; ask under another turn_id if it is still wanted"
        )
    where = {**config["configurable"], "checkpoint_ns": "", "checkpoint_id": lease.turn_checkpoint_id}
    state = await _state_of(graph, {"configurable": where})
    if state.created_at is None:
        raise ConflictError(
            f"turn {lease.turn_id!r} of thread {lease.thread_id!r} has ended, and its checkpoint was pruned "
            "since: read the thread's state for what came of it"
        )
    latest = lease.turn_checkpoint_id == lease.base_checkpoint_id
    if latest and state.interrupts:  # all that were raised in the step; without an id, those that are open
        del where["checkpoint_id"]
        state = state._replace(interrupts=(await _state_of(graph, {"configurable": where})).interrupts)
    waits = state.interrupts or (lease.paused and not goes_on)
    return None if latest and state.next and not waits else state


async def check_graph(graph: Graph, config: RunnableConfig, lease: Lease) -> None:
    """Raise `HistoryError` if what the thread is about to do is a node that the graph has no more.

    LangGraph would find nothing to do, and call the thread finished.
    """
    saver = graph.checkpointer
    head = await saver.aget_tuple(config) if isinstance(saver, BaseCheckpointSaver) else None
    if head is None:
        return
    state = await _state_of(graph, config)
    statuses = read_task_statuses(head.pending_writes or ())
    waiting = {task for task, status in statuses.items() if status.pending_interrupts}
    gone = {
        name.removeprefix(_TO_NODE)
        for name in head.checkpoint["channel_values"]
        if name.startswith(_TO_NODE) and name.removeprefix(_TO_NODE) not in graph.nodes
    }
    if gone or waiting - {task.id for task in state.tasks}:
        what = f"node {', '.join(sorted(gone))}" if gone else "the node that waits for an answer"
        raise HistoryError(
            f"thread {lease.thread_id!r} stopped before {what}, which this graph does not have: resume it with the "
            "graph that it was begun with, or send a new message to go on without"
        )


async def _state_of(graph: Graph, config: RunnableConfig) -> StateSnapshot:
    return await either(lambda: graph.get_state(config), lambda: graph.aget_state(config))


def chunks_of(graph: Graph, state: StateSnapshot, options: Mapping[str, Any]) -> Iterator[Any]:
    """Yield a state as the stream of a run would end with it, in the modes that can show it."""
    values = _output(graph, state.values, options.get("output_keys"))
    asked = options.get("stream_mode") or graph.stream_mode
    modes = [asked] if isinstance(asked, str) else list(asked)
    for mode in modes:
        if mode == "values":
            shown = values
        elif mode == "updates" and state.interrupts:
            shown = {"__interrupt__": state.interrupts}
        else:
            continue
        if options.get("version") == "v2":
            interrupts = {"interrupts": state.interrupts} if mode == "values" else {}
            yield {"type": mode, "ns": (), "data": shown, **interrupts}
        else:
            parts = ((),) if options.get("subgraphs") else ()
            named = (mode,) if not isinstance(asked, str) else ()
            yield (*parts, *named, shown) if parts or named else shown


def _output(graph: Graph, values: Any, keys: Any) -> Any:
    keys = graph.output_channels if keys is None else keys
    if isinstance(keys, str) or not isinstance(values, dict):
        return values
    return {key: values[key] for key in keys if key in values}
