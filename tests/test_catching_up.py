"""The worker that indexes ahead of time: everybody's conversations, each turn once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from lc_history import ChatHistories
from lc_history.bridge import drive
from lc_history.cli import main
from lc_history.errors import PolicyError
from lc_history.model import Entry, SessionKey
from lc_history.postgres import Postgres
from lc_history.privacy.keyring import Keyring
from lc_history.stores.memory import MemoryStore
from lc_history.stores.postgres import PostgresStore
from lc_history.stores.sqlite import SQLiteStore
from lc_history.strategies import Full
from lc_history.strategies.recall import CatchUp, CatchUpReport, LexicalIndex, Recall, VectorIndex
from lc_history.testing.embeddings import HashingEmbeddings
from lc_history.transcript import Policy, Transcript

KEYS = [
    SessionKey(user, session) for user in ("ann", "a%n_", "ann' OR 1=1 --", "\x00\ud83d") for session in ("s", "ann/s")
]


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, LexicalIndex]]:
    """Open a store and an index in its database."""
    if request.param == "sqlite":
        store: Any = SQLiteStore(tmp_path / "chat.db")
        index = LexicalIndex.open(f"sqlite:///{tmp_path}/chat.db")
    else:
        url, schema = request.getfixturevalue("postgres_url"), f"catch_{tmp_path.name}".replace("-", "_")[-60:]
        store = PostgresStore(Postgres.open(url, schema=schema))
        index = LexicalIndex.open(url, schema=schema)
    drive(store.migrate())
    drive(index.migrate())
    yield store, index
    drive(index.close())
    drive(store.close())


def spoken(store: Any, policy: Policy | None = None) -> None:
    """Let everybody say what they alone know, in three turns of which the last may still be under way."""
    for number, key in enumerate(KEYS):
        told = [f"My secret is harbour{number}.", "Something else, please.", "And now?"]
        said = [one for text in told for one in (HumanMessage(text), AIMessage("Well."))]
        drive(Transcript(store, key, policy).append(said[:-1]))


def found(index: Any, scope: Any = "user") -> list[list[tuple[SessionKey, int]]]:
    """Return where each one's own secret is found when everybody looks for all of them."""
    everything = " ".join(f"harbour{number}" for number in range(len(KEYS)))
    hits = [drive(index.search(key, everything, scope=scope, limit=50)) for key in KEYS]
    return [sorted((one.key, one.first_seq) for one in some if one.first_seq == 1) for some in hits]


EVERYTHING = [sorted((one, 1) for one in KEYS if one.user_id == key.user_id) for key in KEYS]


@pytest.mark.parametrize("door", ["blocking", "async"])
def test_everybody_is_indexed_and_nobody_finds_what_another_said(place: tuple[Any, LexicalIndex], door: str) -> None:
    store, index = place
    spoken(store)
    seen: list[int] = []
    worker = CatchUp(Recall(Full(), index), store, progress=lambda report: seen.append(report.sessions))

    async def run() -> CatchUpReport:
        report = await worker.arun_once()
        for one in (index, store):
            await one.close()
        return report

    for _ in range(2):
        report = worker.run_once() if door == "blocking" else asyncio.run(run())
        assert report == CatchUpReport(len(KEYS))
        assert found(index) == EVERYTHING
        assert found(index, "session") == [[(key, 1)] for key in KEYS]
        assert [drive(index.through(key)) for key in KEYS] == [4] * len(KEYS), "all turns but the last"
    assert seen == [*range(1, len(KEYS) + 1)] * 2


def test_only_one_user(place: tuple[Any, LexicalIndex]) -> None:
    store, index = place
    spoken(store)
    assert CatchUp(Recall(Full(), index), store, user_id="ann").run_once().sessions == 2
    assert [bool(some) for some in found(index)] == [key.user_id == "ann" for key in KEYS]


def test_it_goes_on_after_it_was_broken_off(place: tuple[Any, LexicalIndex]) -> None:
    store, index = place
    spoken(store)

    def breaks_off(report: CatchUpReport) -> None:
        if report.sessions == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CatchUp(Recall(Full(), index), store, progress=breaks_off).run_once()
    assert sum(map(len, found(index, "session"))) == 3
    CatchUp(Recall(Full(), index), store).run_once()
    assert found(index) == EVERYTHING


