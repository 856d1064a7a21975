"""Texts that UTF-8 or PostgreSQL cannot hold: what is said comes back equal, and an id is refused in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Interrupt, Send, interrupt

from lc_history import ChatHistories
from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.effects.ledger import ToolLedger
from lc_history.agents.encoding.serializer import strict_serializer
from lc_history.agents.running.graph import resumable
from lc_history.privacy.keyring import Keyring
from lc_history.testing.models import StrictChatModel

KEYS = Keyring({"k": b"\1" * 32}, current="k")
HALF = "half \ud83d, two \ud83d\ude00, nothing \0?"


@pytest.fixture(params=[None, KEYS], ids=["plain", "sealed"])
def saver(request: pytest.FixtureRequest, postgres_url: str, schema: str) -> Iterator[Checkpointer]:
    with open_checkpointer(postgres_url, schema=schema, keys=request.param) as saver:
        saver.setup()
        yield saver


def at(thread_id: str = "t1", **configurable: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, **configurable}}


class State(MessagesState):
    short: str
    tree: dict[str, Any]


def work(state: State) -> Any:
    answer = interrupt({"asked": HALF})
    said = AIMessage(
        [{"type": "text", "text": HALF + answer}], tool_calls=[{"name": "x", "args": {HALF: HALF}, "id": "1"}]
    )
    return {"messages": [said], "short": HALF, "tree": {HALF: [HALF, (HALF,)]}}


def test_what_is_said_comes_back_in_another_process(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    graph = StateGraph(State).add_node("work", work).add_edge(START, "work").add_edge("work", END)
    agent = resumable(graph.compile(checkpointer=saver))
    agent.invoke({"messages": [HumanMessage(HALF, id="h")], "short": HALF}, at())
    with open_checkpointer(postgres_url, schema=schema, keys=saver.keys) as other:
        again = resumable(graph.compile(checkpointer=other))
        [question] = again.pending()
        assert question.asked == {"asked": HALF}
        told = again.resume("t1", {question.interrupt_id: HALF})
    with open_checkpointer(postgres_url, schema=schema, keys=saver.keys) as other:
        kept = graph.compile(checkpointer=other).get_state(at()).values
    assert kept == told
    assert [message.content for message in kept["messages"]] == [HALF, [{"type": "text", "text": HALF + HALF}]]
    assert (kept["messages"][1].tool_calls[0]["args"], kept["short"]) == ({HALF: HALF}, HALF)
    assert kept["tree"] == {HALF: [HALF, (HALF,)]}
    with ChatHistories.open(postgres_url, schema=schema, keys=saver.keys) as histories:
        assert histories.session("t1").messages == kept["messages"]


def test_a_tool_is_called_and_answers_with_half_a_pair(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    @tool
    def echo(text: str) -> str:
        """Say it again."""
        return text

    def call(messages: Any) -> AIMessage:
        if isinstance(messages[-1], ToolMessage):
            return AIMessage("heard " + messages[-1].text)
        return AIMessage("", tool_calls=[{"name": "echo", "args": {"text": HALF}, "id": "1"}])

    model = StrictChatModel(answer=call)
    agent = create_agent(model, [echo], checkpointer=saver, middleware=[ToolLedger()], interrupt_before=["tools"])
    agent.invoke({"messages": "go"}, at())
    with open_checkpointer(postgres_url, schema=schema, keys=saver.keys) as other:
        agent = create_agent(model, [echo], checkpointer=other, middleware=[ToolLedger()])
        assert agent.invoke(None, at())["messages"][-1].text == "heard " + HALF


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary() | st.text(st.characters(codec=None)) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(st.characters(codec=None)), inner)
    ),
    max_leaves=8,
)


@given(values)
def test_plain_values_come_back_equal(value: Any) -> None:
    serde = strict_serializer(())
    holders: list[Callable[[Any], Any]] = [
        lambda one: one,
        lambda one: Send("n", one),
        lambda one: (Interrupt(one, id="i"),),
        lambda one: Command(update={"x": one}, goto=[Send("n", one)]),
    ]
    for holder in holders:
        held = holder([value, "\ud800?"])
        again = serde.loads_typed(serde.dumps_typed(held))
        assert again == held


def test_what_is_of_a_foreign_class_is_kept_as_langgraph_does() -> None:
    serde = strict_serializer(())
    held = ToolMessage("?\ud800", tool_call_id="1", artifact=Document("x"))
    assert serde.loads_typed(serde.dumps_typed(held)).content == "??"
    assert serde.loads_typed(serde.dumps_typed(HumanMessage("well?"))) == HumanMessage("well?")


@pytest.mark.parametrize("odd", ["a\0b", "a\ud800b"], ids=["NUL", "surrogate"])
@pytest.mark.parametrize("what", ["thread_id", "user_id", "turn_id"])
def test_an_id_that_postgresql_cannot_hold_is_refused_in_words(saver: Checkpointer, what: str, odd: str) -> None:
    graph = StateGraph(State).add_node("work", work).add_edge(START, "work").compile(checkpointer=saver)
    agent = resumable(graph)
    asked = at(**{what: odd}) if what != "thread_id" else at(odd)
    ids = {name: odd if name == what else name for name in ("thread_id", "user_id")}
    verbs: list[Callable[[], Any]] = [
        lambda: agent.invoke({"messages": "hello"}, asked),
        lambda: graph.invoke({"messages": "hello"}, asked),
        lambda: agent.update_state(asked, {"messages": "hello"}),
        lambda: graph.get_state(asked),
    ]
    if what != "turn_id":
        verbs += [
            lambda: saver.threads.get(**ids),
            lambda: saver.threads.rename(**ids, title="x"),
            lambda: saver.threads.delete(**ids),
            lambda: saver.threads.fork(**ids, new_thread_id="t2"),
            lambda: agent.resume(**ids, answers={"i": "x"}),
        ]
    if what == "user_id":
        verbs += [lambda: saver.threads.list(odd), lambda: agent.pending(user_id=odd)]
    if what == "thread_id":
        verbs += [
            lambda: saver.copy_thread("t1", odd),
            lambda: saver.delete_thread(odd),
            lambda: saver.prune([odd]),
            lambda: agent.resume("t1", {odd: "x"}),
            lambda: saver.delete_for_runs([odd]),
        ]
    for verb in verbs:
        with pytest.raises(
            ValueError, match=r"id 'a\\(x00|ud800)b' holds what PostgreSQL's text cannot.*such as a hash"
        ):
            verb()
    assert saver.threads.list().items == []


def test_a_title_is_any_text(saver: Checkpointer) -> None:
    resumable(StateGraph(State).add_node("work", work).add_edge(START, "work").compile(checkpointer=saver)).invoke(
        {"messages": "hello"}, at()
    )
    saver.threads.rename("t1", HALF)
    assert saver.threads.get("t1").title == HALF
