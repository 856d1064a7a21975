"""One of many processes that plan the same call at once."""

from __future__ import annotations

from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from langchain_core.messages import AIMessage, HumanMessage

from lc_history import ChatHistories
from lc_history.bridge import drive
from lc_history.strategies import Summary
from lc_history.testing.models import StrictChatModel

ROUNDS = 3


def plan(answer: Connection, url: str, schema: str, together: Barrier) -> None:
    """Send what the model would be sent, and how often the model that summarises was asked, for each round."""
    asked: list[str] = []

    def summarise(messages) -> AIMessage:
        asked.append(messages[-1].text)
        return AIMessage("in short")

    strategy = Summary(StrictChatModel(answer=summarise, seconds=0.2), budget_tokens=700, summary_tokens=100)
    with ChatHistories.open(url, schema=schema) as histories:
        transcript = histories.session("s1").transcript
        for _ in range(ROUNDS):
            together.wait(60)
            view = drive(strategy.view(transcript, [HumanMessage("and now?", id="now")]))
            sent = [message.model_dump_json() for message in view.prompt if message not in view.summary]
            answer.send((sent, [message.model_dump_json() for message in view.summary], len(asked)))
