"""What a `RemoveMessage` names is shown by no face of a conversation, and neither is the instruction itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage
from langchain_core.runnables.history import RunnableWithMessageHistory
from langgraph.graph.message import REMOVE_ALL_MESSAGES

from lc_history import ChatHistories, with_history
from lc_history.bridge import drive
from lc_history.middleware import HistoryMiddleware
from lc_history.stores.memory import MemoryStore
from lc_history.strategies import Full, Window
from lc_history.strategies.replay import replay
from lc_history.testing.models import StrictChatModel
from tests.doors import BOTH, Door

pytestmark = pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")

SAID = [HumanMessage("my code is 4711", id="q"), AIMessage("I see", id="a"), HumanMessage("and you?", id="q2")]
CONFIG = {"configurable": {"session_id": "s1", "thread_id": "t"}}
FACES: dict[str, Any] = {
    "with_history": with_history,
    "the factory": lambda model, histories: RunnableWithMessageHistory(model, histories.get_session_history),
    "the middleware": lambda model, histories: create_agent(model, [], middleware=[HistoryMiddleware(histories)]),
}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("strategy", [Full(), Window(budget_tokens=400)], ids=["full", "window"])
@pytest.mark.parametrize(("removed", "left"), [("q", ["I see", "and you?"]), (REMOVE_ALL_MESSAGES, [])])
@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
def test_the_model_does_not_see_it(face: str, strategy: Any, removed: str, left: list[str], door: Door) -> None:
    sent: list[list[str]] = []

    def answer(messages: Sequence[BaseMessage]) -> AIMessage:
        sent.append([message.text for message in messages if message.id != "opening"])
        return AIMessage("fine")

    histories = ChatHistories(MemoryStore(), strategy=strategy)
    histories.session("s1").add_messages([*SAID, RemoveMessage(removed)])
    asked: Any = [HumanMessage("well?")]
    door.call(
        FACES[face](StrictChatModel(answer=answer), histories),
        "invoke",
        {"messages": asked} if face == "the middleware" else asked,
        CONFIG,
    )
    assert sent == [[*left, "well?"]]
    assert [message.type for message in histories.session("s1").messages] == [
        *("human", "ai", "human", "remove", "human", "ai")
    ]


def test_a_replay_does_not_send_it() -> None:
    said = [*SAID, AIMessage("fine", id="a2"), RemoveMessage("q"), HumanMessage("well?"), AIMessage("4711 it is")]
    told = drive(replay(said, Full(), store=MemoryStore()))
    assert (told.calls, told.recall) == (3, 0.0)
