"""Threads that a crash, a cancellation or an interrupt left in the middle of a step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Annotated, Any, NoReturn
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.errors import GraphDrained
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import RunControl
from langgraph.types import Command

from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.effects.ledger import ToolLedger
from lc_history.agents.effects.repair import (
    RepairMessages,
    arepair_thread,
    asettle_thread,
    problems,
    repair_thread,
    settle_thread,
)
from lc_history.agents.running.graph import resumable
from lc_history.testing.models import RefusedError, StrictChatModel
from tests.striking_agent import direct

Work = Callable[..., Any]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as loop:
        yield loop


@pytest.fixture(scope="module")
def saver(postgres_url: str, loop: asyncio.Runner) -> Iterator[Checkpointer]:
    saver = open_checkpointer(postgres_url, schema="settling")
    saver.setup()
    yield saver
    loop.run(saver.aclose())


@pytest.fixture
def where() -> Any:
    return {"configurable": {"thread_id": uuid4().hex}}


@pytest.fixture(params=["blocking", "async"])
def settle(request: pytest.FixtureRequest, loop: asyncio.Runner) -> Work:
    return settle_thread if request.param == "blocking" else lambda *args: loop.run(asettle_thread(*args))


@pytest.fixture(params=["blocking", "async"])
def repair(request: pytest.FixtureRequest, loop: asyncio.Runner) -> Work:
    return repair_thread if request.param == "blocking" else lambda *args: loop.run(arepair_thread(*args))


others_stored: ContextVar[Callable[[], bool]] = ContextVar("others_stored")


def fail() -> NoReturn:
    """Fail when what the other tasks of the step have said is stored."""
    deadline = time.monotonic() + 10
    while not others_stored.get()() and time.monotonic() < deadline:
        time.sleep(0.01)
    raise RuntimeError("failed")


@tool
def strike(label: str) -> str:
    """Strike, or fail when it is told to."""
    return fail() if label == "fail" else f"struck {label}"


def striking(saver: Checkpointer, *middleware: Any) -> Any:
    return create_agent(StrictChatModel(answer=direct), [strike], checkpointer=saver, middleware=middleware)


def broken(agent: Any, where: Any, text: str = "strike a; strike fail; strike b", *, others: int = 2) -> None:
    """Run a step of which one task fails, and so many others finish before it."""

    def stored() -> bool:
        head = agent.checkpointer.get_tuple(where)
        return head is not None and len({task for task, *_ in head.pending_writes}) == others

    token = others_stored.set(stored)
    with pytest.raises(RuntimeError, match="failed"):
        agent.invoke({"messages": text}, where, durability="sync")
    others_stored.reset(token)


def heard(agent: Any, where: Any) -> str:
    return agent.invoke({"messages": "and?"}, where)["messages"][-1].text


def test_without_it_finished_results_are_gone_and_the_model_is_refused(saver: Checkpointer, where: Any) -> None:
    agent = striking(saver)
    broken(agent, where)
    with pytest.raises(RefusedError):
        heard(agent, where)


def test_finished_results_are_kept_and_open_calls_answered(saver: Checkpointer, where: Any, settle: Work) -> None:
    agent = striking(saver)
    broken(agent, where)
    settled = settle(agent, where)
    assert [change.kind for change in settled.changes] == ["answered"] * 3
    assert problems(agent.get_state(where).values["messages"]) == []
    assert heard(agent, where).startswith("heard: struck a, struck b, No result")
    assert settle(agent, where).changes == ()


def test_resumable_settles_by_itself(saver: Checkpointer, where: Any, loop: asyncio.Runner) -> None:
    agent = resumable(striking(saver, ToolLedger()))
    broken(agent, where)
    messages = loop.run(agent.ainvoke({"messages": "and?"}, where))["messages"]
    assert problems(messages) == []
    unknown, *finished = sorted(messages[-1].text.removeprefix("heard: ").split(", "))  # in the order they were stored
    assert finished == ["struck a", "struck b"]
    assert unknown.startswith("The outcome of this call is unknown")


def stopped_at_once(agent: Any, where: Any, text: str) -> None:
    """Have a run stop as soon as it has stored what the user wrote."""
    control = RunControl()
    control.request_drain("stop")
    with pytest.raises(GraphDrained):
        agent.invoke({"messages": text}, where, control=control, durability="sync")
    assert agent.get_state(where).next == (START,)


@pytest.mark.parametrize("before", [False, True])
def test_what_the_user_wrote_to_a_run_that_stopped_at_once_is_kept(
    saver: Checkpointer, where: Any, settle: Work, before: bool
) -> None:
    agent = striking(saver)
    if before:
        agent.invoke({"messages": "zero"}, where)
    stopped_at_once(agent, where, "one")
    assert settle(agent, where).changes == ()
    stopped_at_once(agent, where, "two")
    resumed = resumable(agent).invoke({"messages": "three"}, where)
    humans = [message.text for message in resumed["messages"] if isinstance(message, HumanMessage)]
    assert humans == [*(["zero"] if before else []), "one", "two", "three"]


def test_a_repaired_thread_goes_on_by_itself(saver: Checkpointer, where: Any, repair: Work) -> None:
    agent = striking(saver)
    broken(agent, where)
    assert len(repair(agent, where).changes) == 3
    assert agent.get_state(where).next == ("model",)
    assert agent.invoke(None, where)["messages"][-1].text.startswith("heard: struck a, struck b")


def test_what_waits_for_a_person_is_left_alone(saver: Checkpointer, where: Any, repair: Work) -> None:
    agent = striking(saver, HumanInTheLoopMiddleware(interrupt_on={"strike": True}))
    agent.invoke({"messages": "strike a"}, where)
    before = agent.get_state(where)
    assert repair(agent, where).changes == ()
    assert agent.get_state(where).config == before.config
    approved = Command(resume={"decisions": [{"type": "approve"}]})
    assert agent.invoke(approved, where)["messages"][-1].text == "heard: struck a"


@pytest.mark.parametrize("middleware", [(), (ToolLedger(),)], ids=["plain", "ledger"])
def test_who_writes_instead_of_answering_has_answered(
    saver: Checkpointer, where: Any, settle: Work, middleware: tuple[Any, ...]
) -> None:
    agent = striking(saver, HumanInTheLoopMiddleware(interrupt_on={"strike": True}), *middleware)
    agent.invoke({"messages": "strike a; strike b"}, where)
    settle(agent, where)
    assert heard(agent, where).count("waited for a person's answer") == 2
    assert not agent.get_state(where).interrupts


def test_a_thread_that_is_idle_stays_as_it_is(saver: Checkpointer, where: Any, settle: Work) -> None:
    agent = striking(saver)
    agent.invoke({"messages": "strike a"}, where)
    before = agent.get_state(where).config
    assert settle(agent, where).changes == ()
    assert agent.get_state(where).config == before
    assert settle(agent, {"configurable": {"thread_id": "never seen"}}).messages == []


def test_a_damage_of_long_ago_is_mended_in_place(saver: Checkpointer, where: Any, repair: Work) -> None:
    agent = striking(saver)
    broken(agent, where)
    with pytest.raises(RefusedError):
        heard(agent, where)
    assert [change.kind for change in repair(agent, where).changes] == ["answered"] * 3
    messages = agent.get_state(where).values["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "tool", "tool", "human"]
    assert agent.get_state(where).next == ("model",), "the person still waits for an answer"
    assert agent.invoke(None, where)["messages"][-1].text.startswith("heard: ")


def test_an_idle_thread_is_idle_when_it_is_mended(saver: Checkpointer, where: Any, repair: Work) -> None:
    agent = striking(saver)
    agent.invoke({"messages": "strike a"}, where)
    agent.update_state(where, {"messages": [ToolMessage("stray", tool_call_id="nobody's")]}, as_node="model")
    assert [change.kind for change in repair(agent, where).changes] == ["dropped"]
    state = agent.get_state(where)
    assert (state.next, problems(state.values["messages"])) == ((), [])


def test_the_finished_half_of_any_step_is_kept(saver: Checkpointer, where: Any, settle: Work) -> None:
    class State(MessagesState):
        notes: Annotated[list[AnyMessage], add_messages]

    def quick(_: State) -> dict[str, Any]:
        return {"notes": [AIMessage("worth keeping")]}

    def slow(_: State) -> dict[str, Any]:
        fail()

    builder = StateGraph(State).add_node("quick", quick).add_node("slow", slow)
    graph = builder.add_edge(START, "quick").add_edge(START, "slow").compile(checkpointer=saver)
    broken(graph, where, "begin", others=1)
    settle(graph, where)
    assert [note.text for note in graph.get_state(where).values["notes"]] == ["worth keeping"]


def test_a_cancelled_turn_is_settled(saver: Checkpointer, where: Any, loop: asyncio.Runner) -> None:
    slow = asyncio.Event()

    @tool
    async def strike(label: str) -> str:
        """Strike, slowly."""
        if label == "slow":
            slow.set()
            await asyncio.sleep(60)
        return f"struck {label}"

    model = StrictChatModel(answer=direct)
    agent = resumable(create_agent(model, [strike], checkpointer=saver, middleware=[ToolLedger()]))

    async def cancel() -> None:
        turn = asyncio.ensure_future(agent.ainvoke({"messages": "strike a; strike slow"}, where))
        await slow.wait()
        await asyncio.sleep(0.2)  # the other finishes
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)

    loop.run(cancel())
    answer = loop.run(agent.ainvoke({"messages": "and?"}, where))["messages"][-1].text
    assert answer.startswith("heard: struck a, The outcome of this call is unknown")


@pytest.mark.parametrize("door", ["invoke", "ainvoke"])
def test_repair_messages_alone_keeps_a_plain_agent_talking(
    saver: Checkpointer, where: Any, loop: asyncio.Runner, door: str
) -> None:
    agent = striking(saver, RepairMessages())
    broken(agent, where)
    if door == "invoke":
        said = agent.invoke({"messages": "and?"}, where)
    else:
        said = loop.run(agent.ainvoke({"messages": "and?"}, where))
    assert said["messages"][-1].text.startswith("heard")
    assert isinstance(said["messages"][-2], HumanMessage)
