"""Random tool dialogues: parallel and dangling calls, stray results, blocks, silence, system messages, removals."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.graph.message import REMOVE_ALL_MESSAGES

WORDS = st.integers(0, 60).map(lambda count: "word " * count)
CALLS = st.sampled_from(["a", "b", "c"])
SHAPES = st.one_of(
    st.tuples(st.just("human"), WORDS),
    st.tuples(st.just("blocks"), WORDS),
    st.tuples(st.just("ai"), st.lists(CALLS, max_size=3, unique=True)),
    st.tuples(st.just("tool"), st.tuples(CALLS, WORDS)),
    st.tuples(st.just("system"), WORDS),
    st.tuples(st.just("silent"), st.sampled_from(["human", "ai", "system", "tool"])),
    st.tuples(st.just("remove"), st.integers(0, 24) | st.none()),
)
SILENT = ["", " \n", [], [{"type": "text", "text": ""}]]


def build(shapes: list[tuple[str, Any]], prefix: str = "m") -> list[BaseMessage]:
    """Make the messages of a dialogue, each with an id."""
    made: list[BaseMessage] = []
    for number, (kind, what) in enumerate(shapes):
        name = f"{prefix}{number}"
        if kind == "ai":
            calls = [{"name": "look", "args": {"at": f"{call} " * 20}, "id": call} for call in what]
            made.append(AIMessage(f"answer {number}", id=name, tool_calls=calls))
        elif kind == "tool":
            made.append(ToolMessage(f"{what[1]} {name}", tool_call_id=what[0], id=name))
        elif kind == "blocks":
            made.append(HumanMessage([{"type": "text", "text": what}, {"type": "text", "text": name}], id=name))
        elif kind == "silent":
            made.append(_silent(what, SILENT[number % len(SILENT)], name))
        elif kind == "remove":
            earlier = f"{prefix}{(what or 0) % max(number, 1)}"
            made.append(RemoveMessage(REMOVE_ALL_MESSAGES if what is None else earlier))
        else:
            made.append((HumanMessage if kind == "human" else SystemMessage)(f"{what}{name}", id=name))
    return made


def _silent(kind: str, content: Any, name: str) -> BaseMessage:
    if kind == "tool":
        return ToolMessage(content, tool_call_id="a", id=name)
    return {"human": HumanMessage, "ai": AIMessage, "system": SystemMessage}[kind](content, id=name)


def dialogues(max_size: int = 24) -> st.SearchStrategy[list[BaseMessage]]:
    """Any dialogue, well-formed or not."""
    return st.lists(SHAPES, max_size=max_size).map(build)


def left_of(dialogue: list[BaseMessage]) -> list[BaseMessage]:
    """Apply removals as LangGraph does, one after the other, and leave out what says nothing."""
    shown: list[BaseMessage] = []
    for message in dialogue:
        if not isinstance(message, RemoveMessage):
            shown.append(message)
        elif message.id == REMOVE_ALL_MESSAGES:
            shown = []
        else:
            shown = [one for one in shown if one.id != message.id or one.type == "tool"]  # its call may stay
    return [one for one in shown if one.type == "tool" or one.text.strip() or getattr(one, "tool_calls", None)]
