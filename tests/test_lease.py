"""One run per thread: several processes, frozen owners, and every way to meet another run."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config
from langgraph.errors import GraphDrained
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import interrupt

from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.running.graph import resumable
from lc_history.agents.running.lease import LEASE_KEY, Lease
from lc_history.bridge import drive
from lc_history.errors import LeaseLostError, ThreadBusyError
from lc_history.testing.models import StrictChatModel
from lc_history.testing.proxy import Proxy

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["lc_history.agents.running.graph", "langchain.agents"])


def at(thread_id: str = "t1", **configurable: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, **configurable}}


def said(text: str) -> Any:
    return {"messages": [("user", text)]}


def chat(node: Callable[..., Any]) -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(MessagesState).add_node("answer", node).add_edge(START, "answer").add_edge("answer", END)


def echo(state: MessagesState) -> Any:
    return {"messages": [AIMessage("to " + state["messages"][-1].text)]}


def texts(state: Any) -> list[str]:
    return [message.text for message in state["messages"]]


# Several processes


def talk(url: str, schema: str, name: str, turns: int) -> int:
    with open_checkpointer(url, schema=schema, pool_size=4) as saver:
        agent = resumable(create_agent(StrictChatModel(seconds=0.01), [], checkpointer=saver))
        for turn in range(turns):
            state = agent.invoke(said(f"{name}{turn}"), at())
            assert texts(state)[-2:] == [f"{name}{turn}", f"{name}{turn}"]
        return turns


def test_four_processes_on_one_thread_lose_nothing(server_url: str, schema: str) -> None:
    with open_checkpointer(server_url, schema=schema) as saver:
        saver.setup()
        with ProcessPoolExecutor(4, mp_context=processes) as pool:
            acknowledged = sum(pool.map(talk, [server_url] * 4, [schema] * 4, "abcd", [5] * 4))
        state = create_agent(StrictChatModel(), [], checkpointer=saver).get_state(at()).values
        assert acknowledged == 20
        assert sorted(texts(state)[::2]) == sorted(f"{name}{turn}" for name in "abcd" for turn in range(5))
        assert branches(server_url, schema) == 0


def branches(url: str, schema: str) -> int:
    """Return how many checkpoints have more than one child."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            f"SELECT count(*) FROM (SELECT parent_checkpoint_id FROM {schema}.checkpoints WHERE checkpoint_ns = '' "
            "GROUP BY thread_id, parent_checkpoint_id HAVING count(*) > 1) AS branching"
        ).fetchone()
    assert found
    return found[0]


def work_slowly(url: str, schema: str, began: Any, answers: Any) -> None:
    def slow(state: MessagesState) -> Any:
        began.set()
        time.sleep(1)
        return {"messages": [AIMessage("too late")]}

    with open_checkpointer(url, schema=schema) as saver:
        agent = resumable(chat(slow).compile(checkpointer=saver), lease=timedelta(seconds=1))
        try:
            agent.invoke(said("frozen"), at())
        except LeaseLostError as error:
            answers.put(str(error))
        else:
            answers.put("nothing was refused")


def test_a_frozen_owner_is_taken_over_and_cannot_write(server_url: str, schema: str) -> None:
    with open_checkpointer(server_url, schema=schema) as saver:
        saver.setup()
        began, answers = processes.Event(), processes.Queue()
        frozen = processes.Process(target=work_slowly, args=(server_url, schema, began, answers))
        frozen.start()
        try:
            assert began.wait(30)
            os.kill(frozen.pid, signal.SIGSTOP)
            agent = resumable(chat(echo).compile(checkpointer=saver), lease=timedelta(seconds=5))
            start = time.monotonic()
            agent.invoke(said("next"), at())
            assert time.monotonic() - start < 4
            os.kill(frozen.pid, signal.SIGCONT)
            assert "thread 't1'" in answers.get(timeout=30)
            frozen.join(30)
        finally:
            frozen.kill()
        assert texts(agent.get_state(at()).values) == ["frozen", "next", "to next"]
        assert branches(server_url, schema) == 0


# Ways to meet


