"""What a long thread costs, and that references never lose, mix up or share a message."""

from __future__ import annotations

from threading import Lock
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel, Field, PrivateAttr

from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.encoding.bodies import SeenBodies
from lc_history.agents.encoding.references import fold, reference, unfold
from lc_history.agents.encoding.twins import Originals, twin
from lc_history.agents.running.graph import resumable
from lc_history.errors import DecodeError

AT: RunnableConfig = {"configurable": {"thread_id": "t1"}}


def text(number: int) -> str:
    """1 KB that compresses badly."""
    return "".join(uuid4().hex for _ in range(31)) + f"{number:08}"


def answer(state: MessagesState) -> Any:
    return {"messages": [AIMessage(text(len(state["messages"])))]}


def chat() -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").add_edge("answer", END)


def stored_bytes(url: str, schema: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class "
            f"WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'"
        ).fetchone()
    assert found
    return found[0]


def written_bytes(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").fetchone()
    assert found
    return found[0]


def test_two_hundred_turns_cost_less_than_ten_times_their_text(
    saver: Checkpointer, postgres_url: str, schema: str
) -> None:
    agent = resumable(chat().compile(checkpointer=saver))
    empty, costs = stored_bytes(postgres_url, schema), []
    for number in range(200):
        before = written_bytes(postgres_url)
        agent.invoke({"messages": [("user", text(number))]}, AT)
        costs.append(written_bytes(postgres_url) - before)
    assert stored_bytes(postgres_url, schema) - empty < 10 * 200 * 2_000
    assert sorted(costs[-20:])[10] < 1.5 * sorted(costs[1:21])[10]
    lengths = [len(state.values.get("messages", [])) for state in agent.get_state_history(AT)]
    assert lengths[:4] == [400, 399, 398, 398]
    assert lengths[-2:] == [0, 0] or lengths[-1] == 0


def test_another_process_reads_what_this_one_wrote(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    graph = chat().compile(checkpointer=saver)
    for number in range(40):
        graph.invoke({"messages": [("user", text(number))]}, AT)
    with open_checkpointer(postgres_url, schema=schema) as other:
        read = chat().compile(checkpointer=other)
        assert read.get_state(AT) == graph.get_state(AT)
        assert list(read.get_state_history(AT)) == list(graph.get_state_history(AT))
        read.invoke({"messages": [("user", "more")]}, AT)
    assert len(graph.get_state(AT).values["messages"]) == 82


def test_what_a_graph_does_to_a_message_shows_nowhere_else(saver: Checkpointer) -> None:
    graph = chat().compile(checkpointer=saver)
    call = {"name": "pay", "args": {"amount": [1, {"cents": 5}]}, "id": "c1", "type": "tool_call"}
    graph.invoke(
        {"messages": [HumanMessage("a"), AIMessage("", tool_calls=[call]), ToolMessage("x", tool_call_id="c1")]}, AT
    )
    first = graph.get_state(AT).values["messages"]
    first[1].tool_calls[0]["args"]["amount"][1]["cents"] = 99
    first[0].additional_kwargs["planted"] = True
    again = graph.get_state(AT).values["messages"]
    assert again[1].tool_calls[0]["args"] == {"amount": [1, {"cents": 5}]}
    assert again[0].additional_kwargs == {}


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message.tool_calls[0]["args"].update(amount=True),
        lambda message: message.tool_calls[0]["args"].update(amount=1.0),
        lambda message: message.additional_kwargs.update(a=1),
        lambda message: setattr(message, "content", "other"),
    ],
)
@pytest.mark.parametrize("others", [0, 40])
def test_a_changed_message_is_a_new_body(saver: Checkpointer, change: Any, others: int) -> None:
    def changing(state: MessagesState) -> Any:
        message = state["messages"][0]
        change(message)
        return {"messages": [message]}

    call = {"name": "pay", "args": {"amount": 1}, "id": "c1", "type": "tool_call"}
    graph = StateGraph(MessagesState).add_node("n", changing).add_edge(START, "n").compile(checkpointer=saver)
    more = [HumanMessage(str(number)) for number in range(others)]  # a long list is compared at once
    graph.invoke({"messages": [AIMessage("", tool_calls=[call], id="m"), *more]}, AT)
    expected = AIMessage("", tool_calls=[{**call, "args": {"amount": 1}}], id="m")
    change(expected)
    kept = graph.get_state(AT).values["messages"][0]
    assert kept == expected
    assert [type(value) for value in kept.tool_calls[0]["args"].values()] == [
        type(value) for value in expected.tool_calls[0]["args"].values()
    ]


