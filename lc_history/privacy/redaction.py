"""Redaction: a plain callable from message to message, applied before anything is encoded or stored.

    redact=Redactor()                          "I am [EMAIL]"
    redact=Redactor(secret=secret)             "I am [EMAIL:8a1c0f6e2b47]": who is who can still be seen
    redact=Redactor(*EVERYTHING, employees)    with a finder of your own

as given to `ChatHistories.open`. Any other callable will do as well. What was redacted is gone: it is in no store, in
no backup, and no key can bring it back.
"""

from __future__ import annotations

import json
from hashlib import sha256
from hmac import digest
from typing import Any, Final

from langchain_core.messages import BaseMessage

from lc_history.privacy.finders import EVERYTHING, Finder, Found

MIN_SECRET_BYTES: Final = 16

_KEPT_FIELDS: Final = frozenset({"type", "id", "tool_call_id", "status", "usage_metadata", "chunk_position"})
_LINKED_FIELDS: Final = frozenset({"content", "additional_kwargs", "response_metadata"})
_CALLS: Final = frozenset({"tool_calls", "invalid_tool_calls", "tool_call_chunks"})
_LINKS: Final = frozenset({"type", "id", "tool_call_id", "tool_use_id", "call_id", "signature"})
"""Keys of content blocks and calls that tie them to each other or to the provider."""
_ARGUMENTS: Final = frozenset({"args", "arguments", "input"})
"""Keys of what a model passes to a tool: data throughout, also under the keys above."""


class Redactor:
    """Replaces what the finders find, everywhere in a message but in what ties messages together.

    That is: content and its blocks, names, arguments and results of tools, artifacts, metadata and extra fields, keys
    of dicts, and whole numbers; not ids. The message that is given is not changed. Objects other than plain data are
    not looked into: the codec refuses them, so nothing unseen is stored (let `as_data` go first).

    finders: what to look for; without any, all of `lc_history.privacy.finders`.
    secret: at least 16 random bytes. With it, equal values get equal pseudonyms, ``[EMAIL:8a1c0f6e2b47]``, that cannot
        be computed without it (a bare hash of a phone number is reversed in seconds); keep it out of the store.

    >>> from langchain_core.messages import HumanMessage
    >>> Redactor()(HumanMessage("I am ann@example.org, card 4111 1111 1111 1111, order 4111 1111 1111 1112")).content
    'I am [EMAIL], card [CARD], order 4111 1111 1111 1112'
    """

    def __init__(self, *finders: Finder, secret: bytes | None = None) -> None:
        if secret is not None and len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"the secret has {len(secret)} bytes; at least {MIN_SECRET_BYTES} random ones are needed")
        if not all(map(callable, finders)):
            raise TypeError(f"a finder is a callable, not {finders!r:.80}: give those of a list as Redactor(*them)")
        self._finders, self._secret = finders or EVERYTHING, secret

    def __call__(self, message: BaseMessage) -> BaseMessage:
        """Return a redacted copy of the message."""
        fields = {name: value for name, value in message if name not in _KEPT_FIELDS}
        return message.model_copy(update={name: self._field(name, value) for name, value in fields.items()})

    def text(self, text: str) -> str:
        """Return the text with every find replaced; finds that overlap become one."""
        parts, end = [], 0
        for found in self._found(text):
            parts += [text[end : found.start], self._replacement(found)]
            end = found.end
        return "".join([*parts, text[end:]]) if parts else text

    def _found(self, text: str) -> list[Found]:
        merged: list[Found] = []
        finds = (found for find in self._finders for found in find(text) if found.start < found.end)
        for found in sorted(finds, key=lambda found: (found.start, -found.end)):
            if merged and found.start < merged[-1].end:
                first = merged[-1]
                end = max(first.end, found.end)
                whole = first.canonical if end == first.end else text[first.start : end]
                merged[-1] = Found(first.start, end, first.label, whole)
            else:
                merged.append(found)
        return merged

    def _replacement(self, found: Found) -> str:
        if self._secret is None:
            return f"[{found.label}]"
        value = f"{found.label}\0{found.canonical}".encode("utf-8", "surrogatepass")
        return f"[{found.label}:{digest(self._secret, value, sha256).hex()[:12]}]"

    def _field(self, name: str, value: Any) -> Any:
        if name in _CALLS:
            return [{key: self._entry(key, child) for key, child in call.items()} for call in value]
        return self._data(value, links=_LINKS if name in _LINKED_FIELDS else frozenset())

    def _data(self, value: Any, *, links: frozenset[str] = frozenset()) -> Any:
        kind = type(value)
        if kind is str:
            return self.text(value)
        if kind is int:
            text = self.text(str(value))
            return value if text == str(value) else text
        if kind is list:
            return [self._data(child, links=links) for child in value]
        if kind is dict:
            return self._dict(value, links)
        return value

    def _dict(self, value: dict[Any, Any], links: frozenset[str]) -> dict[Any, Any]:
        redacted: dict[Any, Any] = {}
        for key, child in value.items():
            name = self._data(key)
            while name in redacted:  # two keys that look alike now stay two
                name = f"{name}'"
            redacted[name] = self._entry(key, child) if links else self._data(child)
        return redacted

    def _entry(self, key: Any, child: Any) -> Any:
        if key in _LINKS:
            return child
        if key not in _ARGUMENTS:
            return self._data(child, links=_LINKS)
        return self._arguments(child) if isinstance(child, str) else self._data(child)

    def _arguments(self, text: str) -> str:
        """Redact arguments within their JSON, so that they stay JSON."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(text)
        redacted = self._data(value)
        return text if redacted == value else json.dumps(redacted, ensure_ascii=False)
