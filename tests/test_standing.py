"""What the index of threads says of the last run: it ended, works, waits for a person, or left something undone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphRecursionError
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.pregel._task_status import CONTROL_WRITES
from langgraph.types import Command, interrupt

from lc_history import ChatHistories
from lc_history.agents.checkpoints import schema as statements
from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.effects.ledger import once
from lc_history.agents.running.graph import resumable
from lc_history.agents.threads.retention import Retained
from lc_history.bridge import drive
from lc_history.errors import ConflictError, LeaseLostError
from tests import test_cli
from tests.processes import forked
from tests.test_cli import Run, rows

Killed = Callable[..., None]
run = test_cli.run
SHORT = timedelta(seconds=0.3)


def at(thread_id: str = "t1", **configurable: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, **configurable}}


def said(text: str) -> Any:
    return {"messages": [("user", text)]}


def texts(state: Any) -> list[str]:
    return [message.text for message in state.values["messages"]]


def asked(state: MessagesState) -> str:
    return [message.text for message in state["messages"] if message.type == "human"][-1]


def die(when: str, state: MessagesState) -> None:
    """End the process as kill -9 does, where the user has said so."""
    if asked(state) == f"die {when}" and os.environ.get("MORTAL"):
        time.sleep(0.2)  # the other tasks of the step finish
        os.kill(os.getpid(), signal.SIGKILL)


def answer(state: MessagesState) -> Any:
    die("working", state)
    return {"messages": [AIMessage("done")]}


def ask(state: MessagesState) -> Any:
    return {"messages": [AIMessage("told " + interrupt("really?"))]}


def beside(state: MessagesState) -> Any:
    die("beside a question", state)
    if asked(state) == "fail":
        time.sleep(0.2)  # the question is asked first
        raise RuntimeError("no luck")
    return {}


def chat(node: Callable[..., Any] = answer) -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(MessagesState).add_node("answer", node).add_edge(START, "answer").add_edge("answer", END)


def asking() -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(MessagesState).add_node("ask", ask).add_node("beside", beside)
    return graph.add_edge(START, "ask").add_edge(START, "beside")


GRAPHS = {"chat": chat, "asking": asking}


def turn(url: str, schema: str, graph: str, given: Any, config: Any) -> None:
    os.environ["MORTAL"] = "1"
    with open_checkpointer(url, schema=schema) as saver:
        agent = resumable(GRAPHS[graph]().compile(checkpointer=saver), lease=SHORT)
        if "answers" in given:
            agent.resume(config["configurable"]["thread_id"], given["answers"])
        else:
            agent.invoke(given, config)


@pytest.fixture
def killed(postgres_url: str, schema: str, saver: Checkpointer) -> Killed:
    """Run a turn in a process that is killed on the way, and wait until its lease has run out."""

    def work(graph: str, given: Any, config: Any) -> None:
        process = forked().Process(target=turn, args=(postgres_url, schema, graph, given, config))
        process.start()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        until(lambda: status(saver) != "busy")

    return work


def status(saver: Checkpointer, thread_id: str = "t1") -> str | None:
    """Return what the index says, the same by every verb that tells it."""
    info = saver.threads.get(thread_id)
    if info is None:
        return None
    listed = {one.thread_id: one.status for one in saver.threads.list().items}
    filtered = [one.thread_id for one in saver.threads.list(status=info.status).items]
    if saver.threads.get(thread_id) == info:  # a lease may run out in between
        assert (listed[thread_id], thread_id in filtered) == (info.status, True)
    return info.status


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# Runs that died


def test_a_run_that_was_killed_has_failed_until_it_is_taken_up(
    saver: Checkpointer, killed: Killed, postgres_url: str, schema: str, run: Run
) -> None:
    agent = resumable(chat().compile(checkpointer=saver))
    agent.invoke(said("before"), at(turn_id="a"))
    killed("chat", said("die working"), at(turn_id="b"))
    assert status(saver) == "failed"
    [told] = rows(run("threads", "--url", postgres_url, "--schema", schema, "--json"))
    assert (told["thread"], told["status"]) == ("t1", "failed")
    assert agent.pending() == []
    agent.invoke(said("before"), at(turn_id="a"))
    assert status(saver) == "failed", "an older turn that is asked for again takes nothing up"
    agent.invoke(said("die working"), at(turn_id="b"))
    assert (status(saver), texts(agent.get_state(at()))) == ("idle", ["before", "done", "die working", "done"])


def test_retention_and_pruning_leave_what_a_dead_run_can_go_on_with(saver: Checkpointer, killed: Killed) -> None:
    agent = resumable(chat().compile(checkpointer=saver))
    agent.invoke(said("before"), at(turn_id="a"))
    killed("chat", said("die working"), at(turn_id="b"))
    assert saver.retain(max_retry=timedelta(0), keep_last=1).turns == 1, "the one before"
    saver.prune(["t1"])
    assert (status(saver), saver.threads.get("t1").checkpoints, saver.threads.get("t1").turns) == ("failed", 1, 2)
    agent.invoke(said("die working"), at(turn_id="b"))
    assert (status(saver), texts(agent.get_state(at()))) == ("idle", ["before", "done", "die working", "done"])
    assert saver.retain(max_retry=timedelta(0)).turns == 1


def test_a_question_outlives_the_run_that_asked_it(saver: Checkpointer, killed: Killed) -> None:
    agent = resumable(asking().compile(checkpointer=saver))
    killed("asking", said("die beside a question"), at(turn_id="a"))
    assert status(saver) == "interrupted"
    assert saver.retain(max_idle=timedelta(0), max_retry=timedelta(0)) == Retained()
    [question] = agent.pending()
    agent.resume("t1", {question.interrupt_id: "yes"})
    assert (status(saver), texts(agent.get_state(at()))) == ("idle", ["die beside a question", "told yes"])


def test_a_question_that_was_answered_does_not_wait_any_more(saver: Checkpointer, killed: Killed) -> None:
    agent = resumable(asking().compile(checkpointer=saver))
    killed("asking", said("die beside a question"), at(turn_id="a"))
    answers = {agent.pending()[0].interrupt_id: "yes"}
    killed("asking", {"answers": answers}, at())
    assert (status(saver), agent.pending()) == ("failed", [])
    assert saver.retain(max_retry=timedelta(0)) == Retained(), "its turn can go on"
    with pytest.raises(ConflictError, match="it was answered on"):
        agent.resume("t1", answers)
    agent.invoke(said("die beside a question"), at(turn_id="a"))
    assert (status(saver), texts(agent.get_state(at()))) == ("idle", ["die beside a question", "told yes"])


def test_a_dead_run_whose_thread_goes_on_without_a_lease_is_forgotten(saver: Checkpointer, killed: Killed) -> None:
    killed("chat", said("die working"), at())
    chat().compile(checkpointer=saver).invoke(None, at())
    assert status(saver) == "idle"
    killed("chat", said("die working"), at())
    saver.threads.fork("t1", "t2")
    assert (status(saver), status(saver, "t2")) == ("failed", "failed")


# Runs that ended otherwise


async def test_a_cancelled_run_has_failed(saver: Checkpointer) -> None:
    began = asyncio.Event()

    async def slow(_: MessagesState) -> Any:
        began.set()
        await asyncio.sleep(30)

    run = asyncio.create_task(resumable(chat(slow).compile(checkpointer=saver)).ainvoke(said("hello"), at()))
    await began.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (await saver.threads.aget("t1")).status == "failed"
    await saver.aclose()


def test_a_run_that_raised_outside_a_node_has_failed(saver: Checkpointer) -> None:
    agent = resumable(chat().add_edge("answer", "answer").compile(checkpointer=saver))
    with pytest.raises(GraphRecursionError):
        agent.invoke(said("hello"), {**at(), "recursion_limit": 2})
    assert status(saver) == "failed"


def test_a_stream_left_before_its_end_has_failed_until_its_turn_is_asked_for_again(saver: Checkpointer) -> None:
    agent = resumable(chat().compile(checkpointer=saver))
    stream = agent.stream(said("hello"), at(turn_id="a"), stream_mode="values")
    while len(next(stream)["messages"]) < 2:
        pass
    stream.close()
    assert status(saver) == "failed"
    agent.invoke(said("hello"), at(turn_id="a"))
    assert (status(saver), texts(agent.get_state(at()))) == ("idle", ["hello", "done"])


def test_a_run_that_was_refused_before_it_wrote_leaves_the_thread_as_it_was(saver: Checkpointer) -> None:
    agent = resumable(chat().compile(checkpointer=saver))
    for turn_id in ("a", "b"):
        agent.invoke(said("hello"), at(turn_id=turn_id))
    saver.prune(["t1"])
    with pytest.raises(ConflictError, match="pruned"):
        agent.invoke(said("hello"), at(turn_id="a"))
    assert status(saver) == "idle"
    assert settled(saver), "so the next run need not look for what is left open"


def settled(saver: Checkpointer) -> bool:
    lease = drive(saver.leases.acquire("t1", user_id="default"))
    drive(saver.leases.release(lease))
    return lease.settled


def test_a_breakpoint_is_an_end(saver: Checkpointer) -> None:
    agent = resumable(chat().compile(checkpointer=saver, interrupt_before=["answer"]))
    agent.invoke(said("hello"), at())
    assert (status(saver), agent.get_state(at()).next, agent.pending()) == ("idle", ("answer",), [])
    assert not settled(saver)
    agent.invoke(None, at())
    assert (status(saver), texts(agent.get_state(at()))) == ("idle", ["hello", "done"])


@pytest.mark.parametrize("manner", [resumable, lambda graph: graph], ids=["resumable", "plain"])
def test_a_question_waits_whatever_fails_beside_it(saver: Checkpointer, manner: Callable[..., Any]) -> None:
    graph = asking().compile(checkpointer=saver)
    with pytest.raises(RuntimeError):
        manner(graph).invoke(said("fail"), at())
    assert status(saver) == "interrupted"
    assert [question.thread_id for question in resumable(graph).pending()] == ["t1"]


def test_what_tells_of_a_task_that_it_has_finished_is_langgraphs_own_rule() -> None:
    controls = ", ".join(f"'{name}'" for name in sorted(CONTROL_WRITES))
    assert f"NOT IN ({controls})" in statements._STANDING


# Runs that were rolled back


class Gate:
    """A node that waits for the test where the user says first."""

    def __init__(self) -> None:
        self.entered, self.open = Event(), Event()

    def __call__(self, state: MessagesState) -> Any:
        if asked(state) == "first":
            self.entered.set()
            assert self.open.wait(30)
        return {"messages": [AIMessage("to " + asked(state))]}


def index(saver: Checkpointer) -> tuple[Any, ...]:
    """Return what the index holds of the thread, after making sure that it is what the thread holds."""
    told = "SELECT checkpoints, turns, last_checkpoint_id, last_turn_id, status FROM {schema}lch_threads"
    [row] = drive(saver.database.rows(told))
    kept = [one for one in saver.list(at()) if not one.config["configurable"]["checkpoint_ns"]]
    inputs = [one for one in kept if one.metadata["source"] == "input"]
    assert row[:3] == (len(kept), len(inputs), kept[0].checkpoint["id"] if kept else None)
    return row


@pytest.mark.parametrize("before", [["zero"], []], ids=["a thread", "a new thread"])
def test_a_rollback_leaves_an_index_of_what_is_left(
    saver: Checkpointer, postgres_url: str, schema: str, before: list[str]
) -> None:
    gate = Gate()
    graph = chat(gate).compile(checkpointer=saver)
    agent = resumable(graph)
    for text in before:
        agent.invoke(said(text), at(turn_id="before"))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(agent.invoke, said("first"), at(turn_id="first"))
        assert gate.entered.wait(10)
        lease = drive(saver.leases.acquire("t1", user_id="default", on_busy="rollback"))
        turns = len(before)
        assert index(saver)[1:] == (turns, lease.base_checkpoint_id, "before" if before else None, "idle")
        drive(saver.leases.release(lease))
        gate.open.set()
        with pytest.raises(LeaseLostError):
            first.result(30)
    assert settled(saver)
    index(saver)
    with pytest.raises(ConflictError, match="'first' of thread 't1' was rolled back by a newer run"):
        agent.invoke(said("first"), at(turn_id="first"))
    agent.invoke(said("second"), at(turn_id="second"))
    with pytest.raises(ConflictError, match="another turn_id"):
        agent.invoke(said("first"), at(turn_id="first"))
    if before:
        assert texts_in(agent.invoke(said("zero"), at(turn_id="before"))) == ["zero", "to zero"]
    assert texts(agent.get_state(at()))[-2:] == ["second", "to second"]
    index(saver)
    with ChatHistories.open(postgres_url, schema=schema) as histories:
        words = [message.text for message in histories.session("t1").messages]
    assert words == [*(["zero", "to zero"] if before else []), "first", "second", "to second"], "it was said"


def texts_in(state: Any) -> list[str]:
    return [message.text for message in state["messages"]]


def test_a_turn_that_was_going_on_stands_again_where_it_stood(saver: Checkpointer) -> None:
    gate = Gate()
    graph = StateGraph(MessagesState).add_node("ask", ask).add_node("answer", gate)
    agent = resumable(graph.add_edge(START, "ask").add_edge("ask", "answer").compile(checkpointer=saver))
    asks = agent.invoke(said("first"), at(turn_id="a"))["__interrupt__"][0]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(agent.resume, "t1", {asks.id: "yes"})
        assert gate.entered.wait(10)
        lease = drive(saver.leases.acquire("t1", user_id="default", on_busy="rollback"))
        drive(saver.leases.release(lease))
        assert index(saver)[3:] == ("a", "failed"), "what the person has answered is told already"
        gate.open.set()
        with pytest.raises(LeaseLostError):
            first.result(30)
    state = agent.invoke(said("first"), at(turn_id="a"))
    assert texts_in(state) == ["first", "told yes", "to first"]
    assert index(saver)[3:] == ("a", "idle")


def test_a_turn_whose_answer_is_rolled_back_by_its_own_retry_goes_on(saver: Checkpointer) -> None:
    gate = Gate()
    graph = StateGraph(MessagesState).add_node("ask", ask).add_node("answer", gate)
    made = graph.add_edge(START, "ask").add_edge("ask", "answer").compile(checkpointer=saver)
    agent = resumable(made, on_busy="rollback")
    asks = agent.invoke(said("first"), at(turn_id="a"))["__interrupt__"][0]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(agent.resume, "t1", {asks.id: "yes"})
        assert gate.entered.wait(10)
        again = threads.submit(agent.invoke, said("first"), at(turn_id="a"))
        time.sleep(0.3)
        gate.open.set()
        with pytest.raises(LeaseLostError):
            first.result(30)
        assert texts_in(again.result(30)) == ["first", "told yes", "to first"]


def test_a_run_whose_heart_was_late_and_that_died_has_failed(saver: Checkpointer) -> None:
    gate = Gate()
    graph = StateGraph(MessagesState).add_node("slow", lambda _: time.sleep(0.5)).add_node("answer", gate)
    made = graph.add_edge(START, "slow").add_edge("slow", "answer").compile(checkpointer=saver)
    with ThreadPoolExecutor(1) as threads:
        saver.leases._pulse.every = lambda seconds: None  # type: ignore[method-assign,assignment]
        first = threads.submit(resumable(made, lease=SHORT).invoke, said("first"), at())
        assert gate.entered.wait(10)
        assert status(saver) == "failed", "its write came when the lease had run out, and changes nothing about that"
        gate.open.set()
        first.result(30)
    assert status(saver) == "idle"


def rolled_back(saver: Checkpointer, agent: Any, gate: Gate, given: Any) -> None:
    """Roll back a run that works on this input."""
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(agent.invoke, given, at())
        assert gate.entered.wait(10)
        drive(saver.leases.release(drive(saver.leases.acquire("t1", user_id="default", on_busy="rollback"))))
        gate.open.set()
        with pytest.raises(LeaseLostError):
            first.result(30)


def test_of_a_command_on_a_thread_at_rest_nothing_is_left(saver: Checkpointer) -> None:
    gate = Gate()
    agent = resumable(chat(gate).compile(checkpointer=saver))
    agent.invoke(said("zero"), at())
    before = agent.get_state(at())
    rolled_back(saver, agent, gate, Command(update=said("first"), goto="answer"))
    assert (agent.get_state(at()), status(saver)) == (before, "idle")


def test_an_effect_that_was_rolled_back_has_happened_all_the_same(saver: Checkpointer) -> None:
    gate, paid = Gate(), []

    @once(rule="retry", key=asked)
    def pay(state: MessagesState) -> Any:
        paid.append(asked(state))
        return {}

    graph = StateGraph(MessagesState).add_node("pay", pay).add_node("answer", gate)
    agent = resumable(graph.add_edge(START, "pay").add_edge("pay", "answer").compile(checkpointer=saver))
    rolled_back(saver, agent, gate, said("first"))
    agent.invoke(said("first"), at())
    assert (paid, texts(agent.get_state(at()))) == (["first"], ["first", "to first"])


def test_deleting_a_run_leaves_an_index_of_what_is_left(saver: Checkpointer) -> None:
    agent = asking().compile(checkpointer=saver)
    for run_id in ("one", "two"):
        agent.invoke(said("hello"), {**at(), "metadata": {"run_id": run_id}})
    saver.delete_for_runs(["two"])
    info = saver.threads.get("t1")
    assert (info.status, info.checkpoints) == ("interrupted", 2), "what the first has asked is open again"
    saver.delete_for_runs(["one"])
    info = saver.threads.get("t1")
    assert (info.status, info.checkpoints) == ("idle", 0)
