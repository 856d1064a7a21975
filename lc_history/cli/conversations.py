"""``lc-history sessions | show | export | import | rm``: look at conversations and move them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from json import loads
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from lc_history.bridge import collect, drive
from lc_history.cli.app import (
    USER,
    AsJson,
    SessionName,
    Url,
    User,
    app,
    console,
    json_line,
    known,
    opened,
    output,
    show_rows,
    visible,
)
from lc_history.history import Session
from lc_history.portable import exported, imported, session_of
from lc_history.reading import Said
from lc_history.store import every_session


@app.command()
def sessions(
    *,
    url: Url = None,
    user: User = USER,
    archived: Annotated[
        bool | None, typer.Option("--archived/--active", help="Only those; all of them by default.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """List a user's conversations, the latest first."""
    with opened(url) as histories:
        listing = histories.sessions(user, archived=archived, limit=limit, cursor=cursor)
    columns = ["session", "title", "messages", "created", "updated", "expires", "archived", "tags"]
    show_rows(columns, map(_session_row, listing.items), as_json=as_json)
    if listing.cursor is not None:
        typer.echo(f"More: lc-history sessions --cursor {listing.cursor}", err=True)


@app.command()
def show(
    session: SessionName,
    *,
    url: Url = None,
    user: User = USER,
    last: Annotated[int | None, typer.Option(help="Only the last so many messages.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a conversation."""
    with opened(url, unreadable="report") as histories:
        history = histories.session(session, user_id=user)
        known(history)
        reading = history.page(last=last)
    if as_json:
        show_rows([], map(_message_row, reading.said), as_json=True)
        return
    out = console()
    for one in reading.said:
        out.print(Text(f"{one.seq:>5}  {one.created_at.astimezone():%Y-%m-%d %H:%M}  {one.message.type}", style="dim"))
        out.print(Text(visible(one.message.text or str(getattr(one.message, "tool_calls", "")))))
    for lost in reading.unreadable:
        out.print(Text(f"{lost.seq:>5}  unreadable: {visible(lost.reason)}", style="red"))


@app.command()
def export(
    session: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="One session; all by default.")] = None,
    *,
    url: Url = None,
    user: User = USER,
    to: Annotated[Path | None, typer.Option("--to", "-o", help="A file; standard output by default.")] = None,
) -> None:
    """Write conversations as JSON Lines, losing nothing. Sealed ones are written in the clear."""
    with opened(url) as histories:
        if session is not None:
            names = [session]
        else:
            names = [info.key.session_id for info in drive(collect(every_session(histories.store, user_id=user)))]
        with output(to) as file:
            for name in track(names, "Exporting", console=Console(stderr=True), disable=not sys.stderr.isatty()):
                transcript = histories.session(name, user_id=user).transcript
                for row in drive(collect(exported(transcript))):
                    file.write(json_line(row))
    typer.echo(f"{len(names)} sessions exported", err=True)


@app.command("import")
def import_(
    source: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Standard input by default.")] = None,
    *,
    url: Url = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Whose they become; as exported by default.")] = None,
) -> None:
    """Read conversations that `export` wrote. What is there already is left alone; the rest is added."""
    count = added = 0
    with opened(url) as histories, sys.stdin.buffer if source is None else source.open("rb") as lines:
        parts = _sessions_in(lines)
        for head, rows in track(parts, "Importing", console=Console(stderr=True), disable=not sys.stderr.isatty()):
            key = session_of(head)
            into = histories.session(key.session_id, user_id=user or key.user_id).transcript
            added += drive(imported(head, rows, into))
            count += 1
    typer.echo(f"{count} sessions imported, {added} new messages", err=True)


@app.command()
def rm(
    session: SessionName,
    *,
    url: Url = None,
    user: User = USER,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Erase a conversation with everything that belongs to it."""
    with opened(url) as histories:
        history = histories.session(session, user_id=user)
        info = known(history)
        if not yes:
            typer.confirm(f"Erase {history} with {info.count} messages?", abort=True)
        history.clear()
    typer.echo(f"erased {history}", err=True)


def _sessions_in(lines: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Part the lines of an export into sessions: a head, then its records."""
    head: dict[str, Any] | None = None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(chain(lines, [b""]), 1):
        try:
            row = loads(line) if line.strip() else None
        except ValueError as error:
            message = f"line {number} is no JSON, so nothing after the session before it was imported: {error}"
            raise ValueError(message) from error
        if not isinstance(row, dict | None):
            message = f"line {number} is no row of an export, so nothing after the session before it was imported"
            raise ValueError(message)  # noqa: TRY004 - the file is wrong, no caller
        if head is not None and (row is None or "lc_history" in row):
            yield head, rows
            head, rows = None, []
        if row is None:
            continue
        if head is None:
            head = row
        else:
            rows.append(row)


def _session_row(one: Session) -> dict[str, Any]:
    return {
        "session": one.session_id,
        "title": one.label.title,
        "messages": one.count,
        "created": one.created_at,
        "updated": one.updated_at,
        "expires": one.expires_at,
        "archived": one.archived,
        "tags": one.label.tags,
    }


def _message_row(one: Said) -> dict[str, Any]:
    message = one.message
    row = {"seq": one.seq, "id": message.id, "created": one.created_at, "type": message.type, "text": message.text}
    calls = getattr(message, "tool_calls", None)
    return {**row, "tool_calls": calls} if calls else row