class Gate:
    """A node that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.entered, self.open = Event(), Event()

    def __call__(self, state: MessagesState) -> Any:
        if state["messages"][-1].text == "first":
            self.entered.set()
            assert self.open.wait(30)
        return echo(state)


def test_reject_names_the_holder(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    gate = Gate()
    agent = resumable(chat(gate).compile(checkpointer=saver), on_busy="reject")
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(agent.invoke, said("first"), at())
        assert gate.entered.wait(10)
        with pytest.raises(ThreadBusyError, match=f"thread 't1' is held by process {os.getpid()} on "):
            agent.invoke(said("second"), at())
        with psycopg.connect(postgres_url, autocommit=True) as connection, connection.transaction():
            connection.execute(f'SELECT FROM "{schema}".lch_leases FOR UPDATE')  # as a write or a heartbeat does
            with pytest.raises(ThreadBusyError, match=f"held by process {os.getpid()} on "):
                agent.update_state(at(), said("third"))
        with pytest.raises(ThreadBusyError, match=r"resumable\(graph\)"):
            chat(echo).compile(checkpointer=saver).invoke(said("no lease"), at())
        agent.invoke(said("elsewhere"), at("t2"))
        gate.open.set()
        assert texts(first.result()) == ["first", "to first"]
    agent.invoke(said("second"), at())


def test_enqueue_is_first_come_first_served(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    gate = Gate()
    agent = resumable(chat(gate).compile(checkpointer=saver))
    names = [f"n{number}" for number in range(6)]
    with ThreadPoolExecutor(8) as threads, psycopg.connect(postgres_url, autocommit=True) as watch:
        runs = [threads.submit(agent.invoke, said("first"), at())]
        assert gate.entered.wait(10)
        for number, name in enumerate(names, 1):
            runs.append(threads.submit(agent.invoke, said(name), at()))
            until(lambda n=number: watch.execute(f"SELECT count(*) FROM {schema}.lch_queue").fetchone() == (n,))
        gate.open.set()
        for run in runs:
            run.result(30)
    assert texts(agent.get_state(at()).values)[::2] == ["first", *names]


def test_enqueue_waits_no_longer_than_it_may(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    gate = Gate()
    graph = chat(gate).compile(checkpointer=saver)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(resumable(graph).invoke, said("first"), at())
        assert gate.entered.wait(10)
        with pytest.raises(ThreadBusyError, match="held by"):
            resumable(graph, wait=timedelta(seconds=0.1)).invoke(said("second"), at())
        with psycopg.connect(postgres_url) as watch:
            assert watch.execute(f"SELECT count(*) FROM {schema}.lch_queue").fetchone() == (0,)
        gate.open.set()
        first.result()


def two_steps(gate: Gate) -> StateGraph[Any, Any, Any, Any]:
    graph = StateGraph(MessagesState).add_node("answer", gate).add_node("more", echo)
    return graph.add_edge(START, "answer").add_edge("answer", "more").add_edge("more", END)


def test_interrupt_stops_the_other_at_its_next_step(saver: Checkpointer) -> None:
    gate = Gate()
    graph = two_steps(gate).compile(checkpointer=saver)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(resumable(graph).invoke, said("first"), at())
        assert gate.entered.wait(10)
        second = threads.submit(resumable(graph, on_busy="interrupt").invoke, said("second"), at())
        time.sleep(0.2)
        gate.open.set()
        with pytest.raises(GraphDrained, match="newer run"):
            first.result(30)
        assert texts(second.result(30)) == ["first", "to first", "second", "to second", "to to second"]


def test_interrupt_stops_an_answer_at_its_next_step(saver: Checkpointer) -> None:
    """A resume runs as every other run does: it stores each step before the next, and listens."""
    gate, modes = Gate(), list[str]()

    def asking(state: MessagesState) -> Any:
        modes.append(get_config()["configurable"]["__pregel_durability"])
        return gate(state) if state["messages"][-1].text != "first" or interrupt("go on?") else {}

    graph = StateGraph(MessagesState).add_node("answer", asking).add_node("more", echo)
    made = graph.add_edge(START, "answer").add_edge("answer", "more").add_edge("more", END).compile(checkpointer=saver)
    agent = resumable(made, on_busy="interrupt")
    asked = agent.invoke(said("first"), at())["__interrupt__"][0]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(agent.resume, "t1", {asked.id: "yes"})  # type: ignore[attr-defined]
        assert gate.entered.wait(10)
        second = threads.submit(agent.invoke, said("second"), at())
        time.sleep(0.2)
        gate.open.set()
        with pytest.raises(GraphDrained, match="newer run"):
            first.result(30)
        assert texts(second.result(30)) == ["first", "to first", "second", "to second", "to to second"]
    assert modes == ["sync"] * 3


@pytest.mark.parametrize("late", ["copy", "write"])
def test_a_frozen_owner_cannot_write_after_one_without_a_lease(saver: Checkpointer, late: str) -> None:
    plain = chat(echo).compile(checkpointer=saver)
    plain.invoke(said("old"), at("t0"))
    gate = Gate()
    agent = resumable(chat(gate).compile(checkpointer=saver), lease=timedelta(seconds=0.3))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(agent.invoke, said("first"), at(), durability="exit" if late == "copy" else "sync")
        assert gate.entered.wait(10)
        saver.leases._pulse.rest()  # its heart stands still, as that of a frozen process does
        while drive(saver.database.rows("SELECT expires_at > clock_timestamp() FROM {schema}lch_leases")) == [(True,)]:
            time.sleep(0.05)
        if late == "copy":
            saver.copy_thread("t0", "t1")
        else:
            plain.invoke(said("next"), at())
        gate.open.set()
        with pytest.raises(LeaseLostError, match="'t1'"):
            first.result(30)
    there = ["old", "to old"] if late == "copy" else ["first", "next", "to next"]
    assert texts(plain.get_state(at()).values) == there


def test_rollback_takes_the_thread_at_once_and_back(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    gate = Gate()
    graph = two_steps(gate).compile(checkpointer=saver)
    resumable(graph).invoke(said("zero"), at())
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(resumable(graph).invoke, said("first"), at())
        assert gate.entered.wait(10)
        state = resumable(graph, on_busy="rollback").invoke(said("second"), at())
        assert texts(state)[3:] == ["second", "to second", "to to second"]
        assert "first" not in texts(state)
        gate.open.set()
        with pytest.raises(LeaseLostError, match="'t1'"):
            first.result(30)
    assert texts(resumable(graph).get_state(at()).values) == texts(state)
    assert branches(postgres_url, schema) == 0


def test_a_run_that_is_rolled_back_before_it_has_given_back_its_thread_is_not_acknowledged(saver: Checkpointer) -> None:
    agent = resumable(chat(echo).compile(checkpointer=saver))
    agent.invoke(said("zero"), at())
    release = saver.leases.release

    async def late(lease: Lease) -> None:
        saver.leases.release = release  # type: ignore[method-assign]
        await release(await saver.leases.acquire("t1", user_id="default", on_busy="rollback"))
        await release(lease)

    saver.leases.release = late  # type: ignore[method-assign]
    with pytest.raises(LeaseLostError, match="'t1'"):
        agent.invoke(said("first"), at())
    assert texts(agent.get_state(at()).values) == ["zero", "to zero"]


def test_a_long_run_keeps_its_thread(saver: Checkpointer) -> None:
    def long(state: MessagesState) -> Any:
        time.sleep(1.5)
        return echo(state)

    agent = resumable(chat(long).compile(checkpointer=saver), lease=timedelta(seconds=0.6))
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(agent.invoke, said(f"{n}"), at()) for n in range(2)]
        assert sorted(len(texts(run.result(30))) for run in runs) == [2, 4]


async def test_a_busy_event_loop_keeps_its_thread(saver: Checkpointer) -> None:
    async def hogging(state: MessagesState) -> Any:
        time.sleep(1.5)  # noqa: ASYNC251 - a tool that blocks the loop
        return echo(state)

    agent = resumable(chat(hogging).compile(checkpointer=saver), lease=timedelta(seconds=0.6))
    other = resumable(chat(echo).compile(checkpointer=saver))
    with ThreadPoolExecutor(1) as threads:
        run = asyncio.create_task(agent.ainvoke(said("first"), at()))
        await asyncio.sleep(0.2)
        second = asyncio.wrap_future(threads.submit(other.invoke, said("second"), at()))
        assert len(texts(await run)) == 2
        assert len(texts(await second)) == 4
    await saver.aclose()


def test_a_lease_taken_while_the_last_other_one_is_given_back_is_kept(
    saver: Checkpointer, postgres_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases, pulse = saver.leases, saver.leases._pulse
    taken: list[Any] = []
    rest = pulse.rest

    def late_rest() -> None:
        if not taken:
            taken.append(drive(leases.acquire("t2", user_id="ann", duration=timedelta(seconds=0.5))))
        rest()

    monkeypatch.setattr(pulse, "rest", late_rest)
    drive(leases.release(drive(leases.acquire("t1", user_id="ann", duration=timedelta(seconds=0.5)))))
    alive = (
        f"SELECT expires_at > clock_timestamp() + '1 ms', pg_sleep(1) FROM {schema}.lch_leases WHERE thread_id = 't2'"
    )
    with psycopg.connect(postgres_url, autocommit=True) as watch:
        watch.execute(alive)
        assert (watch.execute(alive).fetchone() or ())[0] is True
    drive(leases.release(taken[0]))


def test_a_deleted_thread_ends_its_run(saver: Checkpointer) -> None:
    gate = Gate()
    agent = resumable(chat(gate).compile(checkpointer=saver))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(agent.invoke, said("first"), at())
        assert gate.entered.wait(10)
        saver.delete_thread("t1")
        gate.open.set()
        with pytest.raises(LeaseLostError):
            first.result(30)
    assert saver.get_tuple(at()) is None


# The whole surface


async def test_every_way_to_run_holds_the_thread(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    agent = resumable(chat(echo).compile(checkpointer=saver))
    assert isinstance(agent, CompiledStateGraph)
    agent.invoke(said("0"), at())
    list(agent.stream(said("1"), at(), stream_mode="messages"))
    await agent.ainvoke(said("2"), at())
    assert [part async for part in agent.astream(said("3"), at(), stream_mode=["updates", "values"])]
    assert [event async for event in agent.astream_events(said("4"), at(), version="v2")]
    agent.batch([said("5"), said("6")], at())
    await agent.abatch([said("7")], at())
    list(agent.with_config(tags=["x"]).stream(said("8"), at()))
    (agent | (lambda state: state)).invoke(said("9"), at())
    await agent.aupdate_state(at(), said("10"))
    with psycopg.connect(postgres_url) as watch:
        [epoch, run] = watch.execute(f"SELECT epoch, run_id FROM {schema}.lch_leases").fetchone() or ()
    assert (epoch, run) == (11, None)
    assert len(texts((await agent.aget_state(at())).values)) == 21
    assert branches(postgres_url, schema) == 0
    await saver.aclose()


def test_subgraphs_and_the_functional_api_run_under_the_lease(saver: Checkpointer) -> None:
    inner = chat(echo).compile(checkpointer=True)

    @task
    def shout(text: str) -> str:
        return text.upper()

    @entrypoint(checkpointer=saver)
    def flow(text: str, *, previous: Any = None) -> list[str]:
        return [*(previous or []), shout(text).result()]

    agent = resumable(
        StateGraph(MessagesState).add_node(inner).set_entry_point("LangGraph").compile(checkpointer=saver)
    )
    assert texts(agent.invoke(said("a"), at())) == ["a", "to a"]
    assert texts(agent.invoke(said("b"), at())) == ["a", "to a", "b", "to b"]
    flow = resumable(flow)
    assert flow.invoke("a", at("t2")) == ["A"]
    assert flow.invoke("b", at("t2")) == ["A", "B"]


def test_a_resumable_graph_takes_other_manners(saver: Checkpointer) -> None:
    agent = resumable(create_agent(StrictChatModel(), [], checkpointer=saver))
    other = resumable(agent, on_busy="reject")
    assert (type(other), other.manners.on_busy, agent.manners.on_busy) == (type(agent), "reject", "enqueue")


def test_what_cannot_be_resumable_says_why(saver: Checkpointer) -> None:
    with pytest.raises(TypeError, match=r"compile\(\)"):
        resumable("postgresql://localhost/agents")  # type: ignore[type-var]
    with pytest.raises(TypeError, match="open_checkpointer"):
        resumable(chat(echo).compile())


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_first_run_of_a_thread_does_not_ask_what_is_there(postgres_url: str, schema: str) -> None:
    def reading(_state: MessagesState, config: RunnableConfig) -> Any:
        here = config["configurable"]
        found = saver.get_tuple({"configurable": {"thread_id": here["thread_id"], LEASE_KEY: here[LEASE_KEY]}})
        return {"messages": [AIMessage(f"step {found.metadata['step']}" if found else "nothing")]}

    def trips(thread_id: str) -> int:
        before = proxy.round_trips
        assert agent.invoke(said("hello"), at(thread_id))["messages"][-1].content.startswith("step")
        return proxy.round_trips - before

    parts = urlsplit(postgres_url)
    with Proxy(parts.port or 0) as proxy:
        near = urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}"))
        with open_checkpointer(near, schema=schema, pool_size=1) as saver:  # which has every statement prepared
            saver.setup()
            graph = StateGraph(MessagesState).add_node("n", reading).add_edge(START, "n")
            agent = resumable(graph.compile(checkpointer=saver))
            for number in range(40):  # each connection prepares each statement after some
                trips(str(number))
            first = trips("new")
            assert trips("new") == first + 1  # the head is read, and nothing else is more
