"""Microseconds and bytes per message: our codec beside LangChain's own way, LangGraph's serializer, and the floor.

    python -m benchmarks codec

All ways take turns in one process, so that what else the machine does hits each of them alike; figures are medians.
LangChain's way and LangGraph's do not keep every message as it was, the floor checks nothing and knows one class.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns
from typing import Any, NamedTuple

import orjson
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    message_to_dict,
    messages_from_dict,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from lc_history.codec import Codec
from lc_history.codec.shapes import BY_CLASS, build_bare

ROUNDS = 40 if os.environ.get("QUICK") else 400
REPEATS = 20
"""How often a round does the same before it looks at the clock."""

USAGE = {
    "input_tokens": 812,
    "output_tokens": 64,
    "total_tokens": 876,
    "input_token_details": {"audio": 0, "cache_read": 768},
    "output_token_details": {"audio": 0, "reasoning": 0},
}
METADATA = {
    "token_usage": {"completion_tokens": 64, "prompt_tokens": 812, "total_tokens": 876},
    "model_provider": "openai",
    "model_name": "gpt-4o-mini-2024-07-18",
    "system_fingerprint": "fp_560af6e559",
    "id": "chatcmpl-CZ0xQhQ2n4J8oVwq1r9T3bK5mXyLs",
    "service_tier": "default",
    "finish_reason": "stop",
    "logprobs": None,
}
CALL = {"name": "weather", "args": {"city": "Paris", "days": 3}, "id": "call_9aT3xWq", "type": "tool_call"}

TURN: list[BaseMessage] = [
    HumanMessage("What will the weather be like in Paris over the next three days? " * 3, id="m-1"),
    AIMessage("", tool_calls=[CALL], usage_metadata=USAGE, response_metadata=METADATA, id="run-1"),
    ToolMessage(
        "Tuesday sunny, 21 degrees; Wednesday rain. " * 8, tool_call_id="call_9aT3xWq", name="weather", id="m-2"
    ),
    AIMessage(
        "It will be sunny at first, then rain sets in. " * 12, usage_metadata=USAGE, response_metadata=METADATA, id="r2"
    ),
]
"""One turn with a tool call, as langchain-openai returns it."""


class Way(NamedTuple):
    """A way to turn a message into something storable and back."""

    name: str
    encode: Callable[[BaseMessage], Any]
    decode: Callable[[Any], BaseMessage]


def ways() -> list[Way]:
    codec, plus = Codec(), JsonPlusSerializer()
    return [
        Way("`message_to_dict` + `json`", lambda message: json.dumps(message_to_dict(message)), _from_json),
        Way("LangGraph `JsonPlusSerializer`", plus.dumps_typed, plus.loads_typed),
        Way("**ours**", codec.encode, codec.decode),
        Way("floor: orjson, bare objects", lambda message: (type(message), orjson.dumps(message.__dict__)), _floor),
    ]


def _from_json(body: str) -> BaseMessage:
    return messages_from_dict([json.loads(body)])[0]


def _floor(body: tuple[type[BaseMessage], bytes]) -> BaseMessage:
    return build_bare(body[0], orjson.loads(body[1]), set(), {})


def size(body: Any) -> int:
    """Return the bytes that are stored."""
    content = body[1] if isinstance(body, tuple) else body
    return len(content.encode() if isinstance(content, str) else content)


def measure(rounds: int = ROUNDS) -> dict[str, dict[str, float]]:
    """Return, for each way, the median microseconds to encode and decode a message, and the bytes it takes."""
    assert set(map(type, TURN)) <= set(BY_CLASS), "a class without a shape of its own would be measured for all"
    contestants = ways()
    bodies = {way.name: [way.encode(message) for message in TURN] for way in contestants}
    times: dict[tuple[str, str], list[float]] = {}
    gc.disable()
    for _ in range(rounds):
        for way in contestants:
            for verb, call, items in (("encode", way.encode, TURN), ("decode", way.decode, bodies[way.name])):
                begin = perf_counter_ns()
                for _ in range(REPEATS):
                    for item in items:
                        call(item)
                taken = (perf_counter_ns() - begin) / 1000 / REPEATS / len(TURN)
                times.setdefault((way.name, verb), []).append(taken)
        gc.collect(0)
    gc.enable()
    return {
        way.name: {
            "encode": median(times[way.name, "encode"]),
            "decode": median(times[way.name, "decode"]),
            "bytes": sum(map(size, bodies[way.name])) / len(TURN),
        }
        for way in contestants
    }
