"""How many tokens a prompt has: exact where the provider has told, else estimated by script; nothing is downloaded.

Any callable from messages to a number can take the place of the estimate, such as one on tiktoken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, Final, Protocol

import orjson
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from lc_history.strategies.repair import call_names

# Least squares over o200k_base counts of English, German and Chinese prose, Python and JSON; tests/test_tokens.py
# holds the result against counts of texts that were not among them. Latin-1 is counted by translating each byte to
# the kind of its character, which costs 20 ns a character; other scripts by one expression each.
_WORD, _LETTER, _DIGITS, _MARKS, _MARK, _LINE, _INDENT = 0.72, 0.084, 2.1, 0.4, 0.21, 0.92, 0.145
_SCRIPTS: Final = (
    (re.compile(r"[\u00c0-\u024f]"), 2.4),  # an accent: a language whose every word costs more
    (re.compile(r"[\u0370-\u03ff]"), 0.5),  # Greek
    (re.compile(r"[\u0400-\u052f]"), 0.34),  # Cyrillic
    (re.compile(r"[\u0530-\u1fff]"), 0.42),  # Hebrew, Arabic, the scripts of India, Thai
    (re.compile(r"[\uac00-\ud7af]"), 0.6),  # Hangul
    (re.compile(r"[\u3040-\u30ff]"), 0.5),  # Kana
    (re.compile(r"[\u3400-\u9fff\uf900-\ufaff]"), 0.82),  # Han
    (re.compile(r"[\u2010-\u2bff\u3000-\u303f\uff00-\uffef]"), 0.2),  # marks that are not ASCII
    (re.compile(r"[\U00010000-\U0010ffff]"), 1.5),  # emoji and the rare
)


def _kind(character: str) -> str:
    if character.isalpha():
        return "a" if character.islower() else "A"
    if not character.isascii() or character < " ":
        return "\n" if character in "\r\n" else " "
    return "0" if character.isdigit() else " " if character == " " else "."


_KINDS: Final = "".join(map(_kind, map(chr, range(256)))).encode()
_LETTERS, _NUMBERS, _PUNCTUATION = (
    bytes(byte if chr(byte) in kept else ord(" ") for byte in range(256)) for kept in ("aA", "0", ".")
)

MESSAGE_TOKENS: Final = 4
"""What marks a message's beginning, end and role."""

CALL_TOKENS: Final = 8
"""What marks a tool call, beside its name and arguments."""

MEDIA_TOKENS: Final = 1000
"""An image, a sound or a file: providers differ, between 85 and 1,600."""

_MEDIA: Final = frozenset(
    {"image", "image_url", "audio", "input_audio", "video", "file", "input_image", "input_file", "document", "media"}
)
_CALL_BLOCKS: Final = frozenset({"tool_use", "tool_call", "function_call", "tool_call_chunk", "input_json_delta"})
_PLAUSIBLE: Final = (0.5, 2.0)
_ENOUGH_PAIRS: Final = 3


class TokenCounter(Protocol):
    """Counts the tokens of messages as they are sent."""

    def __call__(self, messages: Sequence[BaseMessage], /) -> int:
        """Return the tokens that the messages add to a prompt."""
        ...


def estimate(text: str) -> int:
    """Return about how many tokens a text has, within 15 % for prose in the common scripts, code and JSON.

    >>> estimate("The quick brown fox jumps over the lazy dog.")
    10
    """
    kinds = text.encode("latin-1", "ignore").translate(_KINDS)
    letters, digits, marks = (kinds.translate(kept) for kept in (_LETTERS, _NUMBERS, _PUNCTUATION))
    tokens = _WORD * (len(letters.split()) + letters.count(b"aA"))  # camelCase is two words
    tokens += _LETTER * (len(letters) - letters.count(b" "))
    tokens += _DIGITS * len(digits.split())
    tokens += _MARKS * len(marks.split()) + _MARK * (len(marks) - marks.count(b" "))
    tokens += _LINE * (kinds.count(b"\n") - kinds.count(b"\n\n")) + _INDENT * kinds.count(b"   ")
    if not text.isascii():
        tokens += sum(cost * len(script.findall(text)) for script, cost in _SCRIPTS)
    return max(round(tokens), 1) if text else 0


def estimate_messages(messages: Sequence[BaseMessage]) -> int:
    """Return about how many tokens messages add to a prompt: their texts, calls and results.

    >>> from langchain_core.messages import HumanMessage
    >>> estimate_messages([HumanMessage("Hello there.")])
    7
    """
    return sum(MESSAGE_TOKENS + _content(message) + _calls(message) for message in messages)


def calibration(messages: Sequence[BaseMessage], count: TokenCounter = estimate_messages) -> float:
    """Return by how much the provider counts more than the estimate, from the ``usage_metadata`` in a conversation.

    Between two answers of one model the prompt has grown by the messages from the one to the other, so the growth
    of ``input_tokens`` is their exact size. What the figures are taken from is stored with the conversation, so
    every process comes to the same. 1.0 where too little is known.
    """
    told = [(at, *usage) for at, message in enumerate(messages) if (usage := _usage(message))]
    ratios: list[float] = []
    for (start, model, before), (end, same_model, after) in pairwise(told):
        if model == same_model:
            ratio = (after - before) / max(count(messages[start:end]), 1)
            if _PLAUSIBLE[0] <= ratio <= _PLAUSIBLE[1]:  # else the window was cut in between
                ratios.append(ratio)
    return median(ratios) if len(ratios) >= _ENOUGH_PAIRS else 1.0


def _usage(message: BaseMessage) -> tuple[str, int] | None:
    """Return which model gave an answer and how many tokens its prompt had."""
    if not isinstance(message, AIMessage) or not message.usage_metadata:
        return None
    metadata = message.response_metadata
    model = metadata.get("model_name") or metadata.get("model") or ""
    return str(model), message.usage_metadata["input_tokens"]


def _content(message: BaseMessage) -> int:
    if isinstance(message.content, str):
        return estimate(message.content)
    return sum(_block(block) for block in message.content)


def _block(block: str | dict[Any, Any]) -> int:
    if isinstance(block, str):
        return estimate(block)
    kind = block.get("type")
    if kind in _MEDIA:
        return MEDIA_TOKENS
    if kind in _CALL_BLOCKS:
        return 0  # counted as a call
    return sum(map(estimate, _texts(block)))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a content block; the rest of it is small."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name not in ("type", "id", "signature", "extras", "annotations"):
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _calls(message: BaseMessage) -> int:
    if isinstance(message, ToolMessage):
        return CALL_TOKENS
    if not isinstance(message, AIMessage):
        return 0
    arguments = [orjson.dumps(call["args"], default=str).decode() for call in message.tool_calls]
    arguments += [call["args"] or "" for call in message.invalid_tool_calls]
    return sum(CALL_TOKENS + estimate(name) for name in call_names(message).values()) + sum(map(estimate, arguments))
