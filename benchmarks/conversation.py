"""What is said in the benchmarks: turns of two messages as langchain-openai returns them, 1.4 KB together."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from benchmarks.codec import METADATA, USAGE
from lc_history.codec import Codec
from lc_history.codec.shapes import build_bare

ASKED = "What will the weather be like in Paris over the next three days? " * 3
ANSWERED = "It will be sunny at first, then rain sets in. " * 12


def turn() -> list[BaseMessage]:
    """Return a question and its answer, with ids that nobody has seen."""
    asked = HumanMessage(ASKED, id=str(uuid4()))
    return [asked, AIMessage(ANSWERED, usage_metadata=USAGE, response_metadata=METADATA, id=f"run-{uuid4()}")]


def talk(length: int) -> list[BaseMessage]:
    """Return so many messages."""
    return [message for _ in range(-(-length // 2)) for message in turn()][:length]


BODIES = [Codec().encode(message) for message in turn()]
"""The bytes that we store: what a raw driver has to move."""

FLOOR_BODIES = [orjson.dumps(message.__dict__) for message in turn()]


def bare(bodies: list[bytes]) -> list[BaseMessage]:
    """Return messages that nobody has checked: a JSON parser and objects filled by hand, the floor of reading."""
    kinds: list[Any] = [HumanMessage, AIMessage]
    return [build_bare(kinds[place % 2], orjson.loads(body), set(), {}) for place, body in enumerate(bodies)]


def as_items(messages: list[BaseMessage]) -> list[dict[str, Any]]:
    """Return messages as openai-agents keeps them: plain dicts of the API's own shape, here with all that ours hold."""
    return [
        {"role": "user", "content": message.text}
        if isinstance(message, HumanMessage)
        else {
            "role": "assistant",
            "content": message.text,
            "id": message.id,
            "usage": USAGE,
            "response_metadata": METADATA,
        }
        for message in messages
    ]
