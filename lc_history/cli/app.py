"""What all commands share: the application, the options that name a store, and tables for people or JSON."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import datetime
from getpass import getuser
from json import dumps
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any
from urllib.parse import quote

import platformdirs
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lc_history.histories import ChatHistories
from lc_history.history import ChatHistory, Session
from lc_history.model import DEFAULT_USER
from lc_history.privacy.actor import acting_as
from lc_history.privacy.audit import AuditTrail
from lc_history.privacy.keyring import Keyring

app = typer.Typer(
    name="lc-history",
    help="Durable conversations for LangChain and LangGraph.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with its locals would show keys
    add_completion=False,
)

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="LC_HISTORY_URL", help="The store; a SQLite file in your data folder by default."),
]
User = Annotated[str, typer.Option("--user", "-u", help="Whose conversations.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for programs, one object a line.")]
SessionName = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")]

USER = DEFAULT_USER
PIPED_COLUMNS = 1000
TIMES = {"created", "updated", "expires"}
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tabs and newlines, marks that turn the writing direction, lone surrogates."""
KEYS_VARIABLE = "LC_HISTORY_KEYS"
TRAIL = "LC_HISTORY_AUDIT"

_trail: ContextVar[AuditTrail | None] = ContextVar("lc_history_trail", default=None)


def default_url() -> str:
    """Return the URL of the SQLite file in the user's data folder."""
    return f"sqlite:///{quote(str(platformdirs.user_data_path('lc-history') / 'history.sqlite3'))}"


def given_keys() -> Keyring | None:
    """Return the keys in the environment, which a sealed store is opened with."""
    return Keyring.from_env(KEYS_VARIABLE) if os.environ.get(KEYS_VARIABLE) else None


@contextmanager
def opened(url: str | None, **options: Any) -> Iterator[ChatHistories]:
    """Open the store that the command was given; ``LC_HISTORY_KEYS`` holds the keys of a sealed one."""
    with ChatHistories.open(url or default_url(), keys=given_keys(), audit=given_trail(), **options) as histories:
        if url is None or url.startswith("sqlite:"):
            histories.migrate()  # a file of one's own is made when it is first asked for
        yield histories


@contextmanager
def recorded() -> Iterator[None]:
    """Record what the command does, and who runs it, in the audit trail that ``LC_HISTORY_AUDIT`` names."""
    url = os.environ.get(TRAIL)
    with acting_as(f"lc-history/{_who()}"), trail_at(url) if url else nullcontext() as trail:
        token = _trail.set(trail)
        yield
        _trail.reset(token)


def given_trail() -> AuditTrail | None:
    """Return the trail that the command is recorded in."""
    return _trail.get()


def trail_at(url: str) -> AuditTrail:
    """Return the audit trail behind a URL, sealed with the keys in the environment where there are any."""
    return AuditTrail.open(url, keys=given_keys())


def known(history: ChatHistory) -> Session:
    """Return what is known of a conversation; `KeyError`, which ends the command with 4, where there is none."""
    if (session := history.info()) is None:
        message = f"there is no {history}"
        raise KeyError(message)
    return session


def console() -> Console:
    """Return the console to write to: colours for a terminal, plain lines as long as they need to be when piped."""
    piped = not sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=piped, width=PIPED_COLUMNS if piped else None)


def complain(what: object, code: int) -> int:
    """Print one line about what went wrong, and return the exit code."""
    line = visible(" ".join(str(what).split()))
    Console(stderr=True, highlight=False).print(Text(f"lc-history: {line}"), soft_wrap=True)
    return code


def show_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print rows as a table, or as JSON Lines."""
    if as_json:
        for row in rows:
            sys.stdout.buffer.write(json_line(row))
        sys.stdout.flush()
        return
    cells = [{column: visible(_cell(row[column])).replace("\n", "\\n") for column in columns} for row in rows]
    filled = [column for column in columns if any(row[column] for row in cells) or not cells]
    table = Table(box=None, pad_edge=False)
    for column in filled:  # a narrow terminal has no room for empty ones
        table.add_column(column, no_wrap=column in TIMES, overflow="fold")
    for row in cells:
        table.add_row(*(Text(row[column]) for column in filled))
    console().print(table)


def json_line(row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of JSON in ASCII, which holds any text, a lone surrogate too."""
    return dumps(row, default=datetime.isoformat).encode() + b"\n"


def visible(text: str) -> str:
    """Return what somebody else wrote with nothing in it that a terminal obeys or cannot show: it is spelled out."""
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def _who() -> str:
    """Return the login name of whoever runs the command; a container may know none."""
    try:
        return getuser()
    except (OSError, KeyError):
        return "nameless"


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if value is None or value is False:
        return ""
    return "yes" if value is True else str(value)


@contextmanager
def output(path: Path | None) -> Iterator[Any]:
    """Open a file to write bytes to, which is there once it is whole; standard output where there is none."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = path.resolve()
    if path.exists() and not path.is_file():  # a pipe or a device, which nothing may take the place of
        with path.open("wb") as file:
            yield file
        return
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        unfinished = Path(file.name)
        try:
            yield file
        except BaseException:
            unfinished.unlink()
            raise
    unfinished.replace(path)
