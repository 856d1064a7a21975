"""One effect, begun and completed once: the order of row, barrier, lease, effect and result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.config import get_config
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import get_runtime
from langgraph.types import interrupt

from lc_history.agents.checkpoints.checkpointer import Checkpointer
from lc_history.agents.checkpoints.database import Database
from lc_history.agents.effects.rows import Attempt, Effect, Effects, Standing
from lc_history.agents.running.lease import LEASE_KEY
from lc_history.bridge import either, pause
from lc_history.errors import HistoryError
from lc_history.postgres import Postgres

T = TypeVar("T")
Rule = Literal["report", "retry", "ask", "transactional"]
"""What happens to an effect that had begun when its run died; see `ToolLedger`."""

RETRY: Final = "retry"
"""The answer that has an effect in doubt run again."""

# Names of LangGraph's own in a task's configurable.
_SAVER = "__pregel_checkpointer"
_DURABILITY = "__pregel_durability"

_SHORTEST_WAIT = 0.005
_LONGEST_WAIT = 0.1
_PATIENCE = 30.0
"""Seconds within which the checkpoint that asks for an effect has to be stored."""


@dataclass(frozen=True, slots=True)
class _Running:
    key: str
    connection: Any = None


_running: ContextVar[_Running | None] = ContextVar("lc_history_effect", default=None)


def effect_key() -> str:
    """Return the key of the effect that is under way, the same in every attempt: a service's idempotency key.

    Call it in a tool that `ToolLedger` guards, or in a node or task with `once`.
    """
    return _current().key


def effect_connection() -> Any:
    """Return the connection whose transaction commits the effect with its row; for the rule "transactional".

    A psycopg connection of the tool's own kind: blocking under ``invoke``, async under ``ainvoke``.
    """
    running = _current()
    if running.connection is None:
        raise LookupError('this effect has no transaction: declare it, ToolLedger({"its_name": "transactional"})')
    return running.connection


def _current() -> _Running:
    running = _running.get()
    if running is None:
        raise LookupError("no effect is under way: call this in a tool under ToolLedger, or in a function with once()")
    return running


def _no_result(answer: Any) -> Any:
    return answer


def _never_failed(_result: Any) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Execution:
    """An effect, the rule for when it is in doubt, and how its caller speaks of it."""

    effect: Effect
    rule: Rule
    question: Mapping[str, Any]
    """What a person is shown who has to decide."""
    told: Callable[[Any], Any] = _no_result
    """Makes the result of a person's answer, or of none."""
    failed: Callable[[Any], bool] = _never_failed
    """Whether a result says that the effect failed, so that its transaction is to be undone."""


