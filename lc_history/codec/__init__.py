"""A message as bytes and back: identical in every field and type, or refused.

A body is JSON: the message's ``type`` and those fields that differ from their defaults, in LangChain's own names. Its
first byte tells the format; any other than these is of a version to come.

    {   UTF-8 that every JSON parser reads
    2   then JSON in Python's dialect, for what the first cannot hold: lone surrogates, NaN and infinities, integers
        beyond 64 bits

What is read is data and stays data: nothing in a body names a class other than those in `lc_history.codec.shapes`.
Which fields were set by hand (pydantic's ``model_fields_set``) is no part of a message and is not kept.
"""

from __future__ import annotations

from json import loads as loads_exactly
from typing import Any, Final

import orjson
from langchain_core.messages import BaseMessage

from lc_history.codec.plain import as_data, exact_json, suits_orjson
from lc_history.codec.shapes import BY_CLASS, BY_TAG
from lc_history.errors import DecodeError

__all__ = ["Codec", "as_data"]

PLAIN: Final = b"{"
EXACT: Final = b"2"


class Codec:
    """Turns LangChain's messages and chunks into bytes and back.

    >>> from langchain_core.messages import HumanMessage
    >>> Codec().encode(HumanMessage("hello", id="m1"))
    b'{"type":"human","content":"hello","id":"m1"}'
    >>> Codec().decode(b'{"type":"human","content":"hello","id":"m1"}').content
    'hello'
    """

    def encode(self, message: BaseMessage) -> bytes:
        """Return the message as bytes that `decode` turns into an identical one.

        `TypeError` or `ValueError` where that cannot be promised: a class that is not LangChain's own, or a value that
        JSON would change (a tuple, bytes, a key that is no str); the error names its path and what to do.
        """
        shape = BY_CLASS.get(type(message))
        if shape is None:
            raise TypeError(_not_ours(message))
        fields = shape.fields_of(message)
        try:
            if suits_orjson(fields.values()):
                return orjson.dumps(fields)
        except (orjson.JSONEncodeError, RecursionError):
            pass  # a lone surrogate, an integer beyond 64 bits, or nested too deep
        return EXACT + exact_json(fields)

    def decode(self, body: bytes) -> BaseMessage:
        """Return a new message, equal to the encoded one in every field; `DecodeError` if these bytes are none."""
        try:
            fields = orjson.loads(body) if body[:1] == PLAIN else _exactly(body)
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"damaged, no longer JSON: {error}") from error
        if type(fields) is not dict:
            raise DecodeError(f"damaged: a {type(fields).__name__} instead of a message")
        tag = fields.pop("type", None)
        shape = BY_TAG.get(tag) if type(tag) is str else None
        if shape is None:
            raise DecodeError(f"unknown message type {tag!r:.80}: written by a newer lc-history or langchain-core?")
        return shape.build(fields)


def _exactly(body: bytes) -> Any:
    form = body[:1]
    if form != EXACT:
        raise DecodeError(f"unknown format {form!r}: not a message, or written by a newer lc-history")
    return loads_exactly(body[1:].decode("utf-8", "surrogatepass"))


def _not_ours(message: object) -> str:
    cls = type(message)
    parent = next((known.__name__ for known in cls.__mro__ if known in BY_CLASS), "HumanMessage")
    return (
        f"{cls.__module__}.{cls.__qualname__} is not one of LangChain's message classes and would come back as "
        f"something else: pass a {parent}, with what is special about it in additional_kwargs"
    )
