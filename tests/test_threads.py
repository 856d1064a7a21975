"""The index of threads, forks of them, and what retention takes and leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from lc_history import ChatHistories
from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.running.graph import resumable
from lc_history.agents.threads.retention import Retained
from lc_history.bridge import drive
from lc_history.errors import ConflictError, PolicyError
from lc_history.privacy.keyring import Keyring

KEYS = Keyring({"k": b"\1" * 32}, current="k")


@pytest.fixture(params=[None, KEYS], ids=["plain", "sealed"])
def saver(request: pytest.FixtureRequest, postgres_url: str, schema: str) -> Iterator[Checkpointer]:
    with open_checkpointer(postgres_url, schema=schema, keys=request.param) as saver:
        saver.setup()
        yield saver


def at(thread_id: str = "t1", **configurable: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, **configurable}}


def said(text: str) -> Any:
    return {"messages": [("user", text)]}


def texts(state: Any) -> list[str]:
    return [message.text for message in state.values["messages"]]


def answer(state: MessagesState) -> Any:
    text = state["messages"][-1].text
    if text == "fail":
        raise RuntimeError(text)
    if text == "ask":
        text = interrupt("really?")
    return {"messages": [AIMessage("to " + text)]}


def chat(node: Any = answer) -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(MessagesState).add_node("answer", node).add_edge(START, "answer").add_edge("answer", END)


def test_the_index_tells_status_and_counts(saver: Checkpointer) -> None:
    entered, go = Event(), Event()

    def node(state: MessagesState) -> Any:
        if state["messages"][-1].text == "slow":
            entered.set()
            assert go.wait(10)
        return answer(state)

    agent = resumable(chat(node).compile(checkpointer=saver))
    agent.invoke(said("hello"), at("idle"))
    agent.invoke(said("again"), at("idle"))
    agent.invoke(said("ask"), at("interrupted"))
    with pytest.raises(RuntimeError):
        agent.invoke(said("fail"), at("failed"))
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(agent.invoke, said("slow"), at("busy"))
        assert entered.wait(10)
        found = {info.thread_id: info.status for info in saver.threads.list().items}
        go.set()
        slow.result()
    assert found == {name: name for name in ("idle", "interrupted", "failed", "busy")}
    idle = saver.threads.get("idle")
    assert idle is not None
    assert (idle.turns, idle.checkpoints, idle.title) == (2, 6, None)
    assert idle.created_at < idle.updated_at
    assert [info.thread_id for info in saver.threads.list(status="interrupted").items] == ["interrupted"]
    agent.resume("interrupted", {agent.pending()[0].interrupt_id: "yes"})
    assert [info.thread_id for info in saver.threads.list(status="interrupted").items] == []


async def test_listing_pages_through_one_users_threads(saver: Checkpointer) -> None:
    agent = chat().compile(checkpointer=saver)
    for number in range(7):
        agent.invoke(said("hello"), at(f"a{number}", user_id="ann"))
    agent.invoke(said("hello"), at("b", user_id="bob"))
    found, cursor = [], None
    while True:
        page = await saver.threads.alist("ann", limit=3, cursor=cursor)
        found += [info.thread_id for info in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == [f"a{number}" for number in reversed(range(7))]
    with pytest.raises(ValueError, match="is not a cursor"):
        saver.threads.list("ann", cursor="x")
    await saver.aclose()


def test_no_verb_reaches_another_users_thread(saver: Checkpointer) -> None:
    chat().compile(checkpointer=saver).invoke(said("hello"), at(user_id="ann"))
    assert saver.threads.get("t1", user_id="bob") is None
    assert not saver.threads.rename("t1", "mine", user_id="bob")
    with pytest.raises(PolicyError):
        saver.threads.delete("t1", user_id="bob")
    with pytest.raises(PolicyError):
        saver.threads.fork("t1", "t2", user_id="bob")
    assert saver.threads.rename("t1", "Größe", user_id="ann")
    info = saver.threads.get("t1", user_id="ann")
    assert info is not None
    assert info.title == "Größe"
    saver.threads.delete("t1", user_id="ann")
    assert saver.threads.get("t1", user_id="ann") is None


def test_a_fork_begins_at_a_checkpoint(saver: Checkpointer) -> None:
    agent = resumable(chat().compile(checkpointer=saver))
    for text in ("one", "two", "three"):
        agent.invoke(said(text), at())
    second = next(
        state for state in agent.get_state_history(at()) if len(state.values["messages"]) == 4 and not state.next
    )
    saver.threads.fork("t1", "t2", checkpoint_id=second.config["configurable"]["checkpoint_id"])
    assert texts(agent.get_state(at("t2"))) == ["one", "to one", "two", "to two"]
    agent.invoke(said("other"), at("t2"))
    assert texts(agent.get_state(at("t2")))[-2:] == ["other", "to other"]
    assert texts(agent.get_state(at()))[-2:] == ["three", "to three"]
    assert (saver.threads.get("t2") or info_missing()).turns == 3
    saver.threads.fork("t1", "t3")
    assert texts(agent.get_state(at("t3"))) == texts(agent.get_state(at()))
    with pytest.raises(ConflictError, match="exists"):
        saver.threads.fork("t1", "t2")
    with pytest.raises(ConflictError, match="no such checkpoint"):
        saver.threads.fork("t1", "t9", checkpoint_id="nonsense")


def info_missing() -> Any:
    raise AssertionError("the thread is not in the index")


# Retention


def test_retention_keeps_the_last_and_what_they_need(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    agent = resumable(chat().compile(checkpointer=saver))
    for number in range(40):
        agent.invoke(said(f"m{number}"), at())
    state, history = agent.get_state(at()), list(agent.get_state_history(at()))
    foretold = saver.retain(keep_last=6, dry_run=True)
    assert list(agent.get_state_history(at())) == history
    assert saver.retain(keep_last=6) == foretold
    assert (foretold.checkpoints, foretold.threads) == (len(history) - 6, 0)
    assert foretold.rows > 0 < foretold.bytes
    assert agent.get_state(at()) == state
    kept = list(agent.get_state_history(at()))
    assert [s.values for s in kept] == [s.values for s in history[:6]]
    agent.invoke(said("more"), at())
    assert len(texts(agent.get_state(at()))) == 82
    with open_checkpointer(postgres_url, schema=schema, keys=saver.keys) as other:
        assert len(texts(chat().compile(checkpointer=other).get_state(at()))) == 82
    assert saver.retain(keep_last=100).rows == 0


def test_retention_leaves_nothing_of_a_subgraph_that_nobody_can_go_back_to(saver: Checkpointer) -> None:
    inner = chat().compile()
    agent = StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile(checkpointer=saver)
    for text in ("one", "two", "ask"):
        agent.invoke(said(text), at())
    assert len({one.config["configurable"]["checkpoint_ns"] for one in saver.list(at())}) == 4
    saver.retain(keep_last=1)
    assert len({one.config["configurable"]["checkpoint_ns"] for one in saver.list(at())}) == 2
    assert agent.get_state(at(), subgraphs=True).tasks[0].state.next == ("answer",)
    assert agent.invoke(Command(resume="yes"), at())["messages"][-1].text


def test_retention_by_age_and_idleness(saver: Checkpointer) -> None:
    agent = resumable(chat().compile(checkpointer=saver))
    agent.invoke(said("old"), at("old"))
    agent.invoke(said("ask"), at("asks"))
    agent.invoke(said("one"), at("new"))
    time.sleep(0.5)
    agent.invoke(said("two"), at("new"))
    report = saver.retain(max_age=timedelta(seconds=0.4), max_idle=timedelta(seconds=0.4))
    assert report.threads == 1
    assert saver.threads.get("old") is None
    assert saver.get_tuple(at("old", checkpoint_ns="")) is None
    assert [pending.thread_id for pending in agent.pending()] == ["asks"]
    assert len(list(agent.get_state_history(at("asks")))) == 1
    assert len(list(agent.get_state_history(at("new")))) == 3
    agent.resume("asks", {agent.pending()[0].interrupt_id: "yes"})
    assert texts(agent.get_state(at("asks"))) == ["ask", "to yes"]


def test_retention_forgets_what_nobody_will_ask_for_again(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    def remembered() -> set[str]:
        tables = {
            "lch_turns": "turn_id",
            "lch_answers": "run_id IS NOT NULL",
            "lch_leases": "epoch",
            "lch_threads": "1",
        }
        with psycopg.connect(postgres_url, options=f"-c search_path={schema}") as connection:
            return {
                f"{table[4:]} {thread}"
                for table in tables
                for (thread,) in connection.execute(f"SELECT DISTINCT thread_id FROM {table}")
            }

    def fails(_: MessagesState) -> Any:
        raise RuntimeError

    agent = resumable(chat().compile(checkpointer=saver))
    agent.invoke(said("one"), at("idle", turn_id="a"))
    agent.invoke(said("one"), at("asks", turn_id="b0"))
    agent.invoke(said("ask"), at("asks", turn_id="b"))
    agent.invoke(said("ask"), at("answered", turn_id="c"))
    agent.resume("answered", {agent.pending()[-1].interrupt_id: "yes"})
    with pytest.raises(RuntimeError):
        resumable(chat(fails).compile(checkpointer=saver)).invoke(said("x"), at("failed", turn_id="d"))
    agent.invoke(said("one"), at("deleted", turn_id="e"))
    saver.threads.delete("deleted")
    everything = remembered()
    assert saver.retain(max_retry=timedelta(hours=1)) == Retained()
    foretold = saver.retain(max_retry=timedelta(0), dry_run=True)
    assert remembered() == everything
    assert saver.retain(max_retry=timedelta(0)) == foretold
    assert (foretold.turns, foretold.answers, foretold.tombstones) == (2, 1, 1)
    assert (foretold.rows, foretold.bytes > 0) == (5, True)
    gone = {"turns idle", "turns answered", "answers answered", "threads deleted", "leases deleted"}
    assert everything - remembered() == gone
    assert [pending.thread_id for pending in agent.pending()] == ["asks"]
    assert texts(agent.get_state(at("asks"))) == ["one", "to one", "ask"]
    for turn, text in (("b0", "one"), ("b", "ask")):
        agent.invoke(said(text), at("asks", turn_id=turn))
    assert texts(agent.get_state(at("asks"))) == ["one", "to one", "ask"]
    went_on = agent.invoke(said("x"), at("failed", turn_id="d"))
    assert [message.text for message in went_on["messages"]] == ["x", "to x"]


def test_retention_forgets_no_turn_of_a_thread_that_a_run_holds(saver: Checkpointer) -> None:
    seen = []

    def node(state: MessagesState) -> Any:
        seen.append(saver.retain(max_retry=timedelta(0)))
        return answer(state)

    chat().compile(checkpointer=saver).invoke(said("one"), at(turn_id="a"))
    resumable(chat(node).compile(checkpointer=saver)).invoke(said("two"), at(turn_id="b"))
    assert seen == [Retained()]


def test_retention_leaves_a_running_thread_alone(saver: Checkpointer) -> None:
    entered, go = Event(), Event()

    def node(state: MessagesState) -> Any:
        entered.set()
        assert go.wait(10)
        return answer(state)

    chat().compile(checkpointer=saver).invoke(said("one"), at())
    agent = resumable(chat(node).compile(checkpointer=saver))
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(agent.invoke, said("two"), at())
        assert entered.wait(10)
        assert saver.retain(keep_last=1, max_idle=timedelta(0)).rows == 0
        go.set()
        assert len(run.result()["messages"]) == 4


def test_pruning_removes_bodies_that_nothing_refers_to(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    def forget(state: MessagesState) -> Any:
        from langchain_core.messages import RemoveMessage

        return {"messages": [RemoveMessage(id=message.id) for message in state["messages"][:-1]]}

    agent = chat(forget).compile(checkpointer=saver)
    for number in range(5):
        agent.invoke(said(f"m{number}"), at())
    saver.prune(["t1"])
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute(f"SELECT count(*) FROM {schema}.lch_bodies").fetchone() == (1,)
    assert texts(agent.get_state(at())) == ["m4"]


# Copies


@pytest.fixture
def histories(saver: Checkpointer, postgres_url: str, schema: str) -> Iterator[ChatHistories]:
    with ChatHistories.open(postgres_url, schema=schema, keys=saver.keys) as histories:
        yield histories


@pytest.mark.parametrize("there", ["a thread", "words", "a run"])
def test_a_copy_is_not_merged_into_what_is_there(saver: Checkpointer, histories: ChatHistories, there: str) -> None:
    agent = chat().compile(checkpointer=saver)
    agent.invoke(said("one"), at())
    if there == "a thread":
        agent.invoke(said("two"), at("t2"))
    if there == "words":
        histories.session("t2").add_messages([AIMessage("two")])
    lease = drive(saver.leases.acquire("t2", user_id="default")) if there == "a run" else None
    before = [list(saver.list(at("t2"))), [message.text for message in histories.session("t2").messages]]
    with pytest.raises(ConflictError, match=r"nothing (of thread 't1' )?was copied.*name") as refused:
        saver.copy_thread("t1", "t2")
    assert "'t2'" in str(refused.value)
    assert [list(saver.list(at("t2"))), [message.text for message in histories.session("t2").messages]] == before
    assert len(list(saver.list(at()))) == 3
    if lease is not None:
        drive(saver.leases.release(lease))


def test_a_copy_beside_a_run_is_of_one_moment(saver: Checkpointer, histories: ChatHistories) -> None:
    agent = resumable(chat().compile(checkpointer=saver))
    agent.invoke(said("m"), at())
    stop = Event()

    def talk() -> None:
        while not stop.is_set():
            agent.invoke(said("m"), at())

    copies: list[int] = []
    deadline = time.monotonic() + 30
    with ThreadPoolExecutor(1) as threads:
        talking = threads.submit(talk)
        try:
            while time.monotonic() < deadline and (len(copies) < 12 or len(set(copies)) <= 3):
                name = f"c{len(copies)}"
                saver.copy_thread("t1", name)
                copies.append(saver.threads.get(name).checkpoints)
        finally:
            stop.set()
        talking.result(30)
    lengths = set()
    for number in range(len(copies)):
        head = saver.get_tuple(at(f"c{number}", checkpoint_ns=""))
        state = [message.id for message in head.checkpoint["channel_values"]["messages"]]
        assert [message.id for message in histories.session(f"c{number}").messages] == state
        info = saver.threads.get(f"c{number}")
        assert (info.status in ("idle", "failed"), info.checkpoints) == (True, len(list(saver.list(at(f"c{number}")))))
        lengths.add(len(state))
    assert len(lengths) > 3, "the thread went on meanwhile"


def test_two_copies_to_one_name_are_one(saver: Checkpointer, histories: ChatHistories) -> None:
    agent = chat().compile(checkpointer=saver)
    for name in ("t1", "t2"):
        agent.invoke(said(name), at(name))

    def copied(source: str) -> str | None:
        try:
            saver.copy_thread(source, "t3")
        except ConflictError:
            return None
        return source

    with ThreadPoolExecutor(2) as threads:
        [source] = filter(None, threads.map(copied, ("t1", "t2")))
    assert texts(agent.get_state(at("t3"))) == [source, f"to {source}"]
    assert [message.text for message in histories.session("t3").messages] == [source, f"to {source}"]
