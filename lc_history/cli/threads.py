"""``lc-history threads | checkpoints | fork | retain``: look after the threads of agents, without their graphs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

import typer

from lc_history.bridge import drive
from lc_history.cli.agents import PostgresUrl, Schema, ThreadId, agents_at
from lc_history.cli.app import USER, AsJson, User, app, show_rows
from lc_history.cli.upkeep import duration


@app.command()
def threads(
    *,
    url: PostgresUrl = None,
    schema: Schema = None,
    user: User = USER,
    interrupted: Annotated[bool, typer.Option(help="What waits for a person, with what is asked.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the listing before ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the threads of agents, the most recently active first."""
    with agents_at(url, schema) as saver:
        if interrupted:
            from lc_history.agents.running.approvals import pending

            questions = drive(pending(saver, user, limit))
            show_rows(["thread", "interrupt", "asked", "since"], map(_question_row, questions), as_json=as_json)
            return
        page = saver.threads.list(user, limit=limit, cursor=cursor)
    columns = ["thread", "title", "status", "turns", "checkpoints", "created", "updated"]
    show_rows(columns, map(_thread_row, page.items), as_json=as_json)
    if page.cursor is not None:
        typer.echo(f"More: lc-history threads --cursor {page.cursor}", err=True)


@app.command()
def checkpoints(
    thread: ThreadId,
    *,
    url: PostgresUrl = None,
    schema: Schema = None,
    user: User = USER,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the checkpoints of a thread, the latest first: each is a place to fork at."""
    config: Any = {"configurable": {"thread_id": thread, "user_id": user, "checkpoint_ns": ""}}
    with agents_at(url, schema) as saver:
        found = list(saver.list(config, limit=limit))
    if not found:
        raise KeyError(_no(thread, user))
    rows = [
        {
            "checkpoint": one.checkpoint["id"],
            "step": one.metadata.get("step"),
            "source": one.metadata.get("source"),
            "messages": len(one.checkpoint["channel_values"].get("messages") or ()),
            "created": datetime.fromisoformat(one.checkpoint["ts"]),
        }
        for one in found
    ]
    show_rows(["checkpoint", "step", "source", "messages", "created"], rows, as_json=as_json)


@app.command()
def fork(
    thread: ThreadId,
    new: Annotated[str | None, typer.Argument(metavar="[NEW]", help="The new thread's id; made up by default.")] = None,
    *,
    url: PostgresUrl = None,
    schema: Schema = None,
    user: User = USER,
    checkpoint: Annotated[str | None, typer.Option(help="Up to this one; all of the thread by default.")] = None,
) -> None:
    """Begin a new thread as a copy of another, and print its id."""
    name = new or f"{thread}-{uuid4().hex[:8]}"
    with agents_at(url, schema) as saver:
        if saver.threads.get(thread, user_id=user) is None:
            raise KeyError(_no(thread, user))
        saver.threads.fork(thread, name, checkpoint_id=checkpoint, user_id=user)
    typer.echo(name)


@app.command()
def retain(
    *,
    url: PostgresUrl = None,
    schema: Schema = None,
    max_age: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar="TIME", help="Remove older checkpoints: 30d.")
    ] = None,
    keep_last: Annotated[
        int | None, typer.Option(min=1, help="Keep this many checkpoints of a thread, whatever their age.")
    ] = None,
    max_idle: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar="TIME", help="Delete threads that were idle so long.")
    ] = None,
    max_retry: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="TIME", help="Forget turns, answers and deletions that are older: 7d."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only count what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what is old, beside running agents. What waits for a person and what a run holds is left alone."""
    if max_age is None and keep_last is None and max_idle is None and max_retry is None:
        message = "say what may go: --max-age 30d, --keep-last 10, --max-idle 90d or --max-retry 7d"
        raise typer.BadParameter(message)
    with agents_at(url, schema) as saver:
        limits = {"max_age": max_age, "max_idle": max_idle, "max_retry": max_retry}
        report = saver.retain(**limits, keep_last=keep_last, dry_run=dry_run)
    row = {**asdict(report), "removed": not dry_run}
    show_rows(list(row), [row], as_json=as_json)


def _no(thread: str, user: str) -> str:
    return f"there is no thread {thread!r} of user {user!r}"


def _thread_row(one: Any) -> dict[str, Any]:
    return {
        "thread": one.thread_id,
        "title": one.title,
        "status": one.status,
        "turns": one.turns,
        "checkpoints": one.checkpoints,
        "created": one.created_at,
        "updated": one.updated_at,
    }


def _question_row(one: Any) -> dict[str, Any]:
    from lc_history.cli.run_view import asked

    return {"thread": one.thread_id, "interrupt": one.interrupt_id, "asked": asked(one.asked), "since": one.since}
