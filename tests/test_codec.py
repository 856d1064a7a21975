"""A message comes back identical, or is refused: every class, every field, every value."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from math import nan
from struct import pack, unpack
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
)
from pydantic import BaseModel

from lc_history.codec import Codec, as_data
from lc_history.codec import shapes as shapes_module
from lc_history.codec.shapes import CLASSES, Shape, build_bare, build_with_pydantic, trusted_build
from lc_history.errors import DecodeError
from lc_history.testing import messages as kinds
from lc_history.testing.messages import FOREIGN, LOOKALIKES, difference, identical, messages, plain_data

CODEC = Codec()


def again(message: BaseMessage) -> BaseMessage:
    return CODEC.decode(CODEC.encode(message))


@given(messages())
def test_what_comes_back_is_identical(message: BaseMessage) -> None:
    before = deepcopy(message)
    decoded = again(message)
    assert difference(message, decoded) is None
    assert difference(message, before) is None  # encoding changed nothing
    assert CODEC.encode(decoded) == CODEC.encode(message)
    assert difference(decoded.model_copy(deep=True), message) is None


@settings(max_examples=30)
@given(messages())
def test_the_fallback_gives_the_same_messages(message: BaseMessage) -> None:
    shape = Shape(type(message), build_with_pydantic)
    fields = deepcopy(shape.fields_of(message))
    del fields["type"]
    assert difference(shape.build(fields), message) is None


@pytest.mark.parametrize("cls", CLASSES)
def test_a_built_message_has_all_that_a_validated_one_has(cls: type[BaseMessage]) -> None:
    message = cls(content="", id="1", name="n", tool_call_id="2", role="r", x={"y": [1]})
    decoded = again(message)
    assert decoded == message
    assert repr(decoded) == repr(message)
    assert decoded.model_dump() == message.model_dump()
    assert decoded.content_blocks == message.content_blocks
    for slot in BaseModel.__slots__:
        if slot != "__pydantic_fields_set__":
            assert type(getattr(decoded, slot)) is type(getattr(message, slot)), slot
    assert cls.model_validate(decoded.model_dump()) == message


def test_every_class_of_langchain_is_known() -> None:
    def below(cls: type[BaseMessage]) -> Iterator[type[BaseMessage]]:
        for child in cls.__subclasses__():
            yield child
            yield from below(child)

    ours = {cls for cls in below(BaseMessage) if cls.__module__.startswith("langchain_core.messages.")}
    assert {cls for cls in ours if cls.__name__ != "BaseMessageChunk"} == set(CLASSES) == set(kinds.CLASSES)


# The stored format. A body that has once been written is read for ever: these lines may be added to, not changed.
STORED = [
    (HumanMessage("hello", id="m1"), b'{"type":"human","content":"hello","id":"m1"}'),
    (
        SystemMessage([{"type": "text", "text": "é"}, "x"]),
        '{"type":"system","content":[{"type":"text","text":"é"},"x"]}',
    ),
    (
        AIMessage(
            "",
            tool_calls=[{"name": "f", "args": {"b": 1, "a": None}, "id": "c1", "type": "tool_call"}],
            usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
            response_metadata={"model": "m"},
        ),
        (
            b'{"type":"ai","content":"","response_metadata":{"model":"m"},"tool_calls":[{"name":"f","args":{"b":1,"a":null},'
            b'"id":"c1","type":"tool_call"}],"usage_metadata":{"input_tokens":1,"output_tokens":2,"total_tokens":3}}'
        ),
    ),
    (
        ToolMessage("42", tool_call_id="c1", status="error", artifact=[1.5], name="f"),
        b'{"type":"tool","content":"42","name":"f","tool_call_id":"c1","artifact":[1.5],"status":"error"}',
    ),
    (FunctionMessage("42", name="f"), b'{"type":"function","content":"42","name":"f"}'),
    (ChatMessage("x", role="judge", mood="mild"), b'{"type":"chat","content":"x","role":"judge","mood":"mild"}'),
    (RemoveMessage("m1"), b'{"type":"remove","content":"","id":"m1"}'),
    (HumanMessageChunk("he"), b'{"type":"HumanMessageChunk","content":"he"}'),
    (
        AIMessageChunk(
            "", tool_call_chunks=[{"name": "f", "args": '{"a', "id": "c1", "index": 0, "type": "tool_call_chunk"}]
        ),
        (
            b'{"type":"AIMessageChunk","content":"","tool_calls":[{"name":"f","args":{},"id":"c1","type":"tool_call"}],'
            b'"tool_call_chunks":[{"name":"f","args":"{\\"a","id":"c1","index":0,"type":"tool_call_chunk"}]}'
        ),
    ),
    (HumanMessage("\x00"), b'{"type":"human","content":"\\u0000"}'),
    (HumanMessage("\ud83d\ude00 😀"), '2{"type":"human","content":"\ud83d\ude00 😀"}'),
    (
        HumanMessage("", x=[nan, float("-inf"), -0.0, 2**64]),
        b'2{"type":"human","content":"","x":[NaN,-Infinity,-0.0,18446744073709551616]}',
    ),
]


@pytest.mark.parametrize(("message", "stored"), STORED)
def test_the_stored_format_stands(message: BaseMessage, stored: bytes | str) -> None:
    body = stored if isinstance(stored, bytes) else stored.encode("utf-8", "surrogatepass")
    assert CODEC.encode(message) == body
    assert difference(message, CODEC.decode(body)) is None


def test_a_megabyte_of_text_stays_a_megabyte() -> None:
    for text in ("x" * 2**20, "é😀\x00"[:2] * 2**18, "\ud800" + "x" * 2**20):
        message = HumanMessage(text)
        assert difference(again(message), message) is None
        assert len(CODEC.encode(message)) < len(text.encode("utf-8", "surrogatepass")) + 100


def test_validation_would_have_changed_what_the_codec_keeps() -> None:
    message = AIMessage(
        "", additional_kwargs={"tool_calls": [{"function": {"name": "f", "arguments": "{}"}, "id": "1"}]}
    )
    message.tool_calls = [{"name": "g", "args": {}, "id": "2", "type": "tool_call", "extras": {"signature": "s"}}]
    assert difference(again(message), message) is None
    message.tool_calls = []
    assert difference(again(message), message) is None
    assert difference(AIMessage(**message.model_dump()), message) is not None


@pytest.mark.parametrize("value", LOOKALIKES)
def test_data_shaped_like_an_object_stays_data(value: dict[str, object]) -> None:
    message = ToolMessage(json.dumps(value), tool_call_id="1", artifact=value, additional_kwargs={"x": value}, lc=value)
    message.content = [value]
    loaded = set(sys.modules)
    assert difference(again(message), message) is None
    assert set(sys.modules) == loaded


def test_two_reads_and_the_original_share_nothing() -> None:
    message = AIMessage([{"type": "text", "text": "x"}], response_metadata={"a": {"b": 1}}, x={"y": [1]})
    body = CODEC.encode(message)
    first, second = CODEC.decode(body), CODEC.decode(body)
    first.content[0]["text"] = "changed"
    first.response_metadata["a"]["b"] = first.additional_kwargs["new"] = 2
    first.tool_calls.append({"name": "f", "args": {}, "id": None})
    first.x["y"].append(2)
    first.more = 1
    assert difference(second, message) is None
    assert difference(CODEC.decode(body), message) is None


# What is refused


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("place", ["artifact", "additional_kwargs", "x", "args"])
def test_a_value_that_json_would_change_is_refused_by_its_path(value: object, place: str) -> None:
    inner = {"a": [0, value]}
    if place == "args":
        message: BaseMessage = AIMessage("", tool_calls=[{"name": "f", "args": inner, "id": None}])
        path = r"tool_calls\[0\].args.a\[1\]"
    else:
        message = ToolMessage("", tool_call_id="1", **{place: inner})
        path = rf"{place}.a\[1\]"
    with pytest.raises(TypeError, match=f"^{path} (is of type|has a key of type) .*: .*(keep|use) "):
        CODEC.encode(message)


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: type(value).__name__)
def test_a_foreign_value_is_refused_as_a_whole_field_too(value: object) -> None:
    for name in ("artifact", "x"):
        with pytest.raises(TypeError, match=f"^{name} (is|has)"):
            CODEC.encode(ToolMessage("", tool_call_id="1", **{name: value}))
    message = HumanMessage("")
    message.content = [value]  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^content\[0\] (is|has)"):
        CODEC.encode(message)


def test_the_path_is_as_one_would_write_it() -> None:
    message = AIMessage("x", response_metadata={"logprobs": [0, 1, 2, (1, 2)], "no name": {"": b""}})
    with pytest.raises(TypeError, match=r"^response_metadata\.logprobs\[3\] is of type tuple: keep a list"):
        CODEC.encode(message)
    message.response_metadata["logprobs"] = None
    with pytest.raises(TypeError, match=r"^response_metadata\['no name'\]\[''\] is of type bytes: keep base64 text"):
        CODEC.encode(message)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2**3000, "integer of more than 2048 bits"),
        (unpack(">d", pack(">Q", 0x7FF8000000000001))[0], "payload"),
        (-nan, "payload"),
    ],
)
def test_a_number_that_python_would_not_read_back_is_refused(value: float, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^x\[0\] is a.* {reason}"):
        CODEC.encode(HumanMessage("", x=[value]))


def nested(depth: int) -> list[object]:
    return [nested(depth - 1)] if depth else []


def test_nesting_is_kept_or_refused() -> None:
    for depth in (200, 240):
        for leaf in (1.0, nan):
            message = HumanMessage("", x=[*nested(depth), leaf])
            assert difference(again(message), message) is None
    endless: list[object] = []
    endless.append(endless)
    for deep in (nested(300), nested(900), [nested(300), nan], endless):
        message = HumanMessage("")
        message.x = deep
        with pytest.raises(ValueError, match="nested more than 250 deep, or contains itself"):
            CODEC.encode(message)


class Special(AIMessage):
    mood: str = "mild"


def test_a_class_that_is_not_langchains_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Special is not one of .* pass a AIMessage"):
        CODEC.encode(Special("x"))
    with pytest.raises(TypeError, match=r"str is not one of"):
        CODEC.encode("hello")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"BaseMessage is not one of"):
        CODEC.encode(BaseMessage("x", type="x"))


def test_a_message_broken_by_assignment_is_refused() -> None:
    for name, value in {"content": None, "id": 5, "additional_kwargs": [], "tool_calls": {}, "name": 1.5}.items():
        message = AIMessage("x")
        setattr(message, name, value)
        with pytest.raises(TypeError, match=f"^{name} is of type .* keeps "):
            CODEC.encode(message)
    for state in ({"type": "human"}, {"stray": 1}):
        message = AIMessage("x")
        message.__dict__.update(state)
        with pytest.raises(TypeError, match="does not have the type or the fields of its class"):
            CODEC.encode(message)


@settings(max_examples=30)
@given(messages())
def test_as_data_leaves_plain_data_alone(message: BaseMessage) -> None:
    assert difference(as_data(message), message) is None


@dataclass
class Point:
    at: tuple[int, int]


class Answer(BaseModel):
    words: list[str]
    when: dt.date


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, (2,)), [1, [2]]),
        ({"b", "a"}, ["a", "b"]),
        ({1: "x", None: b"x"}, {"1": "x", "None": "eA=="}),
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T00:00:00+00:00"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Answer(words=["x"], when=dt.date(2026, 1, 2)), {"words": ["x"], "when": "2026-01-02"}),
        (Point((1, 2)), {"at": [1, 2]}),
        (HTTPStatus.OK, 200),
        (OrderedDict(a=OrderedDict()), {"a": {}}),
    ],
)
def test_as_data_makes_the_common_types_storable(value: object, plain: object) -> None:
    message = ToolMessage("x", tool_call_id="1", artifact=[value], seen=value, additional_kwargs={"x": value})
    before = deepcopy(message)
    decoded = again(as_data(message))
    assert (
        difference([decoded.artifact, decoded.seen, decoded.additional_kwargs], [[plain], plain, {"x": plain}]) is None
    )
    assert message == before


def test_as_data_does_not_guess() -> None:
    with pytest.raises(TypeError, match=r"^artifact\[0\] is of type object: keep plain data"):
        CODEC.encode(as_data(ToolMessage("x", tool_call_id="1", artifact=(object(),))))


# What is damaged


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "unknown format"),
        (b"3{}", "unknown format b'3'"),
        (b'1{"type":"human","content":"x"}', "unknown format b'1'"),
        (b' {"type":"human","content":"x"}', "unknown format b' '"),
        (b"\x00quarantined", "unknown format"),
        (b"\xffLH1", "unknown format"),
        (b"2", "no longer JSON"),
        (b"2{", "no longer JSON"),
        (b"{", "no longer JSON"),
        (b'{"type":"human","content":"x"}}', "no longer JSON"),
        (b'{"type":"human","content":"x"} {}', "no longer JSON"),
        (b'{"type":"human","content":"\xff"}', "no longer JSON"),
        (b'2{"type":"human","content":"\xff"}', "no longer JSON"),
        (b"2" + b"[" * 100_000, "no longer JSON"),
        (b'{"x":' + b"[" * 100_000, "no longer JSON"),
        (b'2{"x":' + b"1" * 5000 + b"}", "no longer JSON"),
        (b"2[]", "a list instead of a message"),
        (b"2null", "a NoneType instead of a message"),
        (b"{}", "unknown message type None"),
        (b'{"type":"robot","content":"x"}', "unknown message type 'robot'"),
        (b'{"type":["human"],"content":"x"}', "unknown message type"),
        (b'{"type":"human"}', "the human message has no content"),
        (b'{"type":"tool","content":""}', "the tool message has no tool_call_id"),
        (b'{"type":"human","content":5}', "content of the human message is of type int"),
        (b'{"type":"ai","content":"","tool_calls":{}}', "tool_calls of the ai message is of type dict"),
    ],
)
def test_what_is_no_message_says_what_is_wrong(body: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        CODEC.decode(body)


@given(st.binary() | st.binary().map(b"{".__add__) | st.binary().map(b"2".__add__))
def test_any_bytes_are_a_message_or_a_decode_error(body: bytes) -> None:
    with suppress(DecodeError):
        CODEC.decode(body)


@given(st.sampled_from([b"", b"2"]), plain_data())
def test_any_json_is_a_message_or_a_decode_error(form: bytes, value: object) -> None:
    with suppress(DecodeError):
        CODEC.decode(form + json.dumps(value).encode())


@given(
    st.sampled_from(CLASSES),
    st.dictionaries(st.sampled_from(["content", "id", "name", "tool_calls", "role", "x"]), plain_data()),
)
def test_any_fields_are_a_message_that_can_be_encoded_or_a_decode_error(cls: type, fields: dict[str, object]) -> None:
    body = b"2" + json.dumps({"type": cls.model_fields["type"].default, **fields}).encode()
    try:
        message = CODEC.decode(body)
    except DecodeError:
        return
    assert identical(again(message), message)


@given(messages(), st.data())
def test_truncated_and_prolonged_bodies_are_decode_errors(message: BaseMessage, data: st.DataObject) -> None:
    body = CODEC.encode(message)
    cut = data.draw(st.integers(0, len(body) - 1))
    for damaged in (body[:cut], body + b"x", body + body, b"2" + body[:-1]):
        with pytest.raises(DecodeError):
            CODEC.decode(damaged)


@given(messages(), st.data())
def test_a_flipped_bit_raises_nothing_but_a_decode_error(message: BaseMessage, data: st.DataObject) -> None:
    body = bytearray(CODEC.encode(message))
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(DecodeError):
        CODEC.decode(bytes(body))


# Bare builds


def test_the_bare_build_is_in_use() -> None:
    assert trusted_build() is build_bare


@pytest.mark.parametrize("change", ["other slot", "other default", "raises"])
def test_a_changed_pydantic_is_noticed_and_its_own_constructor_steps_in(change: str, monkeypatch) -> None:
    if change == "other slot":
        monkeypatch.setattr(shapes_module, "_set_extra", None)
        assert trusted_build() is build_with_pydantic
        return

    def changed(cls, state, named, extra):
        if change == "raises":
            raise AttributeError
        return build_bare(cls, state | {"name": None}, named, extra)

    assert trusted_build(changed) is build_with_pydantic


def test_a_field_that_a_newer_langchain_adds_is_kept_as_an_extra_one() -> None:
    decoded = CODEC.decode(b'{"type":"human","content":"x","mood":"mild"}')
    assert decoded == HumanMessage("x", mood="mild")


def test_the_codec_of_langchain_is_not_identical() -> None:
    """Why we have one: what `message_to_dict` and JSON do to the same messages."""
    message = HumanMessage("x", additional_kwargs={"a": (1, 2), "b": {1: 2}})
    assert difference(
        json.loads(json.dumps(message_to_dict(message)))["data"]["additional_kwargs"], message.additional_kwargs
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        (nan, -nan),
        ([1], (1,)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (HTTPStatus.OK, 200),
        ({"a": [{"b": 1}]}, {"a": [{"b": True}]}),
        ([1], [1, 1]),
        (HumanMessage("x"), HumanMessageChunk("x")),
        (HumanMessage("x"), HumanMessage("x", y=None)),
    ],
)
def test_the_comparison_is_stricter_than_equality(one: object, other: object) -> None:
    assert identical(one, deepcopy(one))
    assert not identical(one, other)
    assert not identical(AIMessage("", x=one), AIMessage("", x=other))
