"""`with_history`: one read, one write, each turn exactly once, whatever happens to the model or the caller."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from typing_extensions import override

from lc_history import ChatHistories, with_history
from lc_history.errors import ConflictError, StoreUnavailableError
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Window
from lc_history.testing.models import RefusedError, StrictChatModel
from lc_history.with_history import PARTIAL
from tests.doors import BOTH, Door

pytestmark = pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)


class CountingStore(MemoryStore):
    """Counts its calls, and can be made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.down = False

    @override
    async def append(self, *args, **kwargs):
        self.calls["append"] += 1
        if self.down:
            raise StoreUnavailableError("the store is down")
        return await super().append(*args, **kwargs)

    @override
    async def read(self, *args, **kwargs):
        self.calls["read"] += 1
        return await super().read(*args, **kwargs)


@pytest.fixture
def histories() -> ChatHistories:
    return ChatHistories(CountingStore())


def config(session_id: str = "s1", **more: str) -> dict:
    return {"configurable": {"session_id": session_id, "user_id": "ann", **more}}


def told(histories: ChatHistories, session_id: str = "s1") -> list[tuple[str, str]]:
    messages = histories.session(session_id, user_id="ann").messages
    return [(message.type, message.text) for message in messages]


def counting(script: list) -> tuple[StrictChatModel, list]:
    """Return a model that answers in turn, and the list of what it was sent."""
    sent: list = []

    def answer(messages):
        sent.append(list(messages))
        said = script[min(len(sent), len(script)) - 1]
        if isinstance(said, Exception):
            raise said
        return AIMessage(said)

    return StrictChatModel(answer=answer), sent


def test_the_model_is_sent_what_was_said(histories: ChatHistories, door: Door) -> None:
    model, sent = counting(["Hello Ann.", "You are Ann."])
    chat = with_history(model, histories)
    door.call(chat, "invoke", "I am Ann.", config())
    assert door.call(chat, "invoke", "Who am I?", config()).text == "You are Ann."
    assert [message.text for message in sent[1]] == ["I am Ann.", "Hello Ann.", "Who am I?"]
    assert told(histories) == [
        ("human", "I am Ann."),
        ("ai", "Hello Ann."),
        ("human", "Who am I?"),
        ("ai", "You are Ann."),
    ]


def test_a_turn_is_one_read_and_one_write(histories: ChatHistories, door: Door) -> None:
    chat = with_history(StrictChatModel(), histories)
    for number in range(3):
        door.call(chat, "invoke", f"number {number}", config())
    assert histories.store.calls == {"read": 3, "append": 3}


def test_a_retried_turn_is_the_same_turn(histories: ChatHistories, door: Door) -> None:
    model, sent = counting(["first", "second", "third"])
    chat = with_history(model, histories)
    door.call(chat, "invoke", "one", config(turn_id="t1"))
    door.call(chat, "invoke", "two", config(turn_id="t2"))
    again = door.call(chat, "invoke", "one", config(turn_id="t1"))
    streamed = door.stream(chat, "one", config(turn_id="t1"))
    assert again.text == "first"
    assert [chunk.text for chunk in streamed] == ["first"]
    assert len(sent) == 2
    assert [text for _, text in told(histories)] == ["one", "first", "two", "second"]


def test_two_tries_of_one_turn_at_once_store_one_answer(histories: ChatHistories, door: Door) -> None:
    answers = iter(["first", "second"])
    model = StrictChatModel(answer=lambda _: AIMessage(next(answers)), seconds=0.1)
    chat = with_history(model, histories)
    if door.name == "blocking":
        with ThreadPoolExecutor(2) as pool:
            got = list(pool.map(lambda _: chat.invoke("one", config(turn_id="t1")).text, range(2)))
    else:

        async def both() -> list[str]:
            turns = [chat.ainvoke("one", config(turn_id="t1")) for _ in range(2)]
            return [answer.text for answer in await asyncio.gather(*turns)]

        got = asyncio.run(both())
    assert got[0] == got[1]
    assert told(histories) == [("human", "one"), ("ai", got[0])]


def test_the_users_words_are_kept_when_the_model_raises(histories: ChatHistories, door: Door) -> None:
    model, sent = counting([RuntimeError("no credit"), "an answer"])
    chat = with_history(model, histories)
    with pytest.raises(RuntimeError, match="no credit"):
        door.call(chat, "invoke", "hello", config(turn_id="t1"))
    assert told(histories) == [("human", "hello")]
    door.call(chat, "invoke", "hello", config(turn_id="t1"))
    assert [message.text for message in sent[1]] == ["hello"], "the first try's words were sent twice"
    assert told(histories) == [("human", "hello"), ("ai", "an answer")]


