"""What must not stay is found in every place where a message can carry it, and nothing else is touched."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

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
    ToolMessage,
)

from lc_history.codec import Codec, as_data
from lc_history.privacy.finders import EVERYTHING, Found, Pattern, emails, phones, presidio
from lc_history.privacy.redaction import Redactor
from lc_history.testing.messages import difference, messages, texts

SECRET = b"sixteen bytes or more"
redact = Redactor()
pseudonymise = Redactor(secret=SECRET)

FOUND = [
    ("EMAIL", "ann@example.org"),
    ("EMAIL", "ann.neil+tag@mail.example.co.uk"),
    ("EMAIL", "jörg@bücher.example"),
    ("EMAIL", "a@xn--bcher-kva.xn--p1ai"),
    ("PHONE", "+49 30 1234567"),
    ("PHONE", "+49 (0)30 123-45.67"),
    ("PHONE", "+4915112345678"),
    ("PHONE", "0049 151 12345678"),
    ("PHONE", "+886 2 2345 6789"),
    ("PHONE", "+1 202 555 0123"),
    ("PHONE", "+1 (202) 555-0123"),
    ("PHONE", "+12025550123"),
    ("PHONE", "(202) 555-0123"),
    ("PHONE", "202-555-0123"),
    ("PHONE", "1-202-555-0123"),
    ("CARD", "4111111111111111"),
    ("CARD", "4111 1111 1111 1111"),
    ("CARD", "5555-5555-5555-4444"),
    ("CARD", "378282246310005"),
    ("CARD", "3782 822463 10005"),
    ("CARD", "6011111111111117"),
    ("CARD", "30569309025904"),
    ("CARD", "3530111333300000"),
    ("CARD", "2223003122003222"),
    ("CARD", "6759649826438453"),
    ("IBAN", "DE89 3704 0044 0532 0130 00"),
    ("IBAN", "DE89370400440532013000"),
    ("IBAN", "gb29 nwbk 6016 1331 9268 19"),
    ("IBAN", "NO9386011117947"),
    ("IBAN", "MT84MALT011000012345MTLCAST001S"),
    ("IP", "203.0.113.7"),
    ("IP", "10.0.0.1"),
    ("IP", "2001:db8::8a2e:370:7334"),
    ("IP", "fe80::1"),
    ("IP", "::ffff:203.0.113.7"),
    ("SECRET", "sk-proj-" + "aB3_" * 8),
    ("SECRET", "sk-ant-api03-" + "aB3-" * 8 + "x"),
    ("SECRET", "AKIA" + "ABCD1234" * 2),
    ("SECRET", "ghp_" + "a1B2" * 9),
    ("SECRET", "AIza" + "x" * 35),
    ("SECRET", "xoxb-1234567890-abcdef"),
    ("SECRET", "sk_live_" + "a1" * 12),
    ("SECRET", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl"),
    ("SECRET", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----"),
]

INNOCENT = [
    "order 4111111111111112",  # Luhn is wrong
    "order 1234567890123456, tracking 00340434161094042557, 9999999999999999",  # no issuer
    "timestamp 1763635200123, id 987654321012345678, pi 3.14159265358979",
    "1.4111111111111111 and 4111111111111111.5 are numbers",
    "FR14 2004 1010 0505 0001 3M02 607, DE00, AB12 3456 7890 1234",  # mod 97 is wrong, too short, no such country
    "+12345, +999 1234 5678, 911-911-9111, 123-456-7890, 202-155-0123",  # no such plan, services, areas, exchanges
    "2026-11-20 12:30:45, 12:30, 1:2:3, 10-20-2026, 2026/11/20",
    "999.1.1.1, 1.2.3, 256.256.256.256, v1.2.3.4.5, 127.0.0.1, ::1, ::, std::vector, 0.0.0.0",
    "a@b, @ann, ann@, ann@localhost, decorator @pytest.fixture",
    "https://example.org:8080/a?b=c#d and http://x.example/@ann",
    "sk-8, task-force, AKIA, ghp_short, token: none, the password is secret, bearer of news",
    "550e8400-e29b-41d4-a716-446655440000 d41d8cd98f00b204e9800998ecf8427e",
    "call_9aT3xWq chatcmpl-CZ0xQhQ2n4J8oVwq1r9T3bK5mXyLs run-9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d",
]


@pytest.mark.parametrize(("label", "text"), FOUND)
@pytest.mark.parametrize("around", ["{}", "is {}.", "({}),", '"{}"', "x: {}\ny", "<{}>", "{} and {}", "日本 {} 日本"])
def test_what_must_not_stay_is_found(label: str, text: str, around: str) -> None:
    assert redact.text(around.replace("{}", text)) == around.replace("{}", f"[{label}]")


@pytest.mark.parametrize("text", INNOCENT)
def test_a_long_number_is_not_enough(text: str) -> None:
    assert redact.text(text) == text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql://ann:s3cr3t@db.example/x", "postgresql://[CREDENTIALS]/x"),
        ("redis://:s3cr3t@[::1]:6379/0", "redis://[CREDENTIALS]@[::1]:6379/0"),
        ("https://ann@x.example:pw@host.example/", "https://[CREDENTIALS]/"),
        ("api_key = 'a1b2c3d4e5f6'", "api_key = '[SECRET]'"),
        ('{"password": "hunter2hunter2", "x": 1}', '{"password": "[SECRET]", "x": 1}'),
        ("Authorization: Bearer abcdef1234567890", "Authorization: Bearer [SECRET]"),
        ("4111 1111 1111 1111 12/27 123", "[CARD] 12/27 123"),
        ("4111 1111 1111 1111 123", "[CARD] 123"),
        ("12 4111 1111 1111 1111", "12 [CARD]"),
        ("4111111111111111 5555555555554444", "[CARD] [CARD]"),
        ("203.0.113.7:8080", "[IP]:8080"),
        ("+49 30 1234567, +49 30 7654321", "[PHONE], [PHONE]"),
    ],
)
def test_what_stands_around_it_stays(text: str, redacted: str) -> None:
    assert redact.text(text) == redacted
    assert redact.text(redacted) == redacted


PII = "ann@example.org"


def everywhere(secret: str) -> list[BaseMessage]:
    block = {"type": "text", "text": f"I am {secret}", "annotations": [{"type": "citation", "cited_text": secret}]}
    call = {"name": "mail", "args": {"id": secret, "to": [secret, {secret: secret}]}, "id": "c1", "type": "tool_call"}
    function = {"name": "mail", "arguments": json.dumps({"to": secret})}
    ai = AIMessage(
        [block, {"type": "reasoning", "reasoning": secret}, {"type": "tool_use", "id": "c1", "input": {"id": secret}}],
        additional_kwargs={"tool_calls": [{"id": "c1", "type": "function", "function": function}], "refusal": secret},
        response_metadata={"grounding": [secret]},
        invalid_tool_calls=[{"name": "mail", "args": f"{{{secret}", "id": "c2", "error": f"bad: {secret}"}],
        name=secret,
        note={"x": (secret)},
    )
    ai.tool_calls = [{**call, "extras": {"hint": secret}}]
    chunk = {"name": "mail", "args": f'{{"to": "{secret}"', "id": "c1", "index": 0}
    return [
        ai,
        HumanMessage(f"I am {secret}", name=secret),
        HumanMessage([f"I am {secret}", {"type": "image_url", "image_url": {"url": f"https://x.example/?u={secret}"}}]),
        ToolMessage(f"sent to {secret}", tool_call_id="c1", artifact={"rows": [[secret]]}),
        FunctionMessage(secret, name=secret),
        ChatMessage(secret, role=secret),
        AIMessageChunk("", tool_call_chunks=[chunk]),
    ]


@pytest.mark.parametrize("redactor", [redact, pseudonymise])
@pytest.mark.parametrize("message", everywhere(PII), ids=lambda message: message.type)
def test_it_is_found_wherever_a_message_carries_it(redactor: Redactor, message: BaseMessage) -> None:
    before = deepcopy(message)
    redacted = redactor(message)
    assert PII in str(dict(message))
    assert PII not in str(dict(redacted))
    assert PII.encode() not in Codec().encode(redacted)
    assert "[EMAIL" in str(dict(redacted))
    assert difference(message, before) is None
    assert type(redacted) is type(message)


def test_a_list_of_finders_is_no_finder() -> None:
    with pytest.raises(TypeError, match=r"Redactor\(\*them\)"):
        Redactor([Pattern("A", "a")])
    with pytest.raises(TypeError, match="a finder is a callable, not"):
        Redactor("EMAIL")


def test_what_ties_messages_together_stays() -> None:
    number = "4111111111111111"
    ai = AIMessage(
        [{"type": "tool_use", "id": number, "name": "f", "input": {}}, {"type": "thinking", "signature": number}],
        tool_calls=[{"name": "f", "args": {}, "id": number, "type": "tool_call"}],
        additional_kwargs={"tool_calls": [{"id": number, "type": "function"}]},
        id=number,
        usage_metadata={"input_tokens": int(number), "output_tokens": 1, "total_tokens": 1},
    )
    assert difference(redact(ai), ai) is None
    tool = ToolMessage("x", tool_call_id=number, id=number, status="error")
    assert difference(redact(tool), tool) is None


def test_a_number_that_is_a_card_goes_too() -> None:
    message = ToolMessage(
        "x", tool_call_id="1", artifact={"card": 4111111111111111, "order": 4111111111111112, "ok": True}
    )
    assert redact(message).artifact == {"card": "[CARD]", "order": 4111111111111112, "ok": True}


def test_arguments_stay_json() -> None:
    text = '{"card": 4111111111111111, "to": "ann@example.org", "n": 1.50}'
    function = {"name": "pay", "arguments": text}
    message = AIMessage("", additional_kwargs={"tool_calls": [{"id": "1", "type": "function", "function": function}]})
    arguments = redact(message).additional_kwargs["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == {"card": "[CARD]", "to": "[EMAIL]", "n": 1.5}
    assert redact(message).tool_calls[0]["args"] == {"card": "[CARD]", "to": "[EMAIL]", "n": 1.5}
    message.additional_kwargs["tool_calls"][0]["function"]["arguments"] = '{"n":  1.50}'
    assert redact(message).additional_kwargs == message.additional_kwargs


def test_keys_are_redacted_and_none_is_lost() -> None:
    message = ToolMessage("x", tool_call_id="1", artifact={"ann@example.org": 1, "bob@example.org": 2})
    assert redact(message).artifact == {"[EMAIL]": 1, "[EMAIL]'": 2}


@settings(max_examples=50)
@given(messages())
def test_a_message_without_findings_is_unchanged(message: BaseMessage) -> None:
    unchanged = Redactor(lambda _: ())(message)
    assert difference(unchanged, message) is None
    assert Codec().encode(unchanged) == Codec().encode(message)


@settings(max_examples=50)
@given(messages(), st.sampled_from([text for _, text in FOUND]))
def test_a_redacted_message_can_be_stored_and_is_not_found_again(message: BaseMessage, text: str) -> None:
    message.additional_kwargs["note"] = {"deep": [text]}
    redacted = redact(message)
    assert text not in str(redacted.additional_kwargs["note"])
    assert difference(Codec().decode(Codec().encode(redacted)), redacted) is None
    assert redact(redacted).additional_kwargs["note"] == redacted.additional_kwargs["note"]


@given(texts(), texts())
def test_an_address_is_found_in_any_text(before: str, after: str) -> None:
    assert PII not in redact.text(f"{before} {PII} {after}")


# Pseudonyms


def test_pseudonyms_tell_apart_and_nothing_else() -> None:
    ann, bob = pseudonymise.text("ann@example.org"), pseudonymise.text("bob@example.org")
    assert re.fullmatch(r"\[EMAIL:[0-9a-f]{12}\]", ann)
    assert ann != bob
    assert pseudonymise.text("mail ANN@example.org!") == f"mail {ann}!"
    assert Redactor(secret=SECRET).text("ann@example.org") == ann
    assert Redactor(secret=SECRET + b"x").text("ann@example.org") != ann
    assert pseudonymise.text(ann) == ann


def test_one_number_has_one_pseudonym_however_it_is_written() -> None:
    for ways in (
        ["+49 30 1234567", "0049 30 1234567", "+49 (0)30 123-4567", "+49301234567"],
        ["+1 202 555 0123", "(202) 555-0123", "1-202-555-0123"],
        ["4111111111111111", "4111 1111 1111 1111"],
        ["DE89 3704 0044 0532 0130 00", "de89370400440532013000"],
        ["2001:db8::1", "2001:0DB8:0:0:0:0:0:1"],
    ):
        assert len({pseudonymise.text(way) for way in ways}) == 1, ways


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="has 4 bytes; at least 16"):
        Redactor(secret=b"1234")
    assert "sixteen" not in repr(pseudonymise)


# Finders of one's own


def test_finders_are_chosen_and_added() -> None:
    text = "ann@example.org, +49 30 1234567, E-004711"
    assert Redactor(emails).text(text) == "[EMAIL], +49 30 1234567, E-004711"
    assert Redactor(phones, Pattern("STAFF", r"\bE-\d{6}\b")).text(text) == "ann@example.org, [PHONE], [STAFF]"

    def names(text: str) -> Iterator[Found]:
        for match in re.finditer("Ann", text):
            yield Found(*match.span(), "NAME", "ann")

    assert Redactor(*EVERYTHING, names).text("Ann: ann@example.org") == "[NAME]: [EMAIL]"


def test_finds_that_overlap_leave_nothing_between_them() -> None:
    one, two = Pattern("ONE", "bcd"), Pattern("TWO", "defg")
    assert Redactor(one, two).text("abcdefgh") == Redactor(two, one).text("abcdefgh") == "a[ONE]h"
    assert Redactor(one, Pattern("IN", "c")).text("abcde") == "a[ONE]e"
    assert Redactor(Pattern("NONE", "x?")).text("abc") == "abc"


def test_presidio_is_one_finder_among_others() -> None:
    class Analyzer:
        """Answers as `presidio_analyzer.AnalyzerEngine` does."""

        def analyze(self, *, text: str, language: str, **options: Any) -> list[SimpleNamespace]:
            assert (language, options) == ("de", {"score_threshold": 0.5})
            return [
                SimpleNamespace(start=m.start(), end=m.end(), entity_type="PERSON") for m in re.finditer("Ann", text)
            ]

    finder = presidio(Analyzer(), language="de", score_threshold=0.5)
    assert Redactor(emails, finder).text("Ann <ann@example.org>") == "[PERSON] <[EMAIL]>"


def test_what_cannot_be_looked_into_is_not_stored() -> None:
    message = ToolMessage("x", tool_call_id="1", artifact=(PII,))
    with pytest.raises(TypeError, match="artifact is of type tuple"):
        Codec().encode(redact(message))
    assert redact(as_data(message)).artifact == ["[EMAIL]"]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "a" * 2**16,
            "a." * 2**15,
            "1" * 2**16,
            "1 " * 2**15,
            "4111 " * 2**14,
            "+1" * 2**15,
            "a@" * 2**15,
            "a@a." * 2**14,
        ),
        *(":" * 2**16, "a:" * 2**15, "http://a:" * 2**13, "password: " * 2**13, "DE89 " * 2**14, "-----BEGIN " * 2**12),
        *("(" * 2**16, "00" * 2**15, "1.1." * 2**14, "eyJ" * 2**14, "sk-" * 2**14, "bearer " * 2**13, "word " * 2**14),
        *(
            "-----BEGIN PRIVATE KEY-----" * 2**8,
            "aB3-_" * 2**14,
            "eyJaaaaaaaa.eyJaaaaaaaa." * 2**10,
            "https://a:b" * 2**12,
        ),
    ],
    ids=lambda text: text[:12],
)
def test_no_text_takes_long(text: str) -> None:
    """64 KB made to keep a pattern busy; 2 s are far above what a linear search takes."""
    begin = time.perf_counter()
    redact.text(text)
    assert time.perf_counter() - begin < 2
