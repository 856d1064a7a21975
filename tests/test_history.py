"""`ChatHistories` and `ChatHistory`: ids, pages, labels, expiry, redaction, damage; the same by both doors."""

from __future__ import annotations

import asyncio
import inspect
import time
from datetime import timedelta
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage

from lc_history import ChatHistories, ChatHistory, InMemoryChatMessageHistory, SessionKey
from lc_history.bridge import drive
from lc_history.errors import ConflictError, DecodeError, TooLargeError
from lc_history.model import Entry
from lc_history.transcript import SLICE
from tests.doors import BOTH, Door

both_doors = pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)


@pytest.fixture
def histories() -> ChatHistories:
    return ChatHistories.open("memory://")


def texts(history: ChatHistory) -> list[str]:
    return [message.text for message in history.messages]


@both_doors
def test_a_message_without_an_id_gets_one_and_is_the_same_message_again(histories, door: Door) -> None:
    history, words = histories.session("s1"), HumanMessage("hello")
    assert door.call(history, "append", [words]).new == (True,)
    assert words.id
    assert door.call(history, "append", [words, AIMessage("hi")]).new == (False, True)
    assert texts(history) == ["hello", "hi"]


@both_doors
def test_equal_text_without_ids_is_two_messages(histories, door: Door) -> None:
    history = histories.session("s1")
    door.call(history, "add_messages", [HumanMessage("again"), HumanMessage("again")])
    assert texts(history) == ["again", "again"]


@both_doors
def test_an_empty_id_is_none(histories, door: Door) -> None:
    history = histories.session("s1")
    door.call(history, "add_messages", [HumanMessage("one", id=""), HumanMessage("two", id="")])
    assert texts(history) == ["one", "two"]


@pytest.mark.parametrize("said", [HumanMessage("x"), "x", None, ["x"], [HumanMessage("x"), {"role": "user"}]])
@both_doors
def test_what_is_no_list_of_messages_is_refused(histories, door: Door, said) -> None:
    with pytest.raises(TypeError, match=r"expected a list of messages|not iterable"):
        door.call(histories.session("s1"), "add_messages", said)
    assert texts(histories.session("s1")) == []


@both_doors
def test_the_first_content_wins(histories, door: Door) -> None:
    history = histories.session("s1")
    door.call(history, "add_messages", [HumanMessage("first", id="a"), HumanMessage("b", id="b")])
    door.call(history, "add_messages", [HumanMessage("second", id="a")])
    assert texts(history) == ["first", "b"]


@both_doors
def test_an_id_may_be_used_again_after_clear(histories, door: Door) -> None:
    history = histories.session("s1")
    door.call(history, "add_messages", [HumanMessage("first", id="a")])
    door.call(history, "clear")
    door.call(history, "add_messages", [HumanMessage("second", id="a")])
    assert texts(history) == ["second"]


@both_doors
def test_a_remove_message_is_kept_beside_its_target(histories, door: Door) -> None:
    history = histories.session("s1")
    door.call(history, "add_messages", [HumanMessage("first", id="a"), RemoveMessage(id="a")])
    assert [(message.type, message.id) for message in history.messages] == [("human", "a"), ("remove", "a")]


@both_doors
def test_somebody_else_was_first(histories, door: Door) -> None:
    history = histories.session("s1")
    door.call(history, "append", [HumanMessage("one")])
    with pytest.raises(ConflictError, match="session 's1' of user 'default'"):
        door.call(history, "append", [HumanMessage("two")], expected_seq=0)


@both_doors
def test_pages_and_the_last(histories, door: Door) -> None:
    history = histories.session("s1")
    door.call(history, "add_messages", [HumanMessage(str(number)) for number in range(1, 11)])
    assert [message.text for message in door.call(history, "last", 3)] == ["8", "9", "10"]
    page = door.call(history, "page", after=2, first=3)
    assert [(one.seq, one.message.text) for one in page.said] == [(3, "3"), (4, "4"), (5, "5")]
    assert page.last_seq == 10
    assert [one.seq for one in door.call(history, "page", before=3, last=5).said] == [1, 2]


@both_doors
def test_what_is_returned_is_no_alias(histories, door: Door) -> None:
    history = histories.session("s1")
    words = AIMessage("hi", response_metadata={"a": [1]})
    door.call(history, "add_messages", [words])
    words.response_metadata["a"].append(2)
    history.messages[0].response_metadata["a"].append(3)
    assert history.messages[0].response_metadata == {"a": [1]}


