"""Random tool dialogues: parallel calls, dangling calls, stray results, blocks, several system messages."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

WORDS = st.integers(0, 60).map(lambda count: "word " * count)
CALLS = st.sampled_from(["a", "b", "c"])
SHAPES = st.one_of(
    st.tuples(st.just("human"), WORDS),
    st.tuples(st.just("blocks"), WORDS),
    st.tuples(st.just("ai"), st.lists(CALLS, max_size=3, unique=True)),
    st.tuples(st.just("tool"), st.tuples(CALLS, WORDS)),
    st.tuples(st.just("system"), WORDS),
)


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
        else:
            made.append((HumanMessage if kind == "human" else SystemMessage)(f"{what}{name}", id=name))
    return made


def dialogues(max_size: int = 24) -> st.SearchStrategy[list[BaseMessage]]:
    """Any dialogue, well-formed or not."""
    return st.lists(SHAPES, max_size=max_size).map(build)