class _UndoneError(Exception):
    """Carries a failed result out of the transaction that it undoes."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result


def _undo_if(result: Any, *, failed: bool) -> None:
    if failed:
        raise _UndoneError(result)


@dataclass(frozen=True, slots=True)
class Scene:
    """Where in a run an effect takes place."""

    effects: Effects
    thread_id: str
    namespace: str
    task_id: str
    run_id: str | None
    checkpoint_id: str
    elsewhere: BaseCheckpointSaver[Any] | None = None
    """The checkpointer, where it does not keep its checkpoints beside the effects."""

    async def perform(self, what: Execution, act: Callable[[], Awaitable[Any]]) -> Any:
        """Return what the effect gives, now or before."""
        stored_here = self.checkpoint_id if self.elsewhere is None else None
        attempt = Attempt(uuid4().hex, self.run_id, self.namespace, stored_here)
        if what.rule == "transactional":
            return await self._in_one_transaction(what, attempt, act)
        standing = await self._begin(what, attempt, again=what.rule == "retry")
        if standing.state == "started":
            answer = interrupt({"in_doubt": dict(what.question), "or": RETRY}) if what.rule == "ask" else None
            if answer != RETRY:
                result = what.told(answer)
                await self.effects.give_up(self.thread_id, what.effect.key, result)
                return result
            standing = await self._begin(what, attempt, again=True)
        if standing.state != "begun":
            return standing.result
        try:
            result = await _act(_Running(what.effect.key), act)
        except GraphBubbleUp:  # it asks a person, and will run anew when it is answered
            await self.effects.withdraw(what.effect, attempt)
            raise
        await self.effects.finish(what.effect, attempt, result)
        return result

    async def _in_one_transaction(self, what: Execution, attempt: Attempt, act: Callable[[], Awaitable[Any]]) -> Any:
        await self._patiently(self._stored)
        database = self.effects.database
        async with database.postgres.connection() as connection:
            try:
                async with database.transaction(connection):
                    standing = await self.effects.begin(what.effect, attempt, again=True, connection=connection)
                    if standing.state != "begun":
                        return standing.result
                    result = await _act(_Running(what.effect.key, connection), act)
                    _undo_if(result, failed=what.failed(result))
                    await self.effects.finish(what.effect, attempt, result, connection=connection)
            except _UndoneError as undone:
                return undone.result
        return result

    async def _begin(self, what: Execution, attempt: Attempt, *, again: bool) -> Standing:
        async def begun() -> Standing | None:
            standing = await self.effects.begin(what.effect, attempt, again=again)
            return None if standing.state == "early" else standing

        if self.elsewhere is not None:
            await self._patiently(self._stored)
        return await self._patiently(begun)

    async def _patiently(self, ask: Callable[[], Awaitable[T | None]]) -> T:
        """Ask until the checkpoint that wants the effect is stored: one that is lost comes back in other words."""
        wait, waited = _SHORTEST_WAIT, 0.0
        while (answer := await ask()) is None:
            if waited > _PATIENCE:
                raise HistoryError(
                    f"checkpoint {self.checkpoint_id!r} of thread {self.thread_id!r} was not stored within "
                    f"{_PATIENCE:.0f} seconds, so nothing was begun: a graph whose effects happen once needs a "
                    "checkpointer, and so does each of its subgraphs"
                )
            await pause(wait)
            waited, wait = waited + wait, min(wait * 2, _LONGEST_WAIT)
        return answer

    async def _stored(self) -> bool | None:
        names = (self.thread_id, self.namespace, self.checkpoint_id)
        if (saver := self.elsewhere) is None:
            return await self.effects.has_checkpoint(*names) or None
        keys = ("thread_id", "checkpoint_ns", "checkpoint_id")
        config: RunnableConfig = {"configurable": dict(zip(keys, names, strict=True))}
        found = await either(lambda: saver.get_tuple(config), lambda: saver.aget_tuple(config))
        return None if found is None else True


def stage(postgres: Postgres | None = None) -> Scene:
    """Return where the running node takes place; without a database given, it is the checkpointer's."""
    config = get_config()["configurable"]
    saver, info, lease = config.get(_SAVER), get_runtime().execution_info, config.get(LEASE_KEY)
    if saver is None or info is None or info.thread_id is None:
        raise HistoryError("effects happen once per thread: compile the graph with a checkpointer and give a thread_id")
    if config.get(_DURABILITY) == "exit":
        raise HistoryError('durability="exit" stores no call before it is made: use "sync" or "async" with a ledger')
    if isinstance(saver, Checkpointer) and postgres is None:
        effects, elsewhere = effects_of(saver), None
    elif postgres is not None:
        effects, elsewhere = Effects(Database(postgres), saver.serde), saver
    else:
        raise HistoryError(
            f"the ledger is kept in PostgreSQL, and {type(saver).__name__} is not open_checkpointer's: "
            "use that one, or give ToolLedger(postgres=Postgres.open(url))"
        )
    return Scene(
        effects,
        str(info.thread_id),
        _namespace(config, info.checkpoint_id),
        info.task_id,
        lease and lease.run_id,
        info.checkpoint_id,
        elsewhere,
    )


def effects_of(saver: Checkpointer) -> Effects:
    """Return the effects that are kept beside these checkpoints."""
    return Effects(saver.database, saver.serde, keys=saver.keys)


def _namespace(configurable: Mapping[str, Any], checkpoint_id: str) -> str:
    """Return the namespace of the running graph: the outermost that stands at this checkpoint.

    A task's own namespace does not tell: a task called by a task looks like a subgraph in it.
    """
    reached: Mapping[str, str] = configurable.get("checkpoint_map") or {}
    return min((name for name, at in reached.items() if at == checkpoint_id), key=len, default="")


async def _act(running: _Running, act: Callable[[], Awaitable[T]]) -> T:
    token = _running.set(running)
    try:
        return await act()
    finally:
        _running.reset(token)
