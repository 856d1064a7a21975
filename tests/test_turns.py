"""A turn that is asked for again, and answers that several people give at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.running.graph import resumable
from lc_history.errors import ConflictError, PolicyError


@pytest.fixture
def saver(postgres_url: str) -> Iterator[Checkpointer]:
    with open_checkpointer(postgres_url, schema=f"turns_{uuid4().hex[:8]}") as saver:
        saver.setup()
        yield saver


def at(turn_id: str | None = None, **configurable: Any) -> RunnableConfig:
    turn = {"turn_id": turn_id} if turn_id else {}
    return {"configurable": {"thread_id": "t1", **turn, **configurable}}


def said(text: str) -> Any:
    return {"messages": [("user", text)]}


def texts(state: Any) -> list[str]:
    return [message.text for message in state["messages"]]


class Effects:
    """Counts how often a node did its work."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails = 0

    def answer(self, state: MessagesState) -> Any:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the process died here")
        self.done.append(state["messages"][-1].text)
        return {"messages": [AIMessage("to " + state["messages"][-1].text)]}

    def ask(self, state: MessagesState) -> Any:
        answer = interrupt({"pay": state["messages"][-1].text})
        time.sleep(0.3)
        self.done.append(answer)
        return {"messages": [AIMessage(f"paid: {answer}")]}


@pytest.fixture
def effects() -> Effects:
    return Effects()


def graph(*nodes: Callable[..., Any]) -> StateGraph[Any, Any, Any, Any]:
    built = StateGraph(MessagesState)
    for number, node in enumerate(nodes):
        built.add_node(f"n{number}", node).add_edge(f"n{number - 1}" if number else START, f"n{number}")
    return built.add_edge(f"n{len(nodes) - 1}", END)


@pytest.fixture
def agent(saver: Checkpointer, effects: Effects) -> Any:
    return resumable(graph(effects.answer).compile(checkpointer=saver))


@pytest.fixture
def approval(saver: Checkpointer, effects: Effects) -> Any:
    return resumable(graph(effects.ask).compile(checkpointer=saver))


# Turns


async def test_a_turn_asked_for_again_is_the_same_turn(agent: Any, effects: Effects) -> None:
    first = agent.invoke(said("one"), at("x"))
    assert agent.invoke(said("one"), at("x")) == first
    assert await agent.ainvoke(said("one"), at("x")) == first
    second = agent.invoke(said("two"), at("y"))
    agent.invoke(said("three"), at())
    assert agent.invoke(said("one"), at("x")) == first
    assert agent.invoke(said("two"), at("y")) == second
    assert effects.done == ["one", "two", "three"]
    assert texts(agent.get_state(at()).values) == ["one", "to one", "two", "to two", "three", "to three"]
    await agent.checkpointer.aclose()


@pytest.mark.parametrize(
    "options",
    [{"stream_mode": "values"}, {"stream_mode": ["updates", "values"]}, {"stream_mode": "values", "version": "v2"}],
)
def test_a_turn_shown_again_ends_its_stream_alike(agent: Any, options: dict[str, Any]) -> None:
    first = list(agent.stream(said("one"), at("x"), **options))
    assert list(agent.stream(said("one"), at("x"), **options)) == first[-1:]


def test_a_retry_while_the_turn_runs_gets_its_result(agent: Any, effects: Effects) -> None:
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: agent.invoke(said("one"), at("x")), range(4)))
    assert results == results[:1] * 4
    assert effects.done == ["one"]


@pytest.mark.parametrize("on_busy", ["interrupt", "rollback"])
def test_a_retry_never_stops_what_it_retries(saver: Checkpointer, effects: Effects, on_busy: Any) -> None:
    def slow(state: MessagesState) -> Any:
        time.sleep(0.3)
        return effects.answer(state)

    agent = resumable(graph(slow, lambda _: {}).compile(checkpointer=saver), on_busy=on_busy)
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda _: agent.invoke(said("one"), at("x")), range(3)))
    assert results == results[:1] * 3
    assert effects.done == ["one"]


def test_a_failed_turn_goes_on_where_it_stopped(saver: Checkpointer, effects: Effects) -> None:
    agent = resumable(graph(effects.answer, effects.answer).compile(checkpointer=saver))
    effects.fails = 1
    with pytest.raises(RuntimeError, match="died here"):
        agent.invoke(said("one"), at("x"))
    state = agent.invoke(said("one"), at("x"))
    assert texts(state) == ["one", "to one", "to to one"]


def test_a_turn_that_waits_for_a_person_says_so_again(approval: Any, effects: Effects) -> None:
    first = approval.invoke(said("100 EUR"), at("x"))
    again = approval.invoke(said("100 EUR"), at("x"))
    assert again["__interrupt__"] == first["__interrupt__"]
    done = approval.invoke(Command(resume="yes"), at())
    assert approval.invoke(said("100 EUR"), at("x")) == done
    assert effects.done == ["yes"]


def test_a_turn_is_the_same_after_a_person_has_answered(approval: Any, effects: Effects) -> None:
    approval.invoke(said("100 EUR"), at("x"))
    done = approval.resume("t1", {approval.pending()[0].interrupt_id: "yes"})
    assert approval.invoke(said("100 EUR"), at("x")) == done
    assert effects.done == ["yes"]


def test_a_turn_may_be_named_by_any_value(agent: Any, effects: Effects) -> None:
    for name in (17, UUID(int=1)):
        assert agent.invoke(said("one"), at(name)) == agent.invoke(said("one"), at(name))
    assert effects.done == ["one", "one"]