class Choosy(HashingEmbeddings):
    """Embeddings that one text is too much for."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if any("harbour2." in text for text in texts):
            raise RuntimeError("I would rather not")
        return super().embed_documents(texts)


@pytest.fixture
def schema(tmp_path: Path) -> str:
    return f"catch_{tmp_path.name}".replace("-", "_")[-60:]


def test_what_cannot_be_embedded_or_read_is_reported_and_the_rest_is_indexed(postgres_url: str, schema: str) -> None:
    store = PostgresStore(Postgres.open(postgres_url, schema=schema))
    index = VectorIndex.open(postgres_url, Choosy(64), model="choosy", dimensions=64, schema=schema)
    drive(store.migrate())
    drive(index.migrate())
    spoken(store)
    damaged = SessionKey("bob", "s")
    drive(store.append(damaged, [Entry("1", b"{damaged")]))
    report = CatchUp(Recall(Full(), index), store).run_once()
    assert report.sessions == len(KEYS) - 1
    assert {key: type(error).__name__ for key, error in report.failures.items()} == {
        KEYS[2]: "SearchFailedError",
        damaged: "DecodeError",
    }
    assert [drive(index.through(key)) for key in KEYS] == [0 if key == KEYS[2] else 4 for key in KEYS]
    for one in (index, store):
        drive(one.close())


def test_what_is_sealed_is_not_indexed_unless_that_is_allowed(tmp_path: Path) -> None:
    index = LexicalIndex.open(f"sqlite:///{tmp_path}/index.db")
    drive(index.migrate())
    store, policy = MemoryStore(), Policy(keys=Keyring({"k": b"0" * 32}, current="k"))
    spoken(store, policy)
    with pytest.raises(PolicyError, match="is sealed, and an index of it would not be"):
        CatchUp(Recall(Full(), index), store, policy=policy).run_once()
    assert CatchUp(Recall(Full(), index, plaintext=True), store, policy=policy).run_once().sessions == len(KEYS)
    drive(index.close())


def test_several_processes_index_each_turn_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    with ChatHistories.open(url) as histories:
        histories.migrate()
        spoken(histories.store)
    command = [sys.executable, "-m", "lc_history", "index", "--url", url, "--json"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    told = [json.loads(worker.communicate(timeout=60)[0]) for worker in workers]
    assert told == [{"sessions": len(KEYS), "failed": 0}] * 4
    index = LexicalIndex.open(url)
    assert found(index) == EVERYTHING
    drive(index.close())
    with closing(sqlite3.connect(tmp_path / "chat.db")) as db, db:
        assert db.execute("SELECT count(*) FROM lc_history_lexical_turns").fetchone() == (2 * len(KEYS),)


OURS = """
from lc_history.testing.embeddings import HashingEmbeddings
ours = HashingEmbeddings(64)
"""


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lc-history", "index", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_takes_anybodys_embeddings(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    with ChatHistories.open(url) as histories:
        spoken_in = histories.session("s", user_id="ann")
        spoken_in.add_messages([HumanMessage("The harbour is closed."), HumanMessage("And now?")])
    (tmp_path / "mine.py").write_text(OURS)
    with_ours = ("--url", url, "--index-url", postgres_url, "--embeddings", f"{tmp_path}/mine.py:ours")
    assert run(monkeypatch, *with_ours) == 2, "vectors of two models cannot be compared"
    assert run(monkeypatch, *with_ours, "--model", "ours") == 0
    index = VectorIndex.open(postgres_url, HashingEmbeddings(64), model="ours", dimensions=64)
    assert len(drive(index.search(SessionKey("ann", "s"), "harbour", scope="session", limit=5))) == 1
    drive(index.close())


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("nowhere:ours", "there is no embedding 'nowhere:ours'"), ("os:path", "is not one of LangChain's embeddings")],
)
def test_embeddings_that_are_none_are_one_line(
    name: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--url", f"sqlite:///{tmp_path}/chat.db", "--embeddings", name, "--model", "x") == 1
    assert complaint in capfd.readouterr().err
