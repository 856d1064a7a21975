"""Effects once: a tool that has finished is never run again, and one that may have happened is never run unasked.

`ToolLedger` guards the tools of an agent, `once` a node or a task. A row is written before the effect, when the
checkpoint that asks for it is stored, and completed before the result counts. What had finished by the time of a
crash is replayed from its row; what had only begun follows the rule that was declared for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, ParamSpec, TypeVar, cast

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import ToolMessage
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command
from typing_extensions import override

from lc_history.agents.effects.answers import IN_DOUBT, NOT_BEGUN, asking_message, key_of_call, known_answers
from lc_history.agents.effects.execution import Execution, Rule, stage
from lc_history.agents.effects.rows import Effect, key_of
from lc_history.bridge import drive, either
from lc_history.postgres import Postgres
from lc_history.strategies.repair import repair, unanswered, unfinished

P = ParamSpec("P")
T = TypeVar("T")


class ToolLedger(AgentMiddleware[Any, Any, Any]):
    """Runs each tool call once, whatever happens to the process, and lets no call go unanswered.

    It hooks tool and model calls alone: no checkpoint more. The rows stand in the PostgreSQL of the agent's
    checkpointer, or in the one that is given. Rules for tools by name, for a call that had begun when its run died:

    report         the model is told that the outcome is unknown (the default)
    retry          it is run again with the same `effect_key`: for idempotent tools
    ask            a person is asked, by an interrupt: "retry", or what the model shall be told
    transactional  never in doubt: the tool writes through `effect_connection`, which commits with its row

    A tool that runs an agent of its own is best declared "retry": what that one does has rows of its own.

        agent = create_agent(model, tools, checkpointer=saver, middleware=[ToolLedger({"pay": "ask"})])
    """

    def __init__(
        self, rules: Mapping[str, Rule] | None = None, *, default: Rule = "report", postgres: Postgres | None = None
    ) -> None:
        super().__init__()
        self._rules, self._default, self._postgres = dict(rules or {}), default, postgres

    @override
    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        return drive(self._call(request, lambda: either(lambda: handler(request), _never)))

    @override
    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        return await self._call(request, lambda: handler(request))

    @override
    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        return handler(drive(self._answered(request)))

    @override
    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        return await handler(await self._answered(request))

    async def _call(
        self, request: ToolCallRequest, act: Callable[[], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        call = request.tool_call
        scene = stage(self._postgres)
        message = asking_message(_messages_of(request.state), call)
        key = key_of_call(scene.thread_id, scene.namespace, message, str(call["id"]))
        effect = Effect(scene.thread_id, key, call["name"], str(call["id"]))
        execution = Execution(
            effect,
            rule=self._rules.get(call["name"], self._default),
            question={"tool": call["name"], "args": call["args"], "tool_call_id": call["id"]},
            told=lambda answer: unfinished(message, effect.call, text=_told(answer)),
            failed=lambda result: isinstance(result, ToolMessage) and result.status == "error",
        )
        return cast("ToolMessage | Command[Any]", await scene.perform(execution, act))

    async def _answered(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """Return the request as a provider accepts it, with what the ledger knows of calls left open."""
        if not (calls := unanswered(request.messages)):
            repaired = repair(request.messages)
        else:
            scene = stage(self._postgres)
            names = {"thread_id": scene.thread_id, "namespace": scene.namespace}
            answers = await known_answers(scene.effects, calls, **names, absent=NOT_BEGUN)
            repaired = repair(request.messages, answers=answers)
        return request.override(messages=cast("Any", repaired.messages)) if repaired.changes else request


def once(
    function: Callable[P, T] | None = None,
    *,
    rule: Rule = "ask",
    key: Callable[P, Any] | None = None,
    postgres: Postgres | None = None,
) -> Any:
    """Run a node or a task once, whatever happens to the process: what it returned is returned again.

    Without a key it is once for each time that the graph comes to it. With one it is once for each key in this
    thread, such as an order's number. The rules are those of `ToolLedger` but for "report", since a node has no
    model to report to; "ask" takes ``"retry"`` or the result for an answer.

        @task
        @once(rule="retry")
        def charge(order): ...
    """
    if function is None:
        return lambda given: once(given, rule=rule, key=key, postgres=postgres)
    if rule == "report":
        raise ValueError('once() has no model to report to: choose "ask", "retry" or "transactional"')
    name = getattr(function, "__name__", type(function).__name__)

    async def run(act: Callable[[], Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        scene = stage(postgres)
        which = ("task", scene.task_id) if key is None else ("key", key(*args, **kwargs))
        effect = Effect(scene.thread_id, key_of(scene.thread_id, scene.namespace, name, which), name, "")
        return await scene.perform(Execution(effect, rule=rule, question={"task": name}), act)

    if iscoroutinefunction(function):

        @wraps(function)
        async def waiting(*args: P.args, **kwargs: P.kwargs) -> Any:
            return await run(lambda: cast("Any", function(*args, **kwargs)), args, kwargs)

        return waiting

    @wraps(function)
    def blocking(*args: P.args, **kwargs: P.kwargs) -> Any:
        return drive(run(lambda: either(lambda: function(*args, **kwargs), _never), args, kwargs))

    return blocking


def _messages_of(state: Any) -> Any:
    if isinstance(state, Mapping):
        return state.get("messages", ())
    return state if isinstance(state, list) else getattr(state, "messages", ())


def _told(answer: Any) -> str:
    return IN_DOUBT if answer is None else f"{IN_DOUBT} A person was asked and answered: {answer}"


async def _never() -> Any:
    raise AssertionError  # only the waiting door gets here
