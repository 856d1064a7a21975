"""A thread resumed on a graph that has changed since says so instead of finishing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.running.graph import resumable
from lc_history.errors import DecodeError, HistoryError

AT: RunnableConfig = {"configurable": {"thread_id": "t1"}}


@pytest.fixture
def saver(postgres_url: str) -> Iterator[Checkpointer]:
    with open_checkpointer(postgres_url, schema=f"changed_{uuid4().hex[:8]}") as saver:
        saver.setup()
        yield saver


@dataclass
class Order:
    amount: int


class State(TypedDict, total=False):
    order: Order
    answer: str


def ask(state: State) -> Any:
    return {"order": Order(5), "answer": interrupt("pay?")}


def fail(state: State) -> Any:
    raise RuntimeError("died")


def agent(saver: Checkpointer, **nodes: Any) -> Any:
    graph = StateGraph(State).add_node("first", lambda state: {"order": Order(5)}).add_edge(START, "first")
    before = "first"
    for name, node in nodes.items():
        graph = graph.add_node(name, node).add_edge(before, name)
        before = name
    return resumable(graph.compile(checkpointer=saver))


def test_a_renamed_node_that_waits_for_an_answer(saver: Checkpointer) -> None:
    before = agent(saver, approve=ask)
    asked = before.invoke({}, AT)["__interrupt__"][0]
    renamed = agent(saver, confirm=ask)
    for resume in (
        lambda: renamed.invoke(Command(resume="yes"), AT),
        lambda: renamed.invoke(None, AT),
        lambda: renamed.resume("t1", {asked.id: "yes"}),
    ):
        with pytest.raises(HistoryError, match="stopped before node approve, which this graph does not have"):
            resume()
    assert before.resume("t1", {asked.id: "yes"})["answer"] == "yes"


def test_a_renamed_node_that_was_to_run(saver: Checkpointer) -> None:
    with pytest.raises(RuntimeError, match="died"):
        agent(saver, pay=fail).invoke({}, AT)
    with pytest.raises(HistoryError, match="stopped before node pay"):
        agent(saver, charge=lambda state: {"answer": "done"}).invoke(None, AT)
    assert agent(saver, pay=lambda state: {"answer": "done"}).invoke(None, AT)["answer"] == "done"


def test_a_class_of_the_state_that_is_gone(saver: Checkpointer) -> None:
    before = agent(saver, approve=ask)
    before.invoke({}, AT)
    assert before.get_state(AT).values["order"] == Order(5)
    Order.__name__ = "Purchase"
    try:
        with pytest.raises(DecodeError, match=r"test_changed_graph\.Order, which the graph's state does not name"):
            agent(saver, approve=ask).invoke(Command(resume="yes"), AT)
    finally:
        Order.__name__ = "Order"