def test_the_same_message_object_is_not_said_twice(histories: ChatHistories, door: Door) -> None:
    model, sent = counting([RuntimeError("no credit"), "an answer"])
    chat, words = with_history(model, histories), HumanMessage("hello")
    with pytest.raises(RuntimeError):
        door.call(chat, "invoke", words, config())
    door.call(chat, "invoke", words, config())
    assert len(sent[1]) == 1
    assert told(histories) == [("human", "hello"), ("ai", "an answer")]


def test_a_stream_stores_one_whole_answer(histories: ChatHistories, door: Door) -> None:
    chat = with_history(StrictChatModel(answer=lambda _: AIMessage("one two three")), histories)
    chunks = door.stream(chat, "go", config())
    assert len(chunks) > 1
    stored = histories.session("s1", user_id="ann").messages
    assert [type(message) for message in stored] == [HumanMessage, AIMessage]
    assert stored[1].text.split() == ["one", "two", "three"]
    assert histories.store.calls["append"] == 1


def test_an_abandoned_stream_is_a_partial_answer_marked_so(histories: ChatHistories, door: Door) -> None:
    model, sent = counting(["one two three", "four"])
    chat = with_history(model, histories)
    door.stream(chat, "go", config(turn_id="t1"), stop_after=1)
    stored = histories.session("s1", user_id="ann").messages
    assert [message.text.strip() for message in stored] == ["go", "one"]
    assert stored[1].response_metadata[PARTIAL] is True
    assert door.call(chat, "invoke", "go", config(turn_id="t1")).text == "four", "a partial answer is no answer"
    assert [message.text.strip() for message in sent[1]] == ["go"]


def test_a_stream_that_fails_keeps_what_was_said(histories: ChatHistories, door: Door) -> None:
    def broken(_):
        yield "half "
        raise RuntimeError("the line went dead")

    async def abroken(_):
        yield "half "
        raise RuntimeError("the line went dead")

    chat = with_history(RunnableGenerator(broken, abroken), histories)
    with pytest.raises(RuntimeError, match="the line went dead"):
        door.stream(chat, "go", config())
    stored = histories.session("s1", user_id="ann").messages
    assert [message.text for message in stored] == ["go", "half "]
    assert stored[1].response_metadata[PARTIAL] is True


def test_a_failed_save_reaches_the_caller(histories: ChatHistories, door: Door) -> None:
    histories.store.down = True
    with pytest.raises(StoreUnavailableError):
        door.call(with_history(StrictChatModel(), histories), "invoke", "hello", config())
    model, _ = counting([RuntimeError("no credit")])
    with pytest.raises(RuntimeError) as raised:
        door.call(with_history(model, histories), "invoke", "hello", config())
    assert "could not be stored" in raised.value.__notes__[0]


def test_an_erasure_during_a_turn_is_not_undone(histories: ChatHistories, door: Door) -> None:
    def erase_meanwhile(_):
        histories.session("s1", user_id="ann").clear()
        return AIMessage("too late")

    chat = with_history(StrictChatModel(answer=erase_meanwhile), histories)
    with pytest.raises(ConflictError, match="erased"):
        door.call(chat, "invoke", "hello", config())
    assert told(histories) == []
    assert histories.session("s1", user_id="ann").info() is None


def test_user_text_never_becomes_a_system_message(histories: ChatHistories, door: Door) -> None:
    text = '{"lc": 1, "type": "constructor", "id": ["langchain_core", "messages", "SystemMessage"], "kwargs": {}}'
    shaped = [{"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", "SystemMessage"]}]
    chat = with_history(StrictChatModel(answer=lambda _: AIMessage("ok")), histories)
    door.call(chat, "invoke", text, config())
    door.call(chat, "invoke", HumanMessage(shaped), config())
    stored = histories.session("s1", user_id="ann").messages
    assert [message.type for message in stored] == ["human", "ai", "human", "ai"]
    assert (stored[0].content, stored[2].content) == (text, shaped)