@both_doors
def test_sessions_have_labels(histories, door: Door) -> None:
    tea = door.call(histories, "new_session", "ann", title="Tea", tags=["x"], metadata={"k": None})
    door.call(histories.session("other", user_id="bob"), "add_messages", [HumanMessage("mine")])
    door.call(tea, "add_messages", [HumanMessage("hello")])
    session = door.call(tea, "describe", title="Green tea", archived=True)
    assert (session.label.title, session.label.tags, session.label.metadata) == ("Green tea", ("x",), {"k": None})
    assert door.call(histories, "sessions", "ann").items == [session]
    assert door.call(histories, "sessions", "ann", archived=False).items == []
    assert door.call(tea, "describe", archived=False).archived is False
    assert door.call(tea, "info").count == 1
    with pytest.raises(KeyError, match="there is no session 'nothing'"):
        door.call(histories.session("nothing"), "describe", title="x")


@both_doors
def test_a_label_comes_back_as_it_was_or_is_refused(histories, door: Door) -> None:
    odd = {"half": "\ud800", "endless": float("inf"), "large": 2**70, "nested": [{"a": None}]}
    tea = door.call(histories, "new_session", title="T\ud800\x00", metadata=odd)
    label = door.call(tea, "info").label
    assert (label.title, label.metadata) == ("T\ud800\x00", odd)
    for foreign in ({"t": (1, 2)}, {1: "a"}, {"at": timedelta(1)}):
        with pytest.raises(TypeError, match="metadata"):
            door.call(tea, "describe", metadata=foreign)


@both_doors
def test_a_string_is_not_taken_for_a_list_of_letters(histories, door: Door) -> None:
    with pytest.raises(TypeError, match="tags must be a list of str, not 'tea': put one alone in brackets"):
        door.call(histories, "new_session", tags="tea")
    assert door.call(histories, "sessions").items == []
    tea = door.call(histories, "new_session", tags=["tea"])
    with pytest.raises(TypeError, match="tags must be a list"):
        door.call(tea, "describe", tags="green")
    assert door.call(tea, "describe", tags=()).label.tags == ()
    with pytest.raises(TypeError, match="ids must be a list"):
        drive(tea.transcript.find("ab"))
    with pytest.raises(TypeError, match="ids must be a list"):
        drive(tea.transcript.append([HumanMessage("a"), HumanMessage("b")], ids="ab"))


