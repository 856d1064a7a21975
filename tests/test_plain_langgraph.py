"""What plain LangGraph does, for docs/agents.md: each test is a row of its table, and fails when upstream mends it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from lc_history.agents import OfflineToolModel


@pytest.fixture
def url(postgres_url: str) -> str:
    schema = f"plain_{uuid4().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
    return f"{postgres_url}?options=-csearch_path%3D{schema}"


@pytest.fixture
def saver(url: str) -> Iterator[PostgresSaver]:
    kwargs = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    with ConnectionPool(url, min_size=2, max_size=8, kwargs=kwargs) as pool:
        saver = PostgresSaver(pool)
        saver.setup()
        yield saver


class Payments:
    """An agent that pays, and what it has paid."""

    def __init__(self, saver: PostgresSaver, *, dies: bool = False, middleware: Any = ()) -> None:
        self.paid: list[int] = []
        self.dies = dies

        @tool
        def pay(amount: int) -> str:
            """Pay an amount."""
            self.paid.append(amount)
            if self.dies:
                raise SystemExit  # the process ends after the effect, before its result is stored
            return f"paid {amount}"

        self.agent = create_agent(OfflineToolModel(), [pay], checkpointer=saver, middleware=middleware)


AT: Any = {"configurable": {"thread_id": "t"}}


def test_a_tool_whose_process_died_runs_twice(saver: PostgresSaver) -> None:
    payments = Payments(saver, dies=True)
    with pytest.raises(SystemExit):
        payments.agent.invoke({"messages": "pay 120"}, AT, durability="sync")
    payments.dies = False
    payments.agent.invoke(None, AT, durability="sync")
    assert payments.paid == [120, 120]


def test_two_answers_to_one_question_both_execute(saver: PostgresSaver) -> None:
    payments = Payments(saver, middleware=[HumanInTheLoopMiddleware(interrupt_on={"pay": True})])
    payments.agent.invoke({"messages": "pay 120"}, AT)
    together = threading.Barrier(2)

    def approve() -> None:
        together.wait()
        payments.agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), AT)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(approve) for _ in range(2)]:
            done.result()
    assert payments.paid == [120, 120]


def test_a_request_that_is_sent_again_is_a_second_turn(saver: PostgresSaver) -> None:
    payments = Payments(saver)
    for _ in range(2):
        payments.agent.invoke({"messages": "pay 120"}, AT)
    assert payments.paid == [120, 120]


def test_one_of_two_turns_at_once_is_lost_without_a_word(saver: PostgresSaver) -> None:
    together = threading.Barrier(2)

    def answer(state: MessagesState) -> Any:
        together.wait()
        return {"messages": [AIMessage(f"heard {state['messages'][-1].text}")]}

    graph = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile(checkpointer=saver)
    with ThreadPoolExecutor(2) as pool:
        turns = [pool.submit(graph.invoke, {"messages": [("user", text)]}, AT, durability="sync") for text in "ab"]
        acknowledged = [turn.result()["messages"][-1].text for turn in turns]
    kept = {message.text for message in graph.get_state(AT).values["messages"]}
    assert set(acknowledged) - kept


def test_a_killed_backend_leaves_the_saver_dead(url: str, postgres_url: str) -> None:
    with PostgresSaver.from_conn_string(url) as saver:
        saver.setup()
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (saver.conn.info.backend_pid,))
        for _ in range(3):
            with pytest.raises(psycopg.OperationalError):
                saver.get_tuple(AT)


async def test_the_sync_saver_takes_no_async_graph_and_does_not_say_why(saver: PostgresSaver) -> None:
    with pytest.raises(NotImplementedError, match=r"^$"):
        await Payments(saver).agent.ainvoke({"messages": "hello"}, AT)


def test_short_values_and_metadata_stay_readable_with_the_encrypted_serializer(saver: PostgresSaver, url: str) -> None:
    class State(MessagesState):
        name: str

    class Cipher:
        aes = AESGCM(bytes(32))

        def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
            return "aes", self.aes.encrypt(bytes(12), plaintext, None)

        def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
            return self.aes.decrypt(bytes(12), ciphertext, None)

    saver.serde = EncryptedSerializer(Cipher())
    graph = StateGraph(State).add_node("answer", lambda _: {"name": "secret-name"}).add_edge(START, "answer")
    config = {**AT, "metadata": {"about": "secret-metadata"}}
    graph.compile(checkpointer=saver).invoke({"messages": [("user", "secret-message")]}, config)
    with psycopg.connect(url) as connection:
        rows = str(connection.execute("SELECT checkpoint, metadata FROM checkpoints").fetchall())
    assert [secret in rows for secret in ("secret-name", "secret-metadata")] == [True, True]