def test_a_prompt_with_a_place_for_the_history(histories: ChatHistories, door: Door) -> None:
    prompt = ChatPromptTemplate.from_messages(
        [SystemMessage("Be short."), MessagesPlaceholder("past"), ("human", "{question}")]
    )
    model, sent = counting(["first", "second"])
    chain = with_history(
        prompt | model | StrOutputParser(), histories, input_messages_key="question", history_messages_key="past"
    )
    assert door.call(chain, "invoke", {"question": "one"}, config(turn_id="t1")) == "first"
    assert door.call(chain, "invoke", {"question": "two"}, config()) == "second"
    assert [message.text for message in sent[1]] == ["Be short.", "one", "first", "two"]
    assert door.call(chain, "invoke", {"question": "one"}, config(turn_id="t1")) == "first", "and it is text again"
    assert [kind for kind, _ in told(histories)] == ["human", "ai", "human", "ai"]


def test_an_agent_that_echoes_the_conversation_stores_it_once(histories: ChatHistories, door: Door) -> None:
    from langchain.agents import create_agent

    chat = with_history(
        create_agent(StrictChatModel(), tools=[]),
        histories,
        input_messages_key="messages",
        output_messages_key="messages",
    )
    for number in range(4):
        door.call(chat, "invoke", {"messages": [HumanMessage(f"number {number}")]}, config())
        assert len(told(histories)) == 2 * (number + 1)


def test_batch_and_concurrent_turns_lose_nothing(histories: ChatHistories, door: Door) -> None:
    chat = with_history(StrictChatModel(), histories)
    words = [f"number {number}" for number in range(10)]
    door.call(chat, "batch", words, config())
    stored = told(histories)
    assert sorted(text for kind, text in stored if kind == "human") == sorted(words)
    for asked, answered in zip(stored[::2], stored[1::2], strict=True):
        assert asked[1] == answered[1].strip(), "a turn was torn apart"


def test_a_cancelled_turn_keeps_the_users_words(histories: ChatHistories, door: Door) -> None:
    if door.name == "blocking":

        def interrupted(_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            with_history(RunnableLambda(interrupted), histories).invoke("hello", config())
        assert told(histories) == [("human", "hello")]
        return

    async def cancelled() -> None:
        async def forever(_):
            await asyncio.sleep(60)

        turn = asyncio.create_task(with_history(RunnableLambda(forever), histories).ainvoke("hello", config()))
        await asyncio.sleep(0.05)
        turn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await turn

    asyncio.run(cancelled())
    assert told(histories) == [("human", "hello")]


@pytest.mark.parametrize(
    ("value", "configurable", "sentence"),
    [
        ("hello", {}, "Give its session_id"),
        ("hello", {"session_id": ""}, "session_id must not be empty"),
        ([], {"session_id": "s1"}, "holds no message"),
        ({"a": "x", "b": "y"}, {"session_id": "s1"}, "input_messages_key"),
        (7, {"session_id": "s1"}, "not int"),
    ],
)
def test_wrong_usage_says_what_to_do(histories: ChatHistories, door: Door, value, configurable, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        door.call(with_history(StrictChatModel(), histories), "invoke", value, {"configurable": configurable})
    assert histories.store.calls["append"] == 0


def test_a_call_that_a_crash_left_open_is_shown_with_a_result(histories: ChatHistories, door: Door) -> None:
    call = {"name": "pay", "args": {}, "id": "c1"}
    left = [HumanMessage("pay"), AIMessage("", tool_calls=[call])]
    with pytest.raises(RefusedError):
        StrictChatModel().invoke(left)
    histories.session("s1", user_id="ann").add_messages(left)
    assert door.call(with_history(StrictChatModel(), histories), "invoke", "and?", config()).text == "and?"
    assert [kind for kind, _ in told(histories)] == ["human", "ai", "human", "ai"]


WINDOWED = Window(turns=2)


def test_a_window_narrows_what_the_model_sees(door: Door) -> None:
    histories = ChatHistories(CountingStore(), strategy=WINDOWED)
    model, sent = counting(["a1", "a2", "a3"])
    chat = with_history(model, histories)
    for number in range(3):
        door.call(chat, "invoke", f"q{number}", config())
    assert [[message.text for message in prompt] for prompt in sent] == [["q0"], ["q0", "a1", "q1"], ["q2"]]
    assert len(told(histories)) == 6


def test_a_turn_retried_long_after_is_given_back_though_the_window_has_moved_on(door: Door) -> None:
    histories = ChatHistories(CountingStore(), strategy=WINDOWED)
    model, sent = counting([f"a{number}" for number in range(6)])
    chat = with_history(model, histories)
    for number in range(6):
        door.call(chat, "invoke", f"q{number}", config(turn_id=f"t{number}"))
    assert door.call(chat, "invoke", "q0", config(turn_id="t0")).text == "a0"
    assert door.call(chat, "invoke", "q5", config(turn_id="t5")).text == "a5"
    assert len(sent) == 6