@both_doors
def test_a_user_is_forgotten_and_nobody_else(histories, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lc_history.store.SESSIONS", 2)
    for number in range(5):
        histories.session(f"s{number}", user_id="ann").add_messages([HumanMessage("hello")])
    histories.session("s1", user_id="bob").add_messages([HumanMessage("hello")])
    histories.session("s0", user_id="ann").describe(archived=True)
    assert door.call(histories, "forget", "ann") == 5
    assert histories.sessions("ann").items == []
    assert texts(histories.session("s3", user_id="ann")) == []
    assert texts(histories.session("s1", user_id="bob")) == ["hello"]


@both_doors
def test_a_session_expires(histories, door: Door) -> None:
    brief = histories.session("s1", ttl=timedelta(milliseconds=150))
    door.call(brief, "add_messages", [HumanMessage("hello")])
    door.call(histories.session("s2"), "add_messages", [HumanMessage("stays")])
    assert texts(brief) == ["hello"]
    time.sleep(0.2)
    assert texts(brief) == []
    assert door.call(brief, "info") is None
    assert texts(histories.session("s2")) == ["stays"]


@both_doors
def test_a_sliding_session_lives_on_while_it_is_written_to(door: Door) -> None:
    histories = ChatHistories.open("memory://", ttl=timedelta(milliseconds=300), sliding=True)
    for _ in range(4):
        door.call(histories.session("s1"), "add_messages", [HumanMessage("hello")])
        time.sleep(0.12)
    assert len(texts(histories.session("s1"))) == 4


@both_doors
def test_redaction_comes_before_storage(door: Door) -> None:
    def redact(message):
        return message.model_copy(update={"content": "***"})

    histories = ChatHistories.open("memory://", redact=redact)
    words = HumanMessage("my secret")
    door.call(histories.session("s1"), "add_messages", [words])
    record = drive(histories.store.read(SessionKey("default", "s1"))).records[0]
    assert b"secret" not in record.body
    assert words.text == "my secret", "the caller's message is left alone"


@both_doors
def test_damage_is_named_and_harms_nothing_else(histories, door: Door) -> None:
    history = histories.session("s1")
    door.call(history, "add_messages", [HumanMessage("one")])
    drive(histories.store.append(SessionKey("default", "s1"), [Entry("bad", b"\xff")]))
    door.call(histories.session("s2"), "add_messages", [HumanMessage("fine")])
    with pytest.raises(DecodeError, match=r"message 2 of session 's1' of user 'default'.*doctor"):
        door.call(history, "page")
    assert texts(histories.session("s2")) == ["fine"]
    door.call(history, "add_messages", [HumanMessage("three")])
    assert [message.text for message in door.call(history, "last", 1)] == ["three"]


@both_doors
def test_damage_can_be_reported_instead(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    histories = ChatHistories.open("memory://", unreadable="report")
    history = histories.session("s1")
    door.call(history, "add_messages", [HumanMessage("one")])
    drive(histories.store.append(SessionKey("default", "s1"), [Entry("bad", b"\xff")]))
    page = door.call(history, "page")
    assert [one.message.text for one in page.said] == ["one"]
    assert [(one.seq, one.record_id) for one in page.unreadable] == [(2, "bad")]
    assert "message 2 of session 's1'" in caplog.text


@both_doors
def test_too_large_writes_nothing(histories, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(histories.store), "max_body_bytes", 1000)
    history = histories.session("s1")
    with pytest.raises(ValueError, match="nothing was written") as raised:
        door.call(history, "add_messages", [HumanMessage("small"), HumanMessage("x" * 2000)])
    assert isinstance(raised.value, TooLargeError)
    assert texts(history) == []
    door.call(history, "add_messages", [HumanMessage("still usable")])
    assert texts(history) == ["still usable"]


@pytest.mark.parametrize("name", [None, 7, {"$ne": ""}, b"s1", ""])
def test_names_that_are_none(histories, name) -> None:
    for names in ({"session_id": name}, {"session_id": "s1", "user_id": name}):
        with pytest.raises((TypeError, ValueError), match=r"session_id|user_id"):
            histories.session(**names)
        with pytest.raises((TypeError, ValueError), match=r"session_id|user_id"):
            histories.get_session_history(**names)


@both_doors
@pytest.mark.parametrize("name", [None, 7, {"$ne": ""}, b"s1", ""])
def test_users_that_are_none(histories, door: Door, name) -> None:
    for verb in ("sessions", "forget"):
        with pytest.raises((TypeError, ValueError), match="user_id"):
            door.call(histories, verb, name)


@both_doors
def test_an_iterator_of_messages_is_as_good_as_a_list(histories, door: Door) -> None:
    history = histories.session("s1")
    door.call(history, "add_messages", map(HumanMessage, ["one", "two"]))
    assert texts(history) == ["one", "two"]


@pytest.mark.parametrize("owner", [ChatHistory, ChatHistories])
def test_both_doors_are_alike(owner) -> None:
    for name, verb in vars(owner).items():
        if name.startswith("a") and inspect.iscoroutinefunction(verb):
            if name == "aget_messages":
                continue  # its other door is the property `messages`
            other = getattr(owner, name[1:])
            assert inspect.signature(other) == inspect.signature(verb)
            assert inspect.getdoc(other) == inspect.getdoc(verb)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda histories: histories.sessions(limit=0),
        lambda histories: histories.sessions(cursor="nonsense"),
        lambda histories: histories.session("s1").last(0),
        lambda histories: histories.session("s1").page(first=1, last=1),
        lambda histories: histories.session("s1", ttl=timedelta(0)),
    ],
)
def test_numbers_that_make_no_sense(histories, wrong) -> None:
    histories.session("s1").add_messages([HumanMessage("hello")])
    with pytest.raises(ValueError, match=r"at least|not a cursor|not both"):
        wrong(histories)


def test_every_scheme_of_redis_opens() -> None:
    for url in ("rediss+sentinel://localhost/main", "rediss+cluster://localhost", "redis+sentinel://h,h2:1/main/2"):
        ChatHistories.open(url).close()


@pytest.mark.parametrize("url", ["mongodb://ann:secret@localhost", "redis:/ann:secret@localhost", "redis//:secret@h"])
def test_a_store_of_an_unknown_kind(url) -> None:
    with pytest.raises(ValueError, match="names no store") as raised:
        ChatHistories.open(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", [None, Path("x.sqlite3"), 7])
def test_a_url_that_is_no_text(url) -> None:
    with pytest.raises(TypeError, match="named by a URL"):
        ChatHistories.open(url)


def test_a_policy_that_is_none_is_not_taken_for_the_lenient_one() -> None:
    with pytest.raises(ValueError, match="'raise' or 'report'"):
        ChatHistories.open("memory://", unreadable="Raise")


def test_the_named_class_has_the_methods_people_know() -> None:
    history = InMemoryChatMessageHistory("s1", ttl=60)
    history.add_user_message("hello")
    history.add_ai_message("hi")
    history.add_message(HumanMessage("again"))
    assert texts(history) == ["hello", "hi", "again"]
    history.clear()
    assert history.messages == []


def test_a_long_read_lets_the_event_loop_breathe(histories) -> None:
    history = histories.session("s1")
    history.add_messages([HumanMessage("x" * 1000) for _ in range(2000)])

    async def read_and_tick() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticker = asyncio.create_task(tick())
        assert len(await history.aget_messages()) == 2000
        ticker.cancel()
        return ticks

    assert asyncio.run(read_and_tick()) >= 2000 // SLICE - 1
