"""What each strategy shows at a budget, what it costs, and how long it takes to plan.

    python -m benchmarks.context [--talks 4] [--turns 400] [--json] [--chart docs/context.png] [--latency]

No model is called: in place of a model's summary stands the beginning of what it would have been given.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from benchmarks.corpus import Talk, talk
from lc_history.bridge import drive
from lc_history.model import SessionKey
from lc_history.postgres import Postgres
from lc_history.store import Store
from lc_history.stores.memory import MemoryStore
from lc_history.stores.postgres import PostgresStore
from lc_history.stores.redis import RedisStore
from lc_history.strategies import Full, Strategy, Summary, Window
from lc_history.strategies.recall import Hybrid, LexicalIndex, Passage, Recall, VectorIndex
from lc_history.strategies.rendering import clipped
from lc_history.strategies.replay import replay
from lc_history.testing.embeddings import HashingEmbeddings
from lc_history.transcript import Transcript

BUDGETS = (1000, 2000, 4000, 8000)
PRICES = (2.50, 0.25)
KEY = SessionKey("ann", "bench")


@contextmanager
def strategies(budget: int) -> Iterator[dict[str, Strategy]]:
    """Yield the strategies that are compared, each with the whole budget."""
    part, recalled = budget // 8, budget // 4
    summariser = RunnableLambda(lambda prompt: AIMessage(clipped(prompt[-1].text, part // 2)))
    with TemporaryDirectory() as folder:
        indexes = [LexicalIndex.open(f"sqlite:///{folder}/{name}.db") for name in ("recall", "hybrid")]
        for index in indexes:
            drive(index.migrate())
        yield {
            "everything": Full(),
            "trimmed every turn": Window(budget_tokens=budget, low=1.0),
            "window": Window(budget_tokens=budget),
            "summary": Summary(summariser, budget_tokens=budget, summary_tokens=part),
            "recall": Recall(Window(budget_tokens=budget - recalled), indexes[0], recall_tokens=recalled),
            "hybrid": Hybrid(summariser, indexes[1], budget_tokens=budget, summary_tokens=part, recall_tokens=recalled),
        }
        for index in indexes:
            drive(index.close())


def evidence(made: Talk, strategy: Strategy) -> tuple[float, float]:
    """Return the share of questions whose answer is in the prompt, and of those an outdated answer alone would give."""
    transcript = Transcript(MemoryStore(), KEY)
    drive(transcript.append(made.messages))
    found = stale = 0
    for number, probe in enumerate(made.probes):
        asked = [HumanMessage(probe.question, id=f"probe-{number}")]
        text = "\n".join(message.text for message in drive(strategy.view(transcript, asked)).prompt)
        found += probe.answer in text
        stale += probe.answer not in text and probe.outdated is not None and probe.outdated in text
    return found / len(made.probes), stale / len(made.probes)


def quality(talks: list[Talk]) -> list[dict[str, Any]]:
    """Return evidence recall at each budget, and the figures of a replay at the largest."""
    rows: list[dict[str, Any]] = []
    for budget in BUDGETS:
        for made in talks:
            with strategies(budget) as compared:
                for name, strategy in compared.items():
                    found, stale = evidence(made, strategy)
                    rows.append({"strategy": name, "budget": budget, "found": found, "stale": stale})
    for made in talks:
        with strategies(BUDGETS[-1]) as compared:
            for name, strategy in compared.items():
                told = drive(replay(made.messages, strategy, store=MemoryStore()))
                rows.append(
                    {
                        "strategy": name,
                        "tokens": told.tokens,
                        "cached": told.cached_share,
                        "cost": told.cost(*PRICES),
                        "breaks": told.breaks,
                    }
                )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    names = list(dict.fromkeys(row["strategy"] for row in rows))
    budgets = " | ".join(f"found at {budget:,}" for budget in BUDGETS)
    lines = [f"| strategy | {budgets} | cached | tokens | cost | broken prefixes |", "|---|" + "---:|" * 8]
    for name in names:
        mine = [row for row in rows if row["strategy"] == name]
        found = [f"{mean(row['found'] for row in mine if row.get('budget') == budget):.2f}" for budget in BUDGETS]
        played = [row for row in mine if "cost" in row]
        cached = f"{mean(row['cached'] for row in played):.0%}"
        tokens = f"{mean(row['tokens'] for row in played):,.0f}"
        cost, breaks = (mean(row[what] for row in played) for what in ("cost", "breaks"))
        lines.append(f"| {' | '.join([name, *found, cached, tokens, f'{cost:.3f}', f'{breaks:.0f}'])} |")
    return "\n".join(lines)


class Timed(MemoryStore):
    """Is any store, and knows how long it was at work."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store, self.seconds, self.reads = store, 0.0, 0

    async def read(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = await self._store.read(*args, **kwargs)
        self.seconds += time.perf_counter() - started
        self.reads += 1
        return found

    async def append(self, *args: Any, **kwargs: Any) -> Any:
        return await self._store.append(*args, **kwargs)


def planning(name: str, store: Store, messages: list[BaseMessage]) -> None:
    """Print how long a view of a long conversation takes, beyond the store."""
    drive(store.migrate())
    drive(Transcript(store, KEY).append(messages))
    timed = Timed(store)
    transcript, window = Transcript(timed, KEY), Window(budget_tokens=8000)
    asked = [HumanMessage("and now?", id="now")]
    drive(window.view(transcript, asked))  # the cut
    beyond, within, reads = [], [], 0
    for _ in range(50):
        timed.seconds, timed.reads, started = 0.0, 0, time.perf_counter()
        drive(window.view(transcript, asked))
        beyond.append(time.perf_counter() - started - timed.seconds)
        within.append(timed.seconds)
        reads = timed.reads
    print(
        f"| window over {len(messages):,} messages on {name} | {median(beyond) * 1e3:.1f} ms beyond the store, "
        f"{median(within) * 1e3:.1f} ms in {reads} reads |"
    )
    drive(store.close())


def searching(name: str, index: Any, turns: int) -> None:
    """Print how long a search takes."""
    drive(index.migrate())
    made = talk(9, turns=400).messages
    texts = [message.text for message in made if message.text]
    for start in range(0, turns, 1000):
        many = [
            Passage(number + 1, number + 1, f"{texts[number % len(texts)]} n{number}")
            for number in range(start, start + 1000)
        ]
        drive(index.add(KEY, many, after=start, through=start + 1000))
    seconds = []
    for number in range(40):
        question = f"what did we say about the price of stamps and coffee n{number * 37}?"
        started = time.perf_counter()
        found = drive(index.search(KEY, question, scope="session", limit=12))
        seconds.append(time.perf_counter() - started)
        assert found
    print(f"| {name}, {turns:,} turns | {median(seconds) * 1e3:.1f} ms |")
    drive(index.close())


def latency() -> None:
    """Print how long planning and searching take, on real servers."""
    from lc_history.testing.servers.postgres import PostgresServer
    from lc_history.testing.servers.redis import RedisServer

    messages = talk(1, turns=4200).messages[:10_000]
    print("\n| what | median |\n|---|---|")
    with TemporaryDirectory() as folder:
        searching("words, SQLite", LexicalIndex.open(f"sqlite:///{folder}/x.db"), 10_000)
    with RedisServer() as redis:
        planning("Redis", RedisStore.from_url(redis.url), messages)
    with PostgresServer() as server:
        planning("PostgreSQL", PostgresStore(Postgres.open(server.url)), messages)
        searching("words, PostgreSQL", LexicalIndex.open(server.url), 10_000)
        vectors = VectorIndex.open(server.url, HashingEmbeddings(256), model="hash", dimensions=256)
        searching("vectors of 256 dimensions, PostgreSQL", vectors, 100_000)


def chart(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw evidence recall over the budget."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in dict.fromkeys(row["strategy"] for row in rows):
        shares = [
            mean(row["found"] for row in rows if row["strategy"] == name and row.get("budget") == budget)
            for budget in BUDGETS
        ]
        axes.plot(BUDGETS, shares, marker="o", label=name)
    axes.set(xscale="log", xlabel="budget, tokens", ylabel="answers in the prompt", ylim=(0, 1.05))
    axes.set_xticks([], minor=True)
    axes.set_xticks(BUDGETS, [f"{budget:,}" for budget in BUDGETS])
    axes.legend()
    figure.savefig(path, format="png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--talks", type=int, default=4)
    parser.add_argument("--turns", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--latency", action="store_true")
    given = parser.parse_args()
    if given.latency:
        latency()
        return
    rows = quality([talk(seed, turns=given.turns) for seed in range(given.talks)])
    print(json.dumps(rows, indent=1) if given.json else table(rows))
    if given.chart:
        chart(rows, given.chart)


if __name__ == "__main__":
    main()