def test_a_pruned_turn_is_not_done_again(agent: Any, effects: Effects) -> None:
    agent.invoke(said("one"), at("x"))
    agent.invoke(said("two"), at("y"))
    agent.checkpointer.prune(["t1"])
    with pytest.raises(ConflictError, match="was pruned"):
        agent.invoke(said("one"), at("x"))
    assert effects.done == ["one", "two"]


# Answers


def test_two_answers_at_once_execute_once(approval: Any, effects: Effects) -> None:
    asked = approval.invoke(said("100 EUR"), at("x"))["__interrupt__"][0]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda _: approval.resume("t1", {asked.id: "yes"}), range(2)))
    assert results[0] == results[1]
    assert texts(results[0]) == ["100 EUR", "paid: yes"]
    assert effects.done == ["yes"]


def test_an_answer_during_the_run_of_the_first_gets_its_result(saver: Checkpointer, effects: Effects) -> None:
    def slow(state: MessagesState) -> Any:
        time.sleep(0.6)
        return {"messages": [AIMessage("done")]}

    agent = resumable(graph(effects.ask, slow).compile(checkpointer=saver))
    asked = agent.invoke(said("100 EUR"), at())["__interrupt__"][0]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(agent.resume, "t1", {asked.id: "yes"})
        time.sleep(0.6)
        assert not first.done()
        assert agent.resume("t1", {asked.id: "yes"}) == first.result()
    assert effects.done == ["yes"]


async def test_an_answer_that_is_not_wanted_any_more_says_so(approval: Any, effects: Effects) -> None:
    asked = approval.invoke(said("100 EUR"), at())["__interrupt__"][0]
    approval.resume("t1", {asked.id: "yes"})
    with pytest.raises(ConflictError, match=r"is not pending: it was answered on \d{4}-"):
        approval.resume("t1", {asked.id: "no"})
    with pytest.raises(ConflictError, match="is not pending: it is not known"):
        await approval.aresume("t1", {"0" * 32: "no"})
    with pytest.raises(ConflictError, match="is not known"):
        approval.resume("nowhere", {asked.id: "no"})
    assert effects.done == ["yes"]
    await approval.checkpointer.aclose()


def test_a_question_replaced_by_a_new_message_is_not_pending(approval: Any, effects: Effects) -> None:
    asked = approval.invoke(said("100 EUR"), at())["__interrupt__"][0]
    approval.invoke(said("200 EUR"), at())
    with pytest.raises(ConflictError, match="is not pending"):
        approval.resume("t1", {asked.id: "yes"})
    assert effects.done == []


def test_pending_lists_what_waits_for_a_person(approval: Any) -> None:
    ann = {"user_id": "ann"}
    asked = approval.invoke(said("100 EUR"), at(**ann))["__interrupt__"][0]
    approval.invoke(said("200 EUR"), {"configurable": {"thread_id": "t2", **ann}})
    approval.invoke(said("300 EUR"), {"configurable": {"thread_id": "t3", "user_id": "bob"}})
    waiting = approval.pending(user_id="ann")
    assert [(found.thread_id, found.asked) for found in waiting] == [
        ("t1", {"pay": "100 EUR"}),
        ("t2", {"pay": "200 EUR"}),
    ]
    assert waiting[0].interrupt_id == asked.id
    assert approval.pending() == []
    with pytest.raises(PolicyError, match="another user"):
        approval.resume("t1", {asked.id: "yes"}, user_id="bob")
    approval.resume("t1", {asked.id: "yes"}, user_id="ann")
    assert [found.thread_id for found in approval.pending(user_id="ann")] == ["t2"]


def test_several_questions_are_answered_one_by_one(saver: Checkpointer, effects: Effects) -> None:
    both = StateGraph(MessagesState).add_node("a", effects.ask).add_node("b", effects.ask)
    both = both.add_edge(START, "a").add_edge(START, "b").add_edge("a", END).add_edge("b", END)
    agent = resumable(both.compile(checkpointer=saver))
    agent.invoke(said("100 EUR"), at())
    first, second = agent.pending()
    state = agent.resume("t1", {first.interrupt_id: "yes"})
    assert [left.id for left in state["__interrupt__"]] == [second.interrupt_id]
    assert [found.interrupt_id for found in agent.pending()] == [second.interrupt_id]
    agent.resume("t1", {second.interrupt_id: "no"})
    assert agent.pending() == []
    assert sorted(effects.done) == ["no", "yes"]


# Breakpoints


async def test_a_turn_asked_for_again_stays_at_its_breakpoint(saver: Checkpointer, effects: Effects) -> None:
    agent = resumable(graph(effects.answer).compile(checkpointer=saver, interrupt_before=["n0"]))
    first = agent.invoke(said("one"), at("x"))
    assert agent.invoke(said("one"), at("x")) == first
    assert await agent.ainvoke(said("one"), at("x")) == first
    assert (effects.done, agent.get_state(at()).next) == ([], ("n0",))
    effects.fails = 1
    with pytest.raises(RuntimeError):
        agent.invoke(None, at("x"))
    done = agent.invoke(said("one"), at("x"))
    assert texts(done) == ["one", "to one"], "somebody has let it go on, and it failed"
    assert agent.invoke(said("one"), at("x")) == done
    assert effects.done == ["one"]
    await saver.aclose()
