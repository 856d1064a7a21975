"""`with_history`: one read, one write, each turn exactly once, whatever happens to the model or the caller."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from typing_extensions import override

from lc_history import ChatHistories, with_history
from lc_history.bridge import pause
from lc_history.errors import ConflictError, StoreUnavailableError
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Window
from lc_history.testing.models import RefusedError, StrictChatModel
from lc_history.turn_shape import PARTIAL
from tests.doors import BOTH, Door
from tests.test_abandoned_streams import wait_for_the_closing_thread

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
        await pause(0.01)  # a server is asked, and does not answer at once
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


def test_a_stream_that_the_garbage_collector_finds_is_a_partial_answer(histories: ChatHistories, door: Door) -> None:
    chat = with_history(StrictChatModel(answer=lambda _: AIMessage("one two three")), histories)

    async def abandoned() -> None:
        items = chat.astream("count", config())
        await anext(items)
        cycle = [items]
        cycle.append(cycle)
        del items, cycle
        gc.collect()
        await asyncio.sleep(0)  # the event loop is told, and begins to close it
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    if door.name == "blocking":
        items = chat.stream("count", config())
        next(items)
        cycle = [items]
        cycle.append(cycle)
        del items, cycle
        gc.collect()
        wait_for_the_closing_thread()
    else:
        asyncio.run(abandoned())
    assert [kind for kind, _ in told(histories)] == ["human", "ai"]


def test_a_stream_that_was_cut_off_and_cannot_be_stored_is_told_in_the_log(histories, door: Door, caplog) -> None:
    chat = with_history(StrictChatModel(answer=lambda _: AIMessage("one two three")), histories)
    histories.store.down = True
    assert len(door.stream(chat, "count", config(), stop_after=1)) == 1
    assert "session 's1' of user 'ann' was cut off and could not be stored: the store is down" in caplog.text


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
        for _ in range(4):  # an impatient caller
            turn.cancel()
            await asyncio.sleep(0)
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


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


def forecaster(messages):
    if messages[-1].type == "tool":
        return AIMessage(f"It says: {messages[-1].text}")
    return AIMessage(
        "Let me look.", tool_calls=[{"name": "weather", "args": {"city": "Ulm"}, "id": f"c{len(messages)}"}]
    )


def agent_with_history(histories: ChatHistories, **options):
    agent = create_agent(StrictChatModel(answer=forecaster), [weather]).bind(**options)
    return with_history(agent, histories, input_messages_key="messages", output_messages_key="messages")


@pytest.mark.parametrize("mode", [None, "updates", "values", "messages", ["updates", "messages"], "custom"])
def test_an_agents_stream_is_stored_whatever_it_shows(histories: ChatHistories, door: Door, mode, caplog) -> None:
    shown = {} if mode is None else {"stream_mode": mode}
    for turn in (1, 2):
        door.stream(agent_with_history(histories, **shown), {"messages": "the weather?"}, config())
        assert [kind for kind, _ in told(histories)] == ["human", "ai", "tool", "ai"] * turn
    assert told(histories)[-1] == ("ai", "It says: rain in Ulm")
    assert not caplog.records, "whoever listens to a stream understands what it is told"


@pytest.mark.parametrize("mode", ["updates", "values", "messages"])
def test_an_agents_stream_that_is_cut_off_keeps_what_there_was(histories: ChatHistories, door: Door, mode) -> None:
    chat = agent_with_history(histories, stream_mode=mode)
    door.stream(chat, {"messages": "the weather?"}, config(), stop_after=2)
    said = histories.session("s1", user_id="ann").messages
    assert [message.type for message in said][:2] == ["human", "ai"]
    assert said[1].text.startswith("Let me")
    assert said[-1].response_metadata[PARTIAL] is True


def test_a_stream_that_is_cut_off_before_its_first_word_is_no_answer(histories: ChatHistories, door: Door) -> None:
    def silent(_):
        yield AIMessageChunk("")
        raise RuntimeError("the line went dead")

    async def asilent(_):
        yield AIMessageChunk("")
        raise RuntimeError("the line went dead")

    with pytest.raises(RuntimeError, match="dead"):
        door.stream(with_history(RunnableGenerator(silent, asilent), histories), "go", config())
    assert told(histories) == [("human", "go")]


def test_two_tries_at_once_with_answers_of_different_lengths_are_not_mixed(histories, door: Door) -> None:
    tries = iter([1, 3])

    def answer(_):
        count = next(tries)
        time.sleep(0.05 * count)
        histories.session("s1", user_id="ann").add_messages([HumanMessage(f"somebody else, {count}")])
        return [AIMessage(f"part {number} of {count}") for number in range(count)]

    chat = with_history(RunnableLambda(answer), histories)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: door.call(chat, "invoke", "one", config(turn_id="t1")), range(2)))
    said = [text for _, text in told(histories) if not text.startswith("somebody")]
    assert said == ["one", "part 0 of 1"]


def test_a_long_answer_is_stored_though_others_write_and_not_after_an_erasure(histories, door: Door) -> None:
    def answer(messages):
        session = histories.session("s1", user_id="ann")
        session.clear() if "erase" in messages[-1].text else session.add_messages([HumanMessage("meanwhile")])
        return [AIMessage("one"), AIMessage("two")]

    chat = with_history(RunnableLambda(answer), histories)
    door.call(chat, "invoke", "go", config(turn_id="t1"))
    assert [text for _, text in told(histories)] == ["meanwhile", "go", "one", "two"]
    with pytest.raises(ConflictError, match="erased"):
        door.call(chat, "invoke", "erase", config(turn_id="t2"))
    assert told(histories) == []


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (None, "not NoneType"),
        ({"a": "x", "b": "y"}, "output_messages_key"),
        (AIMessage("x", additional_kwargs={"size": (1, 2)}), "of type tuple"),
    ],
)
def test_the_users_words_are_kept_when_the_answer_cannot_be(histories, door: Door, output, sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        door.call(with_history(RunnableLambda(lambda _: output), histories), "invoke", "hello", config())
    assert told(histories) == [("human", "hello")]


@pytest.mark.parametrize("turn_id", ["", 7])
def test_a_turn_id_that_names_nothing_is_refused(histories: ChatHistories, door: Door, turn_id) -> None:
    with pytest.raises((TypeError, ValueError), match="turn_id must"):
        door.call(with_history(StrictChatModel(), histories), "invoke", "hello", config(turn_id=turn_id))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([{"role": "user", "content": "hi"}], "a list with dict: .*convert_to_messages"),
        (ChatPromptTemplate.from_messages(["hi"]).invoke({}), "put the prompt inside"),
    ],
)
def test_input_that_is_nearly_right_says_what_to_do(histories, door: Door, value, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        door.call(with_history(StrictChatModel(), histories), "invoke", value, config())


def test_what_is_no_runnable_and_what_are_no_histories_is_said_at_once(histories: ChatHistories, door: Door) -> None:
    with pytest.raises(TypeError, match="RunnableLambda"):
        with_history(lambda _: "hi", histories)
    with pytest.raises(TypeError, match=r"ChatHistories.open"):
        with_history(StrictChatModel(), histories.get_session_history)


def test_an_interrupted_save_is_made_good(histories: ChatHistories, door: Door, monkeypatch) -> None:
    if door.name == "async":
        return  # there, a save is completed whatever happens to its task
    append, tries = CountingStore.append, []

    async def interrupted(self, *args, **kwargs):
        tries.append(args)
        if len(tries) == 1:
            raise KeyboardInterrupt
        return await append(self, *args, **kwargs)

    monkeypatch.setattr(CountingStore, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        with_history(StrictChatModel(), histories).invoke("hello", config())
    assert told(histories) == [("human", "hello"), ("ai", "hello")]


class Condensing(Runnable):
    """Asks one chain for a question and a model for the answer, and is no run of its own."""

    def __init__(self) -> None:
        self._question, self._model = RunnableLambda(lambda _: "a condensed question"), StrictChatModel()

    @override
    def invoke(self, input, config=None, **kwargs):
        self._question.invoke(input, config)
        return self._model.invoke(input, config)

    @override
    def stream(self, input, config=None, **kwargs):
        self._question.invoke(input, config)
        yield from self._model.stream(input, config)

    @override
    async def astream(self, input, config=None, **kwargs):
        await self._question.ainvoke(input, config)
        async for chunk in self._model.astream(input, config):
            yield chunk


def test_what_streams_is_stored_not_what_a_part_of_it_answers(histories: ChatHistories, door: Door) -> None:
    chat = with_history(Condensing(), histories)
    assert "".join(chunk.text for chunk in door.stream(chat, "hello", config())) == "hello"
    assert told(histories) == [("human", "hello"), ("ai", "hello")]


def test_an_agent_elsewhere_that_gives_its_input_an_id_does_not_double_it(histories: ChatHistories, door: Door) -> None:
    def agent(messages):
        echoed = [one.model_copy(update={"id": one.id or str(uuid4())}) for one in messages]
        return {"messages": [*echoed, AIMessage("an answer", id=str(uuid4()))]}

    chat = with_history(RunnableLambda(agent), histories)
    for number in range(1, 3):
        door.call(chat, "invoke", "hello", config())
        assert told(histories) == [("human", "hello"), ("ai", "an answer")] * number


TEXT, MESSAGE = StrictChatModel() | StrOutputParser(), StrictChatModel()
AGENT, SOURCES = create_agent(MESSAGE, tools=[]), RunnableLambda(lambda _: [1])


@pytest.mark.parametrize(
    ("runnable", "key", "asked", "text_of"),
    [
        (AGENT, None, {"messages": "hi"}, lambda got: got["messages"][-1].text),
        (AGENT, "messages", {"messages": "hi"}, lambda got: got["messages"][-1].text),
        (RunnableParallel(answer=TEXT), None, "hi", lambda got: str.strip(got["answer"])),
        (RunnableParallel(answer=TEXT, sources=SOURCES), "answer", "hi", lambda got: str.strip(got["answer"])),
        (TEXT, None, "hi", str.strip),
        (MESSAGE, None, "hi", lambda got: got.text),
    ],
    ids=["agent", "agent, key named", "one key", "one of two keys", "text", "message"],
)
def test_a_retried_turn_answers_in_the_shape_of_the_first(histories, door, runnable, key, asked, text_of) -> None:
    chat = with_history(runnable, histories, output_messages_key=key)
    first, again = (door.call(chat, "invoke", asked, config(turn_id="t1")) for _ in range(2))
    assert text_of(again) == text_of(first) == "hi"
    assert [kind for kind, _ in told(histories)] == ["human", "ai"]
