"""``lc-history eval``: what a conversation would have cost under each strategy."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableLambda
from rich.table import Table
from rich.text import Text

from lc_history.bridge import drive
from lc_history.cli.app import USER, AsJson, SessionName, Url, User, app, console, known, opened, show_rows
from lc_history.errors import MissingExtraError
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Full, Strategy, Summary, Window
from lc_history.strategies.recall import Hybrid, LexicalIndex, Recall
from lc_history.strategies.rendering import clipped
from lc_history.strategies.replay import Replayed, replay

BAR_CHARACTERS = 32


@app.command("eval")
def evaluate(
    session: SessionName,
    *,
    url: Url = None,
    user: User = USER,
    budget: Annotated[int, typer.Option(help="Tokens that a prompt may have.", min=200)] = 8000,
    last: Annotated[int, typer.Option(help="How many messages, from the end.", min=1)] = 1000,
    prices: Annotated[
        tuple[float, float], typer.Option(help="Of a million tokens of input, and of a million that are cached.")
    ] = (2.50, 0.25),
    chart: Annotated[Path | None, typer.Option(help="Draw a chart into this PNG file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a conversation under each strategy: tokens, cached share, cost, broken prefixes, recall.

    Calls whose turn alone is over the budget are refused, and not among the figures.
    No model is called. In place of a model's summary stands the beginning of what it would have been given, so the
    recall of summary and hybrid is a lower bound. Of a sealed conversation no index is made, and nothing that needs
    one is compared.
    """
    with opened(url) as histories:
        history = histories.session(session, user_id=user)
        known(history)
        messages = history.last(last)
        sealed = histories.policy.keys is not None
    with _quiet(), _strategies(budget) as strategies:
        if sealed:
            del strategies["recall"], strategies["hybrid"]
        found = {name: drive(replay(messages, one, store=MemoryStore())) for name, one in strategies.items()}
    rows = [_row(name, figures, prices) for name, figures in found.items()]
    show_rows(list(rows[0]), rows if as_json else map(_rounded, rows), as_json=as_json)
    if not as_json:
        _show_bars(rows)
    if chart is not None:
        draw(rows, chart)


@contextmanager
def _strategies(budget: int) -> Iterator[dict[str, Strategy]]:
    """Open the strategies that are compared, each with the same budget."""
    part = budget // 8
    first_words: Runnable[Any, Any] = RunnableLambda(lambda prompt: _beginning(prompt, part))
    with TemporaryDirectory() as folder:
        index, another = (LexicalIndex.open(f"sqlite:///{folder}/{name}.db") for name in ("recall", "hybrid"))
        for one in (index, another):
            drive(one.migrate())
        yield {
            "full": Full(),
            "trimmed every turn": Window(budget_tokens=budget, low=1.0),
            "window": Window(budget_tokens=budget),
            "summary": Summary(first_words, budget_tokens=budget, summary_tokens=part),
            "recall": Recall(Window(budget_tokens=budget - part), index, recall_tokens=part),
            "hybrid": Hybrid(first_words, another, budget_tokens=budget, summary_tokens=part, recall_tokens=part),
        }
        for one in (index, another):
            drive(one.close())


def _beginning(prompt: list[BaseMessage], most_tokens: int) -> AIMessage:
    """Stand in for a model that summarises."""
    return AIMessage(clipped(prompt[-1].text, most_tokens // 2))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what a strategy logs about a replay out of the terminal."""
    logger = logging.getLogger("lc_history")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _row(name: str, figures: Replayed, prices: tuple[float, float]) -> dict[str, Any]:
    return {
        "strategy": name,
        "calls": figures.calls,
        "refused": figures.refused,
        "tokens": figures.tokens,
        "largest": figures.largest_tokens,
        "cached": figures.cached_share,
        "cost": figures.cost(*prices),
        "breaks": figures.breaks,
        "recall": figures.recall,
    }


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    recall = "" if row["recall"] is None else f"{row['recall']:.0%}"
    thousands = {name: f"{row[name]:,}" for name in ("tokens", "largest")}
    thousands["refused"] = str(row["refused"] or "")
    return {**row, **thousands, "cached": f"{row['cached']:.0%}", "cost": f"{row['cost']:.4f}", "recall": recall}


def _show_bars(rows: list[dict[str, Any]]) -> None:
    """Print what each strategy costs as a bar."""
    most = max(row["cost"] for row in rows) or 1.0
    table = Table("cost", "", box=None, pad_edge=False)
    for row in rows:
        bar = "█" * max(round(BAR_CHARACTERS * row["cost"] / most), 1)
        table.add_row(row["strategy"], Text(f"{bar} {row['cost']:.4f}", style="cyan"))
    console().print(table)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw cost, cached share and recall of each strategy into a PNG file."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("a chart needs matplotlib: pip install matplotlib") from error
    names = [row["strategy"] for row in rows]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for place, (what, title) in enumerate({"cost": "cost", "cached": "cached share", "recall": "recall"}.items(), 1):
        axes = figure.add_subplot(1, 3, place)
        axes.barh(names, [row[what] or 0 for row in rows], color="#2a6f97")
        axes.invert_yaxis()
        axes.set_title(title)
        if place > 1:
            axes.set_yticklabels([])
            axes.set_xlim(0, 1)
    figure.savefig(path, format="png", dpi=120)
