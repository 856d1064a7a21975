"""``lc-history resume | repair``: let an agent go on, or put right what a crash has left, with its own graph."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from json import loads
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from lc_history.bridge import run_async
from lc_history.cli.agents import GraphName, PostgresUrl, Schema, ThreadId, agents_at, graph_called
from lc_history.cli.app import USER, AsJson, User, app, complain, console, show_rows, visible
from lc_history.errors import ConflictError, HistoryError

DECLINED: Final = "A person was asked and declined."
WAITING = 6


@app.command()
def resume(  # noqa: PLR0913 - each is an option of the command
    thread: ThreadId,
    *,
    graph: GraphName,
    approve: Annotated[bool, typer.Option("--approve", help="Say yes to what is asked.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Say no to what is asked.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why not, for the model to read.")] = None,
    answer: Annotated[str | None, typer.Option(help="Say this; JSON is taken for what it means.")] = None,
    interrupt: Annotated[str | None, typer.Option(help="Answer only this one; all that is asked by default.")] = None,
    url: PostgresUrl = None,
    schema: Schema = None,
    user: User = USER,
) -> None:
    """Let an agent go on where it stopped, and show what it does. Exit code 6: it waits for a person."""
    if approve + reject + (answer is not None) > 1:
        message = "give one of --approve, --reject and --answer"
        raise typer.BadParameter(message)
    said = _decision(answer, approve=approve, reject=reject, reason=reason)
    raise typer.Exit(run_async(_resume(thread, graph, said, interrupt, {"url": url, "schema": schema, "user": user})))


@app.command()
def repair(
    thread: ThreadId,
    *,
    graph: GraphName,
    url: PostgresUrl = None,
    schema: Schema = None,
    user: User = USER,
    as_json: AsJson = False,
) -> None:
    """Answer every call that a thread has left open; what waits for a person is left alone."""

    async def work() -> Any:
        from lc_history.agents import arepair_thread

        async with agents_at(url, schema) as saver:
            agent = graph_called(graph, saver)
            await _state(agent, thread, user)
            return await arepair_thread(agent, _config(thread, user))

    changes = run_async(work()).changes
    if changes or as_json:
        rows = [{"done": one.kind, "call": one.tool_call_id, "message": one.message_id} for one in changes]
        show_rows(["done", "call", "message"], rows, as_json=as_json)
    typer.echo(f"{len(changes)} changes", err=True)


Decision = Any
"""A callable that gives the answer to a question, or None where nothing was decided."""


async def _resume(thread: str, graph: str, said: Decision, interrupt: str | None, where: Mapping[str, Any]) -> int:
    from lc_history.cli.run_view import RunView

    out, config = console(), _config(thread, where["user"])
    async with agents_at(where["url"], where["schema"]) as saver:
        agent = graph_called(graph, saver)
        state = await _state(agent, thread, where["user"])
        questions = {one.id: one.value for one in state.interrupts if interrupt in (None, one.id)}
        if said is None and state.interrupts:
            return _waiting(state.interrupts)
        if said is not None and not questions:
            message = f"thread {thread!r} asks no such thing: lc-history threads --interrupted shows what waits"
            raise ConflictError(message)
        if not questions and not state.next:
            out.print(Text(visible(f"thread {thread} has nothing left to do")))
            return 0
        with RunView(out, state.values.get("messages", ()), live=sys.stdout.isatty()) as view:
            watched = agent.with_config(callbacks=[view])
            try:
                if questions:
                    answers = {name: said(asked) for name, asked in questions.items()}
                    await watched.aresume(thread, answers, user_id=where["user"])
                else:
                    await watched.ainvoke(None, config)
            except HistoryError:
                raise
            except Exception as error:  # the agent's own code; its state is kept
                message = f"the run failed, and can be resumed: {type(error).__name__}: {error}"
                raise HistoryError(message) from error
        state = await agent.aget_state(config)
    return _waiting(state.interrupts) if state.interrupts else 0


def _waiting(interrupts: Any) -> int:
    from lc_history.cli.run_view import asked

    for one in interrupts:
        console().print(Text(visible(f"asks: {asked(one.value)}  ({one.id})"), style="magenta"))
    return complain("it waits for a person: resume it with --approve, --reject or --answer", WAITING)


def _decision(answer: str | None, *, approve: bool, reject: bool, reason: str | None) -> Decision:
    if answer is not None:
        return lambda _: _parsed(answer)
    if approve or reject:
        return lambda asked: _approved(asked) if approve else _rejected(asked, reason)
    return None


def _parsed(text: str) -> Any:
    try:
        return loads(text)
    except ValueError:
        return text


def _approved(asked: Any) -> Any:
    """Return yes, as the one who asks understands it: LangChain's middleware, the ledger, or a graph of one's own."""
    match asked:
        case {"action_requests": [*actions]}:
            return {"decisions": [{"type": "approve"} for _ in actions]}
        case {"in_doubt": _, "or": again}:
            return again
    return True


def _rejected(asked: Any, reason: str | None) -> Any:
    match asked:
        case {"action_requests": [*actions]}:
            why = {"message": reason} if reason else {}
            return {"decisions": [{"type": "reject", **why} for _ in actions]}
        case {"in_doubt": _}:
            return reason or DECLINED
    return False


def _config(thread: str, user: str) -> Any:
    return {"configurable": {"thread_id": thread, "user_id": user}}


async def _state(agent: Any, thread: str, user: str) -> Any:
    """Return where a thread stands; `KeyError` if there is none."""
    state = await agent.aget_state(_config(thread, user))
    if state.created_at is None:
        message = f"there is no thread {thread!r} of user {user!r}"
        raise KeyError(message)
    return state
