"""``lc-history index``: index conversations ahead of time, for recall."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from langchain_core.embeddings import Embeddings
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lc_history.bridge import drive
from lc_history.cli.agents import attribute_at
from lc_history.cli.app import AsJson, Url, app, complain, default_url, opened, show_rows
from lc_history.errors import HistoryError
from lc_history.strategies import Full
from lc_history.strategies.recall import CatchUp, LexicalIndex, Recall, VectorIndex


@app.command()
def index(
    *,
    url: Url = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="Only this user's; everybody's by default.")] = None,
    index_url: Annotated[str | None, typer.Option(help="Where the index is; in the store by default.")] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="module:attribute of LangChain's embeddings; else it is searched by words.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Their name, as VectorIndex has it.")] = None,
    plaintext: Annotated[bool, typer.Option(help="Allow an index in the open of sealed conversations.")] = False,
    as_json: AsJson = False,
) -> None:
    """Index what is not indexed yet. Any number of workers may run at once, and again: from cron, say."""
    place = _index(index_url or url or default_url(), embeddings, model)
    with opened(url) as histories, _counting() as count:
        try:
            drive(place.migrate())
            recall = Recall(Full(), place, plaintext=plaintext)
            report = CatchUp(
                recall,
                histories.store,
                policy=histories.policy,
                user_id=user,
                progress=lambda so_far: count(so_far.sessions + len(so_far.failures)),
            ).run_once()
        finally:
            drive(place.close())
    row = {"sessions": report.sessions, "failed": len(report.failures)}
    show_rows(list(row), [row], as_json=as_json)
    for key, error in report.failures.items():
        complain(f"{key} is not indexed: {error}", 1)
    raise typer.Exit(1 if report.failures else 0)


def _index(url: str, embeddings: str | None, model: str | None) -> LexicalIndex | VectorIndex:
    if embeddings is None:
        return LexicalIndex.open(url)
    if model is None:
        raise typer.BadParameter("vectors of two models cannot be compared: name yours with --model")
    found: Any = attribute_at(embeddings, "embedding")
    if not isinstance(found, Embeddings):
        raise HistoryError(f"{embeddings!r} is not one of LangChain's embeddings but {type(found).__name__}")
    return VectorIndex.open(url, found, model=model, dimensions=len(found.embed_query("How long is it?")))


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """Show how many sessions are done, where a person is looking: how many there are, nobody has counted."""
    columns = TextColumn("Indexing"), SpinnerColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("Indexing", total=None)
        yield lambda done: progress.update(task, completed=done)
