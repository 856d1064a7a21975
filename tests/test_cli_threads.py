"""The commands for agents, as a person uses them: on a real PostgreSQL, with the graphs of langgraph.json."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from graphs.approval_agent import graph as approval_agent
from graphs.chat_agent import graph as chat_agent
from lc_history import ChatHistories
from lc_history.agents import Checkpointer, open_checkpointer, resumable
from lc_history.cli.agents import rotated_agents
from lc_history.privacy.keyring import Keyring
from tests import test_cli
from tests.test_cli import Result, Run, rows

ROOT = Path(__file__).parent.parent
GRAPH = ("--graph", "approval_agent")
Command = Callable[..., Result]
run = test_cli.run


@pytest.fixture(scope="module")
def saver(postgres_url: str):
    with open_checkpointer(postgres_url, schema=f"cli {uuid4().hex}") as saver:
        saver.setup()
        yield saver


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAYMENTS", str(tmp_path / "payments"))
    return tmp_path / "payments"


@pytest.fixture
def command(run: Run, saver: Checkpointer, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(ROOT)
    schema = saver.database.postgres.schema
    return lambda *args: run(*args, "--url", postgres_url, "--schema", schema)


@pytest.fixture
def thread(saver: Checkpointer, bank: Path) -> str:
    """Return a thread that waits for a person to judge a payment."""
    name = f"pay {uuid4().hex[:8]}"
    agent = resumable(approval_agent.copy({"checkpointer": saver}))
    agent.invoke({"messages": "pay 120 to Ann"}, {"configurable": {"thread_id": name, "user_id": "ann"}})
    return name


def test_threads_are_listed_and_what_waits_is_told(command: Command, thread: str) -> None:
    [mine] = [row for row in rows(command("threads", "-u", "ann", "--json")) if row["thread"] == thread]
    assert (mine["status"], mine["turns"]) == ("interrupted", 1)
    waiting = rows(command("threads", "--interrupted", "-u", "ann", "--json"))
    assert [row["asked"] for row in waiting if row["thread"] == thread] == ["pay(amount=120, to='Ann')"]
    assert thread not in command("threads", "-u", "bob").stdout
    first = command("threads", "-u", "ann", "--limit", "1")
    assert len(first.stdout.splitlines()) == 2


def test_a_payment_is_approved_once(command: Command, thread: str, bank: Path) -> None:
    waits = command("resume", thread, "-u", "ann", *GRAPH)
    assert waits.returncode == 6
    assert "asks: pay(amount=120, to='Ann')" in waits.stdout
    assert not bank.exists()
    done = command("resume", thread, "-u", "ann", *GRAPH, "--approve")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "pay: paid 120 to Ann"
    assert lines[1].startswith("model: ")
    assert "120 Ann" in bank.read_text()
    assert command("resume", thread, "-u", "ann", *GRAPH, "--approve").returncode == 1
    again = command("resume", thread, "-u", "ann", *GRAPH)
    assert (again.returncode, "nothing left to do" in again.stdout) == (0, True)
    assert len(bank.read_text().splitlines()) == 1


@pytest.mark.parametrize("args", [("--reject", "--reason", "too much"), ("--answer", "JSON")])
def test_a_payment_is_refused(command: Command, thread: str, bank: Path, args: tuple[str, ...]) -> None:
    decisions = '{"decisions": [{"type": "reject", "message": "too much"}]}'
    given = [decisions if one == "JSON" else one for one in args]
    done = command("resume", thread, "-u", "ann", *GRAPH, *given)
    assert done.returncode == 0, done.stderr
    assert "too much" in done.stdout
    assert not bank.exists()


def test_what_a_crash_left_open_is_repaired(command: Command, saver: Checkpointer) -> None:
    name = f"open {uuid4().hex[:8]}"
    calls = [{"name": "pay", "args": {"amount": 1, "to": "Ann"}, "id": "c1"}]
    config = {"configurable": {"thread_id": name, "user_id": "ann"}}
    said = [HumanMessage("pay"), AIMessage("", tool_calls=calls), HumanMessage("hello?")]
    approval_agent.copy({"checkpointer": saver}).update_state(config, {"messages": said}, as_node="__start__")
    found = command("repair", name, "-u", "ann", *GRAPH, "--json")
    assert [(row["done"], row["call"]) for row in rows(found)] == [("answered", "c1")]
    assert rows(command("repair", name, "-u", "ann", *GRAPH, "--json")) == []


def test_a_thread_is_forked_at_a_checkpoint_and_the_first_stays(command: Command, thread: str, bank: Path) -> None:
    listed = rows(command("checkpoints", thread, "-u", "ann", "--json"))
    assert [row["source"] for row in listed][-1] == "input"
    asked = next(row for row in listed if row["messages"] == 1)
    new = command("fork", thread, "-u", "ann", "--checkpoint", asked["checkpoint"]).stdout.strip()
    done = command("resume", new, "-u", "ann", *GRAPH)
    assert "calls pay(amount=120, to='Ann')" in done.stdout
    assert done.returncode == 6
    assert command("resume", new, "-u", "ann", *GRAPH, "--approve").returncode == 0
    assert len(bank.read_text().splitlines()) == 1
    assert len(rows(command("checkpoints", thread, "-u", "ann", "--json"))) == len(listed)


def test_retention_counts_before_it_removes(command: Command, thread: str, saver: Checkpointer) -> None:
    before = len(rows(command("checkpoints", thread, "-u", "ann", "--json")))
    would = rows(command("retain", "--keep-last", "1", "--dry-run", "--json"))[0]
    assert would["checkpoints"] >= before - 1
    assert would["removed"] is False
    assert len(rows(command("checkpoints", thread, "-u", "ann", "--json"))) == before
    rows(command("retain", "--keep-last", "1", "--json"))
    assert len(rows(command("checkpoints", thread, "-u", "ann", "--json"))) < before
    assert rows(command("threads", "--interrupted", "-u", "ann", "--json"))


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        (["resume", "nothing", *GRAPH], 4, "there is no thread 'nothing'"),
        (["fork", "nothing"], 4, "there is no thread 'nothing'"),
        (["resume", "x", "--graph", "unknown"], 1, "langgraph.json here has chat_agent"),
        (["resume", "x", "--graph", "graphs.model:chat_model"], 1, "is no graph"),
        (["resume", "x", "--graph", "graphs.nowhere:graph"], 1, "there is no graph"),
        (["retain"], 2, "say what may go"),
    ],
)
def test_what_goes_wrong_is_told(command: Command, args: list[str], code: int, sentence: str) -> None:
    result = command(*args)
    assert result.returncode == code, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_the_tables_are_made_by_the_command_that_their_absence_names(
    run: Run, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    where = ("--schema", f"made_{uuid4().hex[:8]}")
    missing = run("threads", *where, url=postgres_url)
    assert (missing.returncode, "lc-history migrate --agents" in missing.stderr) == (1, True)
    assert "CREATE TABLE" in run("migrate", "--agents", *where, "--print-sql", url=postgres_url).stdout
    assert run("threads", *where, url=postgres_url).returncode == 1
    assert run("migrate", "--agents", *where, url=postgres_url).returncode == 0
    assert run("threads", *where, url=postgres_url).returncode == 0
    assert run("migrate", *where, url=postgres_url).returncode == 2
    assert run("migrate", "--agents", url="redis://localhost").returncode == 1


def test_agents_need_postgresql_and_their_extra(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    wrong = run("threads", url="redis://localhost")
    assert wrong.returncode == 1
    assert "redis is another store" in wrong.stderr
    for name in [name for name in sys.modules if name.startswith("lc_history.agents")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "langgraph.checkpoint.base", None)
    missing = run("threads", url="postgresql://localhost/x")
    assert missing.returncode == 1
    assert "pip install 'lc-history[agents]'" in missing.stderr
    assert run("sessions", url="memory://").returncode == 0


def test_keys_of_agents_rotate_with_those_of_histories(run: Run, own_postgres: Callable[..., Any], bank: Path) -> None:
    url, old = own_postgres().url, Keyring.generate("old")
    both = f"{Keyring.generate('new').to_env()},{old.to_env()}"
    with ChatHistories.open(url, keys=old) as histories, open_checkpointer(url, keys=old) as saver:
        histories.migrate()
        histories.session("tea").add_messages([HumanMessage("hello")])
        assert rotate(run, url, both) == {"old": 1}, "there are no agents yet"
        saver.setup()
        agent = resumable(approval_agent.copy({"checkpointer": saver}))
        agent.invoke({"messages": "pay 120 to Ann"}, {"configurable": {"thread_id": "pay"}})
    before = rotate(run, url, both)
    assert before["old"] > 1
    assert rotate(run, url, both) == {"new": sum(before.values())}


def test_what_cannot_be_opened_is_told_when_the_rest_is_sealed(run: Run, own_postgres: Callable[..., Any]) -> None:
    url, old = own_postgres().url, Keyring.generate("old")
    both = f"{Keyring.generate('new').to_env()},{old.to_env()}"
    with ChatHistories.open(url, keys=old) as histories, open_checkpointer(url, keys=old) as saver:
        histories.migrate()
        histories.session("tea").add_messages([HumanMessage("hello")])
        saver.setup()
        for thread in ("t1", "t2"):
            resumable(chat_agent.copy({"checkpointer": saver})).invoke(
                {"messages": "hello"}, {"configurable": {"thread_id": thread}}
            )
    flipped = "set_byte(body, length(body) - 9, get_byte(body, length(body) - 9) # 1)"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"UPDATE lc_history_records SET body = {flipped} WHERE stream / 16 = 1")
        connection.execute(f"UPDATE lch_bodies SET body = {flipped} WHERE thread_id = 't2' AND type <> 'references'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LC_HISTORY_KEYS", both)
        result = run("rotate-keys", "--json", url=url)
    assert result.returncode == 5
    told = [line for line in result.stderr.splitlines() if line.startswith("lc-history: it stays as it is: ")]
    assert len(told) == 3
    assert "records session 'tea', user 'default', lane 'messages', number 1" in told[0]
    assert all("lch_bodies thread_id 't2'" in one for one in told[1:])
    assert "old" in {row["sealed by"] for row in rows(result)}
    with open_checkpointer(url, keys=old) as saver:
        assert set(saver.rows_per_key()) == {"new", "old"}


def test_agents_without_keys_stay_so(own_postgres: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    url = own_postgres().url
    monkeypatch.setenv("LC_HISTORY_KEYS", Keyring.generate("new").to_env())
    with open_checkpointer(url) as saver:
        saver.setup()
        agent = resumable(approval_agent.copy({"checkpointer": saver}))
        agent.invoke({"messages": "pay 120 to Ann"}, {"configurable": {"thread_id": "pay"}})
        assert rotated_agents(url, seal_plaintext=False, dry_run=False) == ({}, ())
        assert agent.pending()
        assert rotated_agents(url, seal_plaintext=True, dry_run=False)[0].keys() == {"(none)"}
        assert rotated_agents(url, seal_plaintext=False, dry_run=False)[0].keys() == {"new"}


def rotate(run: Run, url: str, keys: str, *args: str) -> dict[str, int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LC_HISTORY_KEYS", keys)
        result = run("rotate-keys", "--json", *args, url=url)
    assert result.returncode == 0, result.stderr
    return {row["sealed by"]: row["records"] for row in rows(result)}
