"""``lc-history doctor | migrate | archive | rotate-keys``: keep the store in order."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from lc_history.bridge import collect, drive
from lc_history.cli.agents import POSTGRES, agents_at, rotated_agents
from lc_history.cli.app import AsJson, Url, app, complain, known, opened, show_rows
from lc_history.doctor import Finding, examine
from lc_history.errors import StoreError
from lc_history.histories import ChatHistories
from lc_history.model import DEFAULT_USER, SessionKey
from lc_history.rotation import Refused, RotationError, rotate
from lc_history.store import every_session
from lc_history.stores.tiered import Archiver, ArchiveReport, TieredStore

DAMAGED = 5


def duration(text: str) -> timedelta:
    """Read a time such as ``90s``, ``30m``, ``12h`` or ``7d``."""
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        message = f"{text!r} is no time: write 90s, 30m, 12h or 7d"
        raise typer.BadParameter(message)
    return timedelta(**{units[match[2]]: float(match[1])})


@app.command()
def doctor(
    session: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="One session; all by default.")] = None,
    *,
    url: Url = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Only this user's; everybody's by default.")] = None,
    quarantine: Annotated[bool, typer.Option(help="Set unreadable messages aside; their bytes are kept.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look for messages that cannot be read. Exit code 5 when there are any that stay where they are."""
    findings: list[Finding] = []
    with opened(url) as histories:
        keys = _keys(histories, user) if session is None else [_existing(histories, session, user)]
        for key in track(keys, "Examining", disable=not sys.stderr.isatty()):
            transcript = histories.session(key.session_id, user_id=key.user_id).transcript
            findings += drive(collect(examine(transcript, set_aside=quarantine)))
    if findings or as_json:
        rows = [
            {
                "user": one.key.user_id,
                "session": one.key.session_id,
                "seq": one.seq,
                "set aside": one.set_aside,
                "reason": one.reason,
            }
            for one in findings
        ]
        show_rows(["user", "session", "seq", "set aside", "reason"], rows, as_json=as_json)
    typer.echo(f"{len(keys)} sessions examined, {len(findings)} unreadable messages", err=True)
    if any(not one.set_aside for one in findings):
        raise typer.Exit(DAMAGED)


@app.command()
def migrate(
    *,
    url: Url = None,
    agents: Annotated[bool, typer.Option("--agents", help="Those of agents too, which PostgreSQL alone has.")] = False,
    schema: Annotated[str | None, typer.Option(help="With --agents: the schema of the tables.")] = None,
    print_sql: Annotated[bool, typer.Option("--print-sql", help="Print what would be run, for a DBA.")] = False,
) -> None:
    """Create or upgrade tables and indexes, where the store has any. Any number of processes may do it at once."""
    if agents:
        with agents_at(url, schema, setup=not print_sql) as saver:
            if print_sql:
                typer.echo(saver.sql())
                return
        typer.echo("the tables of agents are up to date, and those of histories", err=True)
        return
    if schema is not None:
        message = "--schema is for --agents"
        raise typer.BadParameter(message)
    with opened(url) as histories:
        if print_sql:
            typer.echo(histories.store.migration() or "-- this store needs nothing by hand")
            return
        histories.migrate()
    typer.echo("the store is up to date", err=True)


@app.command()
def archive(
    *,
    url: Url = None,
    idle: Annotated[timedelta, typer.Option(parser=duration, metavar="TIME", help="How long nobody wrote: 30m.")],
    every: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar="TIME", help="Again and again, until Ctrl-C: 1m.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Once, which it does unless --every is given.")] = False,
    as_json: AsJson = False,
) -> None:
    """Move idle sessions from the hot store to the cold one. Any number of workers may run at once."""
    with opened(url) as histories, _watched("Archiving") as progress:
        store = histories.store
        if not isinstance(store, TieredStore):
            message = (
                "there is nothing to move between: give a hot and a cold store, --url redis://...+postgresql://..."
            )
            raise StoreError(message)
        if once and every is not None:
            raise typer.BadParameter("--once or --every, not both")
        archiver = Archiver(store, idle=idle, progress=progress)
        if every is None:
            report = archiver.run_once()
            _tell(report, as_json=as_json)
            raise typer.Exit(1 if report.failures else 0)
        for report in archiver.run_every(every):
            _tell(report, as_json=as_json)


def _tell(report: ArchiveReport, *, as_json: bool) -> None:
    row = {
        "moved": report.moved,
        "skipped": report.skipped,
        "bytes": report.bytes,
        "failed": len(report.failures),
        "interrupted": str(report.interrupted) if report.interrupted else None,
    }
    show_rows(list(row), [row], as_json=as_json)
    for key, error in report.failures.items():
        complain(f"{key} stays in the hot store: {error}", 1)


@contextmanager
def _watched(what: str) -> Iterator[Callable[[ArchiveReport], None] | None]:
    """Give what shows how far a pass has come, where a person is looking."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda report: progress.update(task, completed=report.seen, total=report.idle)


@app.command("rotate-keys")
def rotate_keys(
    *,
    url: Url = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Only this user's; everybody's by default.")] = None,
    seal_plaintext: Annotated[bool, typer.Option(help="Also seal what was stored before there were keys.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only count what each key has sealed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Seal everything with the first key of LC_HISTORY_KEYS; the others open what they sealed. Runs beside traffic.

    In PostgreSQL that includes the threads of agents, where there are any. What cannot be opened stays as it is; it is
    told when all others are sealed, and the exit code is 5.
    """
    count: Counter[str] = Counter()
    refused: list[Refused] = []
    with opened(url) as histories:
        for key in track(_keys(histories, user), "Sealing", disable=not sys.stderr.isatty()):
            transcript = histories.session(key.session_id, user_id=key.user_id).transcript
            try:
                count += drive(rotate(transcript, seal_plaintext=seal_plaintext, dry_run=dry_run))
            except RotationError as error:
                count += error.count
                refused += error.refused
    if user is None and (url or "").partition(":")[0] in POSTGRES:
        of_agents, others = rotated_agents(url, seal_plaintext=seal_plaintext, dry_run=dry_run)
        count += of_agents
        refused += [one for one in others if one not in refused]  # words are both a session's and a thread's
    rows = [{"sealed by": key, "records": records} for key, records in sorted(count.items())]
    show_rows(["sealed by", "records"], rows, as_json=as_json)
    for one in refused:
        complain(f"it stays as it is: {one}", DAMAGED)
    if refused:
        raise typer.Exit(DAMAGED)


def _existing(histories: ChatHistories, session: str, user: str | None) -> SessionKey:
    history = histories.session(session, user_id=user or DEFAULT_USER)
    known(history)
    return history.transcript.key


def _keys(histories: ChatHistories, user: str | None) -> list[SessionKey]:
    """Return all sessions of a user, or of everybody."""
    return [info.key for info in drive(collect(every_session(histories.store, user_id=user)))]
