"""`HistoryMiddleware`: an agent whose conversation outlives it, each message stored once."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from lc_history import ChatHistories
from lc_history.errors import ConflictError
from lc_history.middleware import HistoryMiddleware, WindowMiddleware
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Window
from lc_history.testing.models import StrictChatModel
from tests.doors import BOTH, Door

pytestmark = pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


def forecaster(messages):
    if messages[-1].type == "tool":
        return AIMessage(f"It says: {messages[-1].text}")
    if "weather" in messages[-1].text:
        return AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Ulm"}, "id": f"c{len(messages)}"}])
    return AIMessage(f"after {len(messages)}")


@pytest.fixture
def histories() -> ChatHistories:
    return ChatHistories.open("memory://")


def kinds(histories: ChatHistories) -> list[str]:
    return [message.type for message in histories.session("s1", user_id="ann").messages]


CONFIG = {"configurable": {"session_id": "s1", "user_id": "ann", "thread_id": "t"}}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_an_agent_remembers(histories: ChatHistories, door: Door, checkpointed: bool) -> None:
    saver = InMemorySaver() if checkpointed else None
    model = StrictChatModel(answer=forecaster)
    agent = create_agent(model, [weather], middleware=[HistoryMiddleware(histories)], checkpointer=saver)
    door.call(agent, "invoke", {"messages": [HumanMessage("the weather?")]}, CONFIG)
    assert kinds(histories) == ["human", "ai", "tool", "ai"]
    result = door.call(agent, "invoke", {"messages": [HumanMessage("and now?")]}, CONFIG)
    assert result["messages"][-1].text == "after 5"
    assert kinds(histories) == ["human", "ai", "tool", "ai", "human", "ai"]


def test_a_failing_model_keeps_the_users_words(histories: ChatHistories, door: Door) -> None:
    def broken(_):
        raise RuntimeError("no credit")

    agent = create_agent(StrictChatModel(answer=broken), [], middleware=[HistoryMiddleware(histories)])
    with pytest.raises(RuntimeError, match="no credit"):
        door.call(agent, "invoke", {"messages": [HumanMessage("hello")]}, CONFIG)
    assert kinds(histories) == ["human"]


def test_an_erasure_between_two_steps_is_not_undone(histories: ChatHistories, door: Door) -> None:
    @tool
    def erase() -> str:
        """Erase the conversation."""
        histories.session("s1", user_id="ann").clear()
        return "erased"

    def eraser(messages):
        return AIMessage("", tool_calls=[{"name": "erase", "args": {}, "id": "c1"}])

    agent = create_agent(StrictChatModel(answer=eraser), [erase], middleware=[HistoryMiddleware(histories)])
    with pytest.raises(ConflictError, match="erased"):
        door.call(agent, "invoke", {"messages": [HumanMessage("my secret")]}, CONFIG)
    assert kinds(histories) == []


def test_what_was_erased_does_not_come_back_from_the_agents_state(histories: ChatHistories, door: Door) -> None:
    model, middleware = StrictChatModel(answer=forecaster), [HistoryMiddleware(histories)]
    agent = create_agent(model, [weather], middleware=middleware, checkpointer=InMemorySaver())
    door.call(agent, "invoke", {"messages": [HumanMessage("the weather? my secret")]}, CONFIG)
    histories.session("s1", user_id="ann").clear()
    result = door.call(agent, "invoke", {"messages": [HumanMessage("next")]}, CONFIG)
    assert [message.text for message in histories.session("s1", user_id="ann").messages] == ["next", "after 1"]
    assert result["messages"][-1].text == "after 1"


def test_a_call_stores_what_is_new_however_long_the_state(histories: ChatHistories, door: Door, monkeypatch) -> None:
    appended: list[int] = []
    append = MemoryStore.append

    async def counted(self, key, entries, **options):
        appended.append(len(entries))
        return await append(self, key, entries, **options)

    monkeypatch.setattr(MemoryStore, "append", counted)
    model, middleware = StrictChatModel(answer=forecaster), [HistoryMiddleware(histories)]
    agent = create_agent(model, [weather], middleware=middleware, checkpointer=InMemorySaver())
    for _ in range(3):
        door.call(agent, "invoke", {"messages": [HumanMessage("the weather?")]}, CONFIG)
    assert appended == [1, 1, 1, 1] * 3
    assert kinds(histories) == ["human", "ai", "tool", "ai"] * 3


@tool(return_direct=True)
def booked(city: str) -> str:
    """Book a journey."""
    return f"booked {city}"


def test_a_tool_that_has_the_last_word_is_remembered(histories: ChatHistories, door: Door) -> None:
    def clerk(messages):
        if messages[-1].text == "book":
            return AIMessage("", tool_calls=[{"name": "booked", "args": {"city": "Ulm"}, "id": "c1"}])
        return AIMessage(" | ".join(message.text for message in messages if message.type == "tool"))

    agent = create_agent(StrictChatModel(answer=clerk), [booked], middleware=[HistoryMiddleware(histories)])
    door.call(agent, "invoke", {"messages": [HumanMessage("book")]}, CONFIG)
    assert kinds(histories) == ["human", "ai", "tool"]
    result = door.call(agent, "invoke", {"messages": [HumanMessage("what was that?")]}, CONFIG)
    assert result["messages"][-1].text == "booked Ulm"


def test_an_erasure_while_a_tool_works_is_not_undone(histories: ChatHistories, door: Door) -> None:
    @tool(return_direct=True)
    def forget(city: str) -> str:
        """Forget everything."""
        histories.session("s1", user_id="ann").clear()
        return f"forgot {city}"

    call = AIMessage("", tool_calls=[{"name": "forget", "args": {"city": "Ulm"}, "id": "c1"}])
    agent = create_agent(StrictChatModel(answer=lambda _: call), [forget], middleware=[HistoryMiddleware(histories)])
    with pytest.raises(ConflictError):
        door.call(agent, "invoke", {"messages": [HumanMessage("forget")]}, CONFIG)
    assert kinds(histories) == []


def test_a_conversation_from_before_the_middleware_is_taken_over(histories: ChatHistories, door: Door) -> None:
    agent = create_agent(StrictChatModel(answer=forecaster), [], middleware=[HistoryMiddleware(histories)])
    said = [HumanMessage("one"), AIMessage("two"), HumanMessage("three"), HumanMessage("four")]
    assert door.call(agent, "invoke", {"messages": said}, CONFIG)["messages"][-1].text == "after 4"
    assert kinds(histories) == ["human", "ai", "human", "human", "ai"]


def test_without_a_session_it_says_so(histories: ChatHistories, door: Door) -> None:
    agent = create_agent(StrictChatModel(), [], middleware=[HistoryMiddleware(histories)])
    with pytest.raises(ValueError, match="Give its session_id"):
        door.call(agent, "invoke", {"messages": [HumanMessage("hello")]})


def test_the_agent_sees_a_window_and_the_store_keeps_everything(door: Door) -> None:
    histories = ChatHistories.open("memory://", strategy=Window(turns=2))
    agent = create_agent(StrictChatModel(answer=forecaster), [weather], middleware=[HistoryMiddleware(histories)])
    asked = ({"messages": [HumanMessage(word)]} for word in ("one", "two", "three", "the weather?"))
    answers = [door.call(agent, "invoke", one, CONFIG)["messages"][-1].text for one in asked]
    assert answers == ["after 1", "after 3", "after 1", "It says: rain in Ulm"]
    assert len(kinds(histories)) == 10


def test_a_state_is_shown_through_a_window_and_stays_whole(door: Door) -> None:
    model, window = StrictChatModel(answer=forecaster), WindowMiddleware(Window(turns=2))
    agent = create_agent(model, [weather], middleware=[window], checkpointer=InMemorySaver())
    for word in ("one", "two", "three", "the weather?"):
        result = door.call(agent, "invoke", {"messages": [HumanMessage(word)]}, CONFIG)
    assert [message.text for message in result["messages"] if message.type == "ai"] == [
        *("after 1", "after 3", "after 1", "", "It says: rain in Ulm"),
    ]
    assert len(result["messages"]) == 10
