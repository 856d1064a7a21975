"""Whole turns: what a model call costs when it has a history, with our faces and with the deprecated runnable."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import cycle
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from benchmarks.conversation import ANSWERED, ASKED, talk
from benchmarks.measure import QUICK, race
from lc_history import ChatHistories, with_history
from lc_history.history import ChatHistory
from lc_history.middleware import HistoryMiddleware
from lc_history.model import DEFAULT_USER, Appended, SessionKey
from lc_history.reading import Reading, Said
from lc_history.stores.memory import MemoryStore
from lc_history.strategies.window import Window
from lc_history.testing.servers import PostgresServer, RedisServer
from lc_history.transcript import Transcript

SESSIONS = {10: 40, 100: 10, 1000: 3}
"""How many sessions of each length take turns, so that they hardly grow."""
ROUNDS = 12 if QUICK else 60


class Model(BaseChatModel):
    """Answers at once, always the same: what is left is the cost of everything around a model."""

    @property
    def _llm_type(self) -> str:
        return "benchmark"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=AIMessage(ANSWERED))])


def deprecated(factory: Callable[[str], Any]) -> Any:
    """Return the model in LangChain's own RunnableWithMessageHistory."""
    from langchain_core.runnables.history import RunnableWithMessageHistory

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return RunnableWithMessageHistory(Model(), factory)


def measure() -> dict[str, Any]:
    """Return the microseconds of a turn at each length, on Redis and on PostgreSQL, and of `with_history` alone."""
    found: dict[str, Any] = {"over the model": _over_the_model()}
    with RedisServer() as server:
        from langchain_community.chat_message_histories import RedisChatMessageHistory

        found["Redis"] = _on(server.url, "langchain-community", lambda name: RedisChatMessageHistory(name, server.url))
    with PostgresServer() as server, ExitStack() as stack:
        import psycopg
        from langchain_postgres import PostgresChatMessageHistory

        from benchmarks.ways.postgres import _name

        connection = stack.enter_context(psycopg.connect(server.url))
        PostgresChatMessageHistory.create_tables(connection, "peer")
        found["PostgreSQL"] = _on(
            server.url,
            "langchain-postgres",
            lambda name: PostgresChatMessageHistory("peer", _name(name), sync_connection=connection),
        )
    return found


def _on(url: str, peer: str, factory: Callable[[str], Any]) -> dict[int, Any]:
    found = {}
    with ChatHistories.open(url) as histories, ChatHistories.open(url, strategy=Window(turns=10)) as windowed:
        histories.migrate()
        for length, sessions in SESSIONS.items():
            kinds = {
                "model alone": _model(length),
                "`with_history`": _chain(with_history(Model(), histories), length, sessions, "w"),
                "`with_history`, window of 20": _chain(with_history(Model(), windowed), length, sessions, "ww"),
                "RunnableWithMessageHistory, ours": _chain(
                    deprecated(histories.get_session_history), length, sessions, "r"
                ),
                "RunnableWithMessageHistory, ours, window of 20": _chain(
                    deprecated(windowed.get_session_history), length, sessions, "rw"
                ),
                f"RunnableWithMessageHistory, {peer}": _chain(deprecated(factory), length, sessions, "p"),
                "agent alone": _agent([]),
                "agent, HistoryMiddleware": _agent([HistoryMiddleware(histories)], length, sessions, "a"),
                "agent, HistoryMiddleware, window of 20": _agent([HistoryMiddleware(windowed)], length, sessions, "aw"),
            }
            for name in ("w", "ww", "r", "rw", "a", "aw"):
                for number in range(sessions):
                    histories.session(f"{name} {length} {number}").add_messages(talk(length))
            for number in range(sessions):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    factory(f"p {length} {number}").add_messages(talk(length))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[length] = race(kinds, seconds=5, most=ROUNDS)
    return found


def _model(length: int) -> Callable[[Any], Any]:
    history, model = talk(length), Model()
    return lambda _: model.invoke([*history, HumanMessage(ASKED)])


def _chain(chain: Any, length: int, sessions: int, name: str) -> Callable[[Any], Any]:
    configs = cycle([{"configurable": {"session_id": f"{name} {length} {number}"}} for number in range(sessions)])
    return lambda _: chain.invoke([HumanMessage(ASKED)], next(configs))


def _agent(middleware: list[Any], length: int = 0, sessions: int = 1, name: str = "none") -> Callable[[Any], Any]:
    agent = create_agent(Model(), tools=[], middleware=middleware)
    configs = cycle([{"configurable": {"session_id": f"{name} {length} {number}"}} for number in range(sessions)])
    return lambda _: agent.invoke({"messages": [HumanMessage(ASKED)]}, next(configs))


class AtOnce(Transcript):
    """A conversation that is read and kept in no time."""

    def __init__(self, messages: list[BaseMessage]) -> None:
        super().__init__(MemoryStore(), SessionKey(DEFAULT_USER, "at once"))
        now = datetime.now(UTC)
        said = [Said(seq, str(message.id), now, message) for seq, message in enumerate(messages, 1)]
        self._reading = Reading(said, len(said), [])

    async def read(self, **_: Any) -> Reading:
        return self._reading

    async def append(self, messages: Sequence[BaseMessage], **_: Any) -> Appended:
        return Appended((1,) * len(messages), (True,) * len(messages))


class HistoriesAtOnce(ChatHistories):
    """One such conversation, whatever it is called."""

    def __init__(self, messages: list[BaseMessage]) -> None:
        super().__init__(MemoryStore())
        self._transcript_at_once = AtOnce(messages)

    def session(self, session_id: str, **_: Any) -> ChatHistory:
        return ChatHistory(self._transcript_at_once)


def _over_the_model() -> dict[int, Any]:
    """Return what `with_history` adds to a model where the store costs nothing."""
    found = {}
    for length in SESSIONS:
        kinds = {
            "model alone": _model(length),
            "`with_history`": _chain(with_history(Model(), HistoriesAtOnce(talk(length))), length, 1, "chain"),
        }
        found[length] = race(kinds, seconds=5, most=ROUNDS * 10)
    return found
