from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from lc_history.strategies.repair import REPAIRED, problems, repair, unanswered, unfinished


def ai(name: str, *calls: str) -> AIMessage:
    said = "" if calls else "well"
    return AIMessage(said, id=name, tool_calls=[{"name": f"tool_{call}", "args": {}, "id": call} for call in calls])


def result(call: str, text: str = "done") -> ToolMessage:
    return ToolMessage(text, tool_call_id=call, id=f"{text} {call}")


def kinds(messages: list[BaseMessage]) -> str:
    return " ".join(m.type if not isinstance(m, ToolMessage) else f"tool:{m.tool_call_id}" for m in messages)


ASK, AND = HumanMessage("pay", id="ask"), HumanMessage("and?", id="and")

CALLS = st.sampled_from(["a", "b", "c"])
MESSAGES = st.one_of(
    st.builds(lambda calls: ("ai", calls), st.lists(CALLS, max_size=3, unique=True)),
    st.builds(lambda call: ("tool", call), CALLS),
    st.just(("human", None)),
    st.just(("system", None)),
    st.builds(lambda call: ("repaired", call), CALLS),
)


def build(shapes: list[tuple[str, Any]]) -> list[BaseMessage]:
    """Make any history, also ones whose servers number their calls anew in every answer."""
    made: list[BaseMessage] = []
    for number, (kind, what) in enumerate(shapes):
        name = f"m{number}"
        if kind == "ai":
            made.append(ai(name, *what))
        elif kind == "tool":
            made.append(ToolMessage(name, tool_call_id=what, id=name))
        elif kind == "repaired":
            made.append(ToolMessage(name, tool_call_id=what, id=name, additional_kwargs={REPAIRED: True}))
        else:
            made.append(HumanMessage(name, id=name) if kind == "human" else SystemMessage(name, id=name))
    return made


HISTORIES = st.lists(MESSAGES, max_size=12).map(lambda shapes: [ASK, *build(shapes)])


@settings(max_examples=400, deadline=None)
@given(HISTORIES)
def test_what_is_repaired_is_never_refused(history: list[BaseMessage]) -> None:
    assert problems(repair(history).messages) == []


@settings(max_examples=400, deadline=None)
@given(HISTORIES)
def test_a_valid_history_comes_back_with_the_very_same_messages(history: list[BaseMessage]) -> None:
    repaired = repair(history)
    if not problems(history):
        assert repaired.changes == ()
    if not repaired.changes:
        assert [id(m) for m in repaired.messages] == [id(m) for m in history]
    again = repair(repaired.messages)
    assert again.changes == ()
    assert [id(m) for m in again.messages] == [id(m) for m in repaired.messages]


@settings(max_examples=400, deadline=None)
@given(HISTORIES)
def test_nothing_but_results_moves_and_every_change_is_reported(history: list[BaseMessage]) -> None:
    before = [m.model_dump() for m in history]
    repaired = repair(history)
    assert [m.model_dump() for m in history] == before, "the given messages were altered"
    assert [m for m in repaired.messages if m.type != "tool"] == [m for m in history if m.type != "tool"]
    added = [m.id for m in repaired.messages if not any(m is old for old in history)]
    gone = [m.id for m in history if not any(m is new for new in repaired.messages)]
    reported = {
        kind: [c.message_id for c in repaired.changes if c.kind == kind] for kind in ("answered", "dropped", "moved")
    }
    assert (added, gone) == (reported["answered"], reported["dropped"])
    assert len(unanswered(history)) == len(added)


@settings(max_examples=100, deadline=None)
@given(HISTORIES)
def test_every_replica_makes_the_same_bytes(history: list[BaseMessage]) -> None:
    copy = [message.model_copy(deep=True) for message in history]
    assert [m.model_dump_json() for m in repair(history).messages] == [
        m.model_dump_json() for m in repair(copy).messages
    ]


@pytest.mark.parametrize(
    ("history", "expected", "changed"),
    [
        ([], "", []),
        ([ASK, ai("1", "a"), AND], "human ai tool:a human", ["answered"]),
        ([ASK, ai("1", "a", "b"), result("b"), AND], "human ai tool:b tool:a human", ["answered"]),
        ([ASK, result("x"), AND], "human human", ["dropped"]),
        ([ASK, ai("1", "a"), result("a"), result("a", "again"), AND], "human ai tool:a human", ["dropped"]),
        ([ASK, ai("1", "a"), AND, result("a")], "human ai tool:a human", ["moved"]),
        ([ASK, ai("1", "a"), result("a"), ai("2", "a")], "human ai tool:a ai tool:a", ["answered"]),
    ],
    ids=["empty", "dangling", "parallel", "orphan", "duplicate", "out of place", "numbered anew"],
)
def test_each_damage_is_mended(history: list[BaseMessage], expected: str, changed: list[str]) -> None:
    repaired = repair(history)
    assert kinds(repaired.messages) == expected
    assert [change.kind for change in repaired.changes] == changed


def test_a_result_that_was_made_up_is_an_error_and_says_so() -> None:
    [_, _, made] = repair([ASK, ai("1", "a")]).messages
    assert isinstance(made, ToolMessage)
    assert (made.status, made.name, made.additional_kwargs) == ("error", "tool_a", {REPAIRED: True})


def test_what_a_tool_gave_goes_before_what_was_made_up() -> None:
    call = ai("1", "a")
    repaired = repair([ASK, call, unfinished(call, "a"), AND, result("a")])
    assert kinds(repaired.messages) == "human ai tool:a human"
    assert repaired.messages[2].content == "done"


def test_known_answers_are_used() -> None:
    repaired = repair(
        [ASK, ai("1", "a", "b")], answers={("1", "a"): result("a", "kept"), ("2", "b"): result("b", "other")}
    )
    assert [m.content for m in repaired.messages[2:3]] == ["kept"]
    assert repaired.messages[3].additional_kwargs == {REPAIRED: True}


def test_a_call_that_could_not_be_parsed_wants_a_result_too() -> None:
    broken = AIMessage("", id="1", invalid_tool_calls=[{"name": "t", "args": "{", "id": "a", "error": "?"}])
    assert problems([ASK, broken]) == ["call 'a' has no result right after it"]
    assert problems(repair([ASK, broken]).messages) == []


@pytest.mark.parametrize("opening", [[SystemMessage("be kind")], []])
def test_an_empty_prompt_is_refused(opening: list[BaseMessage]) -> None:
    assert problems(opening) == ["there is nothing to answer: no message but system messages"]


def test_a_conversation_opens_with_a_person_or_a_summary() -> None:
    assert problems([AIMessage("hello"), ASK])
    assert (
        problems([SystemMessage("be kind"), AIMessage("so far", additional_kwargs={"lc_history_summary": True})]) == []
    )
