"""The agents of langgraph.json, each in processes that end, or are killed, between its steps."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from langgraph.types import Command

from graphs.model import chat_model
from lc_history.agents.offline import OfflineToolModel
from tests.graph_process import CONFIGURATION, graph, loaded, turn
from tests.processes import forked

Process = Callable[..., Any]


@pytest.fixture
def process(postgres_url: str, tmp_path: Path) -> Process:
    context = forked()

    def start(name: str, given: Any, **environment: str) -> Any:
        here, there = context.Pipe(duplex=False)
        started = context.Process(target=turn, args=(there, postgres_url, name, given, environment), daemon=True)
        started.start()
        there.close()
        assert here.recv() == "begins"
        return started, here

    return start


def said(started: tuple[Any, Any]) -> list[Any]:
    process, answer = started
    result = answer.recv()
    process.join(30)
    return result


def test_a_chat_goes_on_in_another_process(process: Process) -> None:
    said(process("chat_agent", {"messages": "I am Ann."}))
    assert "Ann" in said(process("chat_agent", {"messages": "Who am I?"}))[-1]
    assert "day_of_week" in said(process("chat_agent", {"messages": "What day is it?"}))[-1]


def test_a_payment_waits_for_a_person_across_a_restart_and_is_made_once(process: Process, tmp_path: Path) -> None:
    bank = tmp_path / "payments"
    *_, asked = said(process("approval_agent", {"messages": "pay 120 to Ann"}, PAYMENTS=str(bank)))
    assert asked.value["action_requests"][0]["args"] == {"amount": 120, "to": "Ann"}
    assert not bank.exists()
    approved = Command(resume={"decisions": [{"type": "approve"}]})
    assert "paid 120 to Ann" in said(process("approval_agent", approved, PAYMENTS=str(bank)))[-1]
    assert [line.split()[1:] for line in bank.read_text().splitlines()] == [["120", "Ann"]]


def test_research_that_is_killed_goes_on_where_it_stopped(process: Process, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("All about tea and coffee.")
    notes = tmp_path / "notes.md"
    environment = {"RESEARCH_SOURCES": str(tmp_path), "RESEARCH_NOTES": str(notes), "RESEARCH_SECONDS": "0.1"}
    text = "look up tea, coffee; look up cocoa; write report on drinks; look up water"
    running, _ = process("research_agent", {"messages": text}, **environment)
    while not (notes.exists() and notes.read_text()):  # killed before it writes, what it wrote would be in doubt
        time.sleep(0.01)
    running.kill()
    running.join()
    assert running.exitcode == -signal.SIGKILL
    report = said(process("research_agent", None, **environment))[-1]
    assert "tea: in" in report
    assert "cocoa: nothing found" in report
    assert "water: nothing found" in report
    assert notes.read_text().count("# on drinks") == 1


async def test_the_checkpointer_of_the_configuration_is_open_and_set_up(
    own_postgres: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", own_postgres().url)
    async with loaded(CONFIGURATION["checkpointer"]["path"])() as saver:
        agent = graph("chat_agent").copy({"checkpointer": saver})
        config: Any = {"configurable": {"thread_id": "t1"}}
        await agent.ainvoke({"messages": "I am Ann."}, config)
        assert len((await agent.aget_state(config)).values["messages"]) == 2


def test_the_model_is_openais_where_there_is_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert isinstance(chat_model(), OfflineToolModel)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert isinstance(chat_model(), ChatOpenAI)
