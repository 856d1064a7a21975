"""`lc-history eval`: a conversation replayed under each strategy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from lc_history import ChatHistories
from lc_history.bridge import drive
from lc_history.cli import main
from lc_history.privacy.keyring import Keyring
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Full, Window
from lc_history.strategies.replay import Replayed, replay
from lc_history.strategies.tokens import estimate_messages


def talk(turns: int) -> list[BaseMessage]:
    said: list[BaseMessage] = [SystemMessage("be kind", id="s")]
    for number in range(turns):
        said.append(
            HumanMessage(f"And subject{number}? Like subject{max(number - 30, 0)}? " + "word " * 20, id=f"q{number}")
        )
        said.append(AIMessage("", id=f"c{number}", tool_calls=[{"name": "look", "args": {}, "id": f"t{number}"}]))
        said.append(ToolMessage(f"entry{number} says so", tool_call_id=f"t{number}", id=f"r{number}"))
        said.append(AIMessage(f"It is like entry{max(number - 30, 0)}.", id=f"a{number}"))
    return said


def figures(strategy) -> Replayed:
    return drive(replay(talk(60), strategy, store=MemoryStore()))


def test_everything_is_cached_and_grows_and_a_cut_window_is_cheap() -> None:
    full, window, trimmed = (
        figures(Full()),
        figures(Window(budget_tokens=600)),
        figures(Window(budget_tokens=600, low=1)),
    )
    assert full.calls == window.calls == 120
    assert full.largest_tokens == estimate_messages(talk(60)[:-1])
    assert (full.breaks, full.recall) == (0, 1.0)
    assert full.cached_share > 0.95
    assert trimmed.largest_tokens <= 600
    assert 0.8 < window.cached_share < full.cached_share
    assert window.cached_share > trimmed.cached_share + 0.2
    assert 0 < window.breaks < trimmed.breaks
    assert window.recall is not None
    assert window.recall < 1
    assert window.cost(2.5, 0.25) < trimmed.cost(2.5, 0.25) < full.cost(2.5, 2.5)


def test_the_price_is_per_million() -> None:
    told = Replayed(calls=1, tokens=3_000_000, cached_tokens=1_000_000, largest_tokens=1, breaks=0, recall=None)
    assert told.cost(2.0, 0.5) == pytest.approx(4.5)


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'chat.db'}"
    with ChatHistories.open(url) as histories:
        histories.session("s1").add_messages(talk(60))
    return url


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lc-history", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_compares_them_all(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chart = tmp_path / "chart.png"
    assert (
        run(
            monkeypatch,
            "eval",
            "s1",
            "--url",
            url,
            "--budget",
            "1200",
            "--last",
            "180",
            "--json",
            "--chart",
            str(chart),
        )
        == 0
    )
    rows = {row["strategy"]: row for row in map(json.loads, capfd.readouterr().out.splitlines())}
    assert set(rows) == {"full", "trimmed every turn", "window", "summary", "recall", "hybrid"}
    assert all(row["largest"] <= 1200 for name, row in rows.items() if name != "full")
    assert rows["recall"]["recall"] > rows["window"]["recall"]
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_for_people_it_is_a_table_and_bars(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "eval", "s1", "--url", url, "--budget", "1200", "--last", "40") == 0
    out = capfd.readouterr().out
    assert "trimmed every turn" in out
    assert "█" in out
    assert "%" in out


def test_a_turn_over_the_budget_is_counted_and_the_rest_is_compared(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with ChatHistories.open(url) as histories:
        histories.session("s1").add_messages([HumanMessage("word " * 2000), AIMessage("Long."), *talk(1)])
    assert run(monkeypatch, "eval", "s1", "--url", url, "--budget", "200", "--json") == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {row["strategy"]: row["refused"] for row in rows if row["refused"] != 1} == {"full": 0}
    assert {row["calls"] + row["refused"] for row in rows} == {rows[0]["calls"]}


def test_of_a_sealed_conversation_no_index_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = Keyring({"k": b"0" * 32}, current="k")
    url = f"sqlite:///{tmp_path / 'sealed.db'}"
    with ChatHistories.open(url, keys=keys) as histories:
        histories.session("s1").add_messages(talk(8))
    monkeypatch.setenv("LC_HISTORY_KEYS", keys.to_env())
    assert run(monkeypatch, "eval", "s1", "--url", url, "--json") == 0
    rows = [json.loads(line)["strategy"] for line in capfd.readouterr().out.splitlines()]
    assert rows == ["full", "trimmed every turn", "window", "summary"]


def test_an_unknown_session_is_told(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "eval", "nobody", "--url", url) == 4
    assert "there is no session 'nobody'" in capfd.readouterr().err


def test_without_matplotlib_it_says_what_to_install(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(monkeypatch, "eval", "s1", "--url", url, "--last", "4", "--chart", str(tmp_path / "x.png")) == 1
    assert "pip install matplotlib" in capfd.readouterr().err
