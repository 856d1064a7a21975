"""`get_session_history` under `RunnableWithMessageHistory`: no user's word is dropped, whoever writes meanwhile."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from lc_history import (
    ChatHistories,
    InMemoryChatMessageHistory,
    SQLiteChatMessageHistory,
    history_factory_config,
)
from lc_history.strategies import Window
from lc_history.testing.models import StrictChatModel
from tests.doors import BOTH, Door

pytestmark = [
    pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name),
    pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated"),
]


@pytest.fixture
def histories() -> ChatHistories:
    return ChatHistories.open("memory://")


def config(session_id: str = "s1") -> dict:
    return {"configurable": {"session_id": session_id}}


def texts(histories: ChatHistories, session_id: str = "s1") -> list[str]:
    return [message.text for message in histories.session(session_id).messages]


def test_a_conversation(histories: ChatHistories, door: Door) -> None:
    chain = RunnableWithMessageHistory(StrictChatModel(), histories.get_session_history)
    door.call(chain, "invoke", "one", config())
    door.stream(chain, [HumanMessage("two")], config())
    assert [text.strip() for text in texts(histories)] == ["one", "one", "two", "two"]


def test_a_turn_by_somebody_else_does_not_drop_the_users_words(histories: ChatHistories, door: Door) -> None:
    def interrupted(messages):
        histories.session("s1").add_messages([HumanMessage("meanwhile"), AIMessage("in between")])
        return AIMessage("answer")

    histories.session("s1").add_messages([HumanMessage("before"), AIMessage("earlier")])
    chain = RunnableWithMessageHistory(StrictChatModel(answer=interrupted), histories.get_session_history)
    door.call(chain, "invoke", "the user's words", config())
    assert texts(histories) == ["before", "earlier", "meanwhile", "in between", "the user's words", "answer"]


def test_the_named_classes_are_factories_too(door: Door, tmp_path) -> None:
    path = tmp_path / "chats.sqlite3"

    def interrupted(messages):
        SQLiteChatMessageHistory("s1", path).add_messages([HumanMessage("meanwhile"), AIMessage("in between")])
        return AIMessage("answer")

    chain = RunnableWithMessageHistory(
        StrictChatModel(answer=interrupted), lambda name: SQLiteChatMessageHistory(name, path)
    )
    door.call(chain, "invoke", "the user's words", config())
    stored = SQLiteChatMessageHistory("s1", path).messages
    assert [message.text for message in stored] == ["meanwhile", "in between", "the user's words", "answer"]


def test_a_stream_with_another_writer(histories: ChatHistories, door: Door) -> None:
    def interrupted(messages):
        histories.session("s1").add_messages([HumanMessage("meanwhile"), AIMessage("in between")])
        return AIMessage("answer")

    chain = RunnableWithMessageHistory(StrictChatModel(answer=interrupted), histories.get_session_history)
    door.stream(chain, "the user's words", config())
    assert [text.strip() for text in texts(histories)] == ["meanwhile", "in between", "the user's words", "answer"]


def test_an_erasure_during_a_turn_is_not_undone(histories: ChatHistories, door: Door) -> None:
    def erase_meanwhile(_):
        histories.session("s1").clear()
        return AIMessage("too late")

    chain = RunnableWithMessageHistory(StrictChatModel(answer=erase_meanwhile), histories.get_session_history)
    door.call(chain, "invoke", "hello", config())
    assert texts(histories) == []


def test_batch_on_one_session_loses_nothing(histories: ChatHistories, door: Door) -> None:
    chain = RunnableWithMessageHistory(StrictChatModel(seconds=0.01), histories.get_session_history)
    words = [f"number {number}" for number in range(8)]
    door.call(chain, "batch", words, config())
    assert sorted(texts(histories)) == sorted(words * 2)


def test_users_are_kept_apart(histories: ChatHistories, door: Door) -> None:
    chain = RunnableWithMessageHistory(
        StrictChatModel(), histories.get_session_history, history_factory_config=history_factory_config
    )
    for user in ("ann", "bob"):
        door.call(chain, "invoke", f"I am {user}.", {"configurable": {"user_id": user, "session_id": "s1"}})
    assert [m.text for m in histories.session("s1", user_id="ann").messages] == ["I am ann."] * 2
    assert [m.text for m in histories.session("s1", user_id="bob").messages] == ["I am bob."] * 2


def test_an_agent_that_echoes_the_conversation_stores_it_once(histories: ChatHistories, door: Door) -> None:
    from langchain.agents import create_agent

    chain = RunnableWithMessageHistory(
        create_agent(StrictChatModel(), tools=[]),
        histories.get_session_history,
        input_messages_key="messages",
        output_messages_key="messages",
    )
    for number in range(4):
        door.call(chain, "invoke", {"messages": [HumanMessage(f"number {number}")]}, config())
        assert len(texts(histories)) == 2 * (number + 1)


def test_outside_a_run_reads_are_fresh(histories: ChatHistories, door: Door) -> None:
    held = histories.get_session_history("s1")
    chain = RunnableWithMessageHistory(StrictChatModel(), lambda _: held)
    door.call(chain, "invoke", "one", config())
    assert len(held.messages) == 2
    histories.session("s1").add_messages([HumanMessage("two")])
    assert len(held.messages) == 3
    door.call(chain, "invoke", "three", config())
    assert len(held.messages) == 5


@pytest.mark.parametrize("cleared_by", ["the same object", "another"])
@pytest.mark.parametrize("key", [None, "history"], ids=["one list", "a key"])
def test_what_was_erased_after_a_failed_run_is_not_shown_again(door: Door, tmp_path, cleared_by, key) -> None:
    held = SQLiteChatMessageHistory("s1", tmp_path / "chats.sqlite3")
    held.add_messages([HumanMessage("secret"), AIMessage("kept safe")])
    sent: list[list[str]] = []

    def fails_once(messages):
        sent.append([message.text for message in messages])
        if len(sent) == 1:
            raise RuntimeError("the model is away")
        return AIMessage("answer")

    model, options, asked = StrictChatModel(answer=fails_once), {}, "question"
    if key:
        model = RunnableLambda(lambda value: [*value[key], *value["question"]]) | model
        options, asked = (
            {"input_messages_key": "question", "history_messages_key": key},
            {"question": [HumanMessage("question")]},
        )
    chain = RunnableWithMessageHistory(model, lambda _: held, **options)
    with pytest.raises(RuntimeError, match="away"):
        door.call(chain, "invoke", asked, config())
    other = SQLiteChatMessageHistory("s1", tmp_path / "chats.sqlite3")
    (held if cleared_by == "the same object" else other).clear()
    held.add_messages([HumanMessage("meanwhile")])
    door.call(chain, "invoke", asked, config())
    assert sent == [["secret", "kept safe", "question"], ["meanwhile", "question"]]
    assert [message.text for message in other.messages] == ["meanwhile", "question", "answer"]


def test_many_runs_in_threads_share_nothing(histories: ChatHistories, door: Door) -> None:
    chain = RunnableWithMessageHistory(StrictChatModel(seconds=0.01), histories.get_session_history)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: door.call(chain, "invoke", f"n{number}", config(f"s{number % 2}")), range(16)))
    assert sorted(texts(histories, "s0") + texts(histories, "s1")) == sorted([f"n{n}" for n in range(16)] * 2)


def test_no_warning_of_ours(door: Door) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = InMemoryChatMessageHistory()
        door.call(history, "add_messages", [HumanMessage("hello")])
        history.add_ai_message("hi")
    assert [message.text for message in history.messages] == ["hello", "hi"]


def test_a_window_narrows_a_run_and_nothing_of_it_is_lost(door: Door) -> None:
    histories = ChatHistories.open("memory://", strategy=Window(turns=2))
    sent: list[int] = []

    def answer(messages):
        sent.append(len(messages))
        return AIMessage("fine")

    chain = RunnableWithMessageHistory(StrictChatModel(answer=answer), histories.get_session_history)
    for number in range(6):
        door.call(chain, "invoke", f"number {number}", config())
    assert max(sent) <= 5
    assert len(texts(histories)) == 12