def test_bodies_that_were_removed_are_sent_again(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    graph = chat().compile(checkpointer=saver)
    for number in range(20):
        graph.invoke({"messages": [("user", text(number))]}, AT)
    state = graph.get_state(AT).values
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DELETE FROM {schema}.lch_bodies")
    graph.update_state(AT, {"messages": [SystemMessage("x", id="new")]})
    with open_checkpointer(postgres_url, schema=schema) as other:
        assert chat().compile(checkpointer=other).get_state(AT).values["messages"][:40] == state["messages"]


def test_a_missing_or_altered_body_is_an_error(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    chat().compile(checkpointer=saver).invoke({"messages": [("user", "one")]}, AT)
    for damage, error in (
        ("UPDATE lch_bodies SET body = body || 'x'::bytea", "was altered"),
        ("DELETE FROM lch_bodies", "is missing"),
    ):
        with psycopg.connect(postgres_url, autocommit=True, options=f"-c search_path={schema}") as connection:
            connection.execute(damage)
        with open_checkpointer(postgres_url, schema=schema) as other, pytest.raises(DecodeError, match=f"'t1' {error}"):
            other.get_tuple({"configurable": {"thread_id": "t1", "checkpoint_ns": ""}})


@given(st.integers(0, 5000), st.integers(0, 40))
def test_folding_keeps_every_reference_in_its_place(length: int, more: int) -> None:
    bodies: dict[bytes, tuple[str, bytes]] = {}

    def keep(kind: str, body: bytes) -> bytes:
        name = reference(kind, body)
        bodies[name] = (kind, body)
        return name

    names = [number.to_bytes(16, "big") for number in range(length)]
    folded = fold(names, keep)
    assert unfold(folded, bodies) == names
    assert len(folded) <= 16 * 32 * 4
    groups = len(bodies)
    longer = fold([*names, *(b"x" * 16 for _ in range(more))], keep)
    assert unfold(longer, bodies)[:length] == names
    assert len(bodies) - groups <= 2 + more // 16


def test_a_twin_is_equal_and_shares_nothing_that_changes() -> None:
    call = {"name": "pay", "args": {"amount": [1]}, "id": "c1", "type": "tool_call"}
    message = AIMessage([{"type": "text", "text": "a"}], tool_calls=[call], id="m", response_metadata={"n": {"x": 1}})
    made = twin(message)
    assert made == message
    assert made.model_fields_set == message.model_fields_set
    made.tool_calls[0]["args"]["amount"].append(2)
    made.content[0]["text"] = "b"
    made.response_metadata["n"]["x"] = 2
    assert (message.tool_calls[0]["args"], message.content[0]["text"]) == ({"amount": [1]}, "a")
    originals = Originals()
    originals.keep(b"n", message, ("msgpack", b"body"))
    known = originals.of(message)
    assert known is not None
    assert known.name == b"n"
    assert known.twin() == message
    known.twin().tool_calls[0]["args"]["amount"].append(3)  # type: ignore[attr-defined]
    assert known.twin() == message
    assert originals.of(made) is None


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize(("field", "value"), [("artifact", 1), ("artifact", 0), ("added", 1)])
def test_numbers_that_are_equal_and_of_other_types_are_a_change(field: str, value: int, length: int) -> None:
    messages = [ToolMessage("x", tool_call_id="c", id=str(number), **{field: value}) for number in range(length)]
    originals = Originals()
    for message in messages:
        originals.keep(str(message.id).encode(), message, ("msgpack", b"body"))
    originals.wrote(originals.beginning(messages), [str(message.id).encode() for message in messages])
    known = [originals.of(message) for message in messages]
    assert all(known)
    assert len(originals.beginning(messages).names) == (length if length > 32 else 0)
    setattr(messages[-1], field, bool(value))
    assert originals.of(messages[-1]) is None
    assert originals.beginning(messages).names == ()


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize(("first", "second"), [(0.0, -0.0), ({1: "a"}, {True: "a"}), ({1: "a"}, {1.0: "a"})])
def test_what_is_equal_and_coded_otherwise_is_stored_anew(
    saver: Checkpointer, postgres_url: str, schema: str, first: Any, second: Any, length: int
) -> None:
    graph = StateGraph(MessagesState).add_node("end", lambda _: {}).add_edge(START, "end").compile(checkpointer=saver)
    more = [HumanMessage("x", id=str(number)) for number in range(length)]
    graph.invoke({"messages": [AIMessage("x", id="m", additional_kwargs={"v": first}), *more]}, AT)
    graph.invoke({"messages": [AIMessage("x", id="m", additional_kwargs={"v": second})]}, AT)
    with open_checkpointer(postgres_url, schema=schema) as other:
        for graph.checkpointer in (saver, other):
            assert repr(graph.get_state(AT).values["messages"][0].additional_kwargs) == repr({"v": second})


class Ambiguous(dict[str, int]):
    """Data that compares as an array does."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of this is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Holding(BaseModel):
    """Data beside a lock, of which nobody can make a copy."""

    amount: int = 1
    _lock: Any = PrivateAttr(default_factory=Lock)


@pytest.mark.parametrize("artifact", [Ambiguous(amount=1), Holding()])
@pytest.mark.parametrize("length", [1, 40])
def test_a_message_comes_to_hold_what_is_neither_compared_nor_copied(
    saver: Checkpointer, artifact: Any, length: int
) -> None:
    graph = StateGraph(MessagesState).add_node("end", lambda _: {}).add_edge(START, "end").compile(checkpointer=saver)
    more = [HumanMessage("x", id=str(number)) for number in range(length)]
    graph.invoke({"messages": [ToolMessage("x", id="m", tool_call_id="c"), *more]}, AT)
    graph.checkpointer = saver.with_allowlist([(Holding.__module__, Holding.__name__)])
    graph.invoke({"messages": [ToolMessage("x", id="m", tool_call_id="c", artifact=artifact)]}, AT)
    kept = graph.get_state(AT).values["messages"][0].artifact
    assert dict(kept) == {"amount": 1}


class Stamped(AIMessage):
    """A message with something that is not stored."""

    stamp: int = Field(default=0, exclude=True)


def test_a_message_of_a_class_of_its_own_is_read_as_it_is_stored(
    saver: Checkpointer, postgres_url: str, schema: str
) -> None:
    graph = StateGraph(MessagesState).add_node("end", lambda _: {}).add_edge(START, "end")
    with open_checkpointer(postgres_url, schema=schema, allow=[Stamped], transcript=False) as other:
        made = graph.compile(checkpointer=other)
        made.invoke({"messages": [Stamped("x", id="m", stamp=1)]}, AT)
        assert made.get_state(AT).values["messages"] == [Stamped("x", id="m")]


def test_threads_without_messages_are_forgotten_too() -> None:
    seen = SeenBodies(max_bytes=10_000)
    first = seen.originals("first")
    for number in range(100):
        seen.originals(str(number))
    assert seen.originals("first") is not first
