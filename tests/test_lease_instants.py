"""A lease whose taker or backend dies at a named instant: taking, waiting for its turn, giving back, connecting."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from threading import Event
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph
from psycopg.conninfo import make_conninfo

from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.running.graph import resumable
from lc_history.agents.running.lease import Lease
from lc_history.bridge import drive
from lc_history.errors import StoreUnavailableError
from lc_history.testing.servers import PostgresServer
from tests.processes import forked

SHORT = timedelta(seconds=0.5)
LONG = timedelta(seconds=60)
TAKING, GIVING = "lch_acquire", "lch_release"


def at(turn_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": "t1", "turn_id": turn_id}}


def said(text: str) -> Any:
    return {"messages": [("user", text)]}


def answer(state: MessagesState) -> Any:
    return {"messages": [AIMessage("to " + state["messages"][-1].text)]}


def agent(saver: Checkpointer, lease: timedelta = SHORT) -> Any:
    graph = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").add_edge("answer", END)
    return resumable(graph.compile(checkpointer=saver), lease=lease)


def texts(state: Any) -> list[str]:
    return [message.text for message in state["messages"]]


def status(saver: Checkpointer) -> str | None:
    info = saver.threads.get("t1")
    return info and info.status


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def take_a_turn(url: str, schema: str, when: str, verb: str, name: str, reached: Any, go: Any) -> None:
    """Take a turn; at the statement that takes or gives back the thread, die before or after it, or wait to be told."""
    with open_checkpointer(url, schema=schema) as saver:
        rows = saver.database.rows

        async def watched(statement: str, *args: Any, **options: Any) -> Any:
            if verb in statement:
                reached.set()
                assert go.wait(30)
                if when == "before":
                    die()
            found = await rows(statement, *args, **options)
            if when == "after" and verb in statement:
                die()
            return found

        saver.database.rows = watched
        agent(saver).invoke(said(name), at(name))


@dataclass
class Running:
    """A process that takes a turn."""

    process: Any
    reached: Any
    go: Any

    def killed(self) -> None:
        self.process.join(30)
        assert self.process.exitcode == -signal.SIGKILL


@pytest.fixture
def begin(postgres_url: str, schema: str, saver: Checkpointer) -> Callable[..., Running]:
    def begun(when: str, verb: str, *, wait: bool = False) -> Running:
        context = forked()
        reached, go = context.Event(), context.Event()
        if not wait:
            go.set()
        arguments = (postgres_url, schema, when, verb, "one", reached, go)
        running = Running(context.Process(target=take_a_turn, args=arguments, daemon=True), reached, go)
        running.process.start()
        return running

    return begun


# The process is killed


@pytest.mark.parametrize(
    ("when", "verb", "known", "shown"),
    [
        ("before", TAKING, False, "idle"),
        ("after", TAKING, False, "failed"),
        ("before", GIVING, True, "failed"),
        ("after", GIVING, True, "idle"),
    ],
)
def test_killed_around_a_statement(
    saver: Checkpointer, begin: Callable[..., Running], when: str, verb: str, known: bool, shown: str
) -> None:
    agent(saver).invoke(said("zero"), at("zero"))
    begin(when, verb).killed()
    until(lambda: status(saver) != "busy")
    assert status(saver) == shown
    found = texts(agent(saver).get_state(at("zero")).values)
    assert found == ["zero", "to zero", *(["one", "to one"] if known else [])]
    assert texts(agent(saver).invoke(said("one"), at("one"))) == ["zero", "to zero", "one", "to one"]
    assert status(saver) == "idle"
    assert texts(agent(saver).invoke(said("two"), at("two")))[4:] == ["two", "to two"]


@contextmanager
def locked(url: str, schema: str) -> Iterator[Callable[[str], list[int]]]:
    """Hold all leases until the block ends; gives what tells which backends wait with a statement."""
    text = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    with psycopg.connect(url) as connection, psycopg.connect(url, autocommit=True) as watch:
        connection.execute(f"LOCK TABLE {schema}.lch_leases IN ACCESS EXCLUSIVE MODE")
        yield lambda verb: [pid for (pid,) in watch.execute(text, (f'%"{schema}".{verb}%',))]
        connection.rollback()


@pytest.mark.parametrize(("verb", "shown"), [(TAKING, "failed"), (GIVING, "idle")])
def test_killed_while_the_server_is_at_it(
    saver: Checkpointer, begin: Callable[..., Running], postgres_url: str, schema: str, verb: str, shown: str
) -> None:
    """The server goes on with the statement of a client that is gone."""
    agent(saver).invoke(said("zero"), at("zero"))
    running = begin("never", verb, wait=True)
    assert running.reached.wait(30)
    with locked(postgres_url, schema) as waiting:
        running.go.set()
        until(lambda: bool(waiting(verb)))
        running.process.kill()
        running.killed()
    until(lambda: status(saver) == shown)
    assert texts(agent(saver).invoke(said("one"), at("one"))) == ["zero", "to zero", "one", "to one"]
    assert status(saver) == "idle"


def test_killed_while_it_waited_for_its_turn(
    saver: Checkpointer, begin: Callable[..., Running], postgres_url: str, schema: str
) -> None:
    """Who waits behind it goes on when its ticket has run out."""
    first = drive(saver.leases.acquire("t1", user_id="default", duration=LONG))
    running = begin("never", GIVING)
    with psycopg.connect(postgres_url, autocommit=True) as watch, ThreadPoolExecutor(1) as threads:

        def queue() -> int:
            return (watch.execute(f"SELECT count(*) FROM {schema}.lch_queue").fetchone() or (0,))[0]

        until(lambda: queue() == 1)
        running.process.kill()
        running.killed()
        behind = threads.submit(agent(saver).invoke, said("two"), at("two"))
        until(lambda: queue() == 2)
        drive(saver.leases.release(first))
        assert texts(behind.result(20)) == ["two", "to two"]
        assert queue() == 0


# The backend is killed


@pytest.mark.parametrize("verb", [TAKING, GIVING])
def test_a_backend_killed_again_and_again_at_a_lease_is_no_failure(
    saver: Checkpointer, postgres_url: str, schema: str, verb: str
) -> None:
    lease = drive(saver.leases.acquire("t1", user_id="default", duration=LONG)) if verb == GIVING else None
    with ThreadPoolExecutor(1) as threads, psycopg.connect(postgres_url, autocommit=True) as killer:
        with locked(postgres_url, schema) as waiting:
            if lease is not None:
                done = threads.submit(drive, saver.leases.release(lease))
            else:
                done = threads.submit(drive, saver.leases.acquire("t1", user_id="default", duration=LONG))
            for _ in range(4):
                until(lambda: bool(waiting(verb)))
                for pid in waiting(verb):
                    killer.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        done.result(20)
        [(epoch, free)] = killer.execute(f"SELECT epoch, run_id IS NULL FROM {schema}.lch_leases").fetchall()
    assert (epoch, free) == (1, verb == GIVING)
    if lease is None:
        drive(saver.leases.release(done.result()))


def test_a_lease_asked_for_twice_is_the_same(saver: Checkpointer) -> None:
    """As when the answer was lost with its connection."""
    agent(saver).invoke(said("zero"), at("zero"))
    lease = Lease("t1", "default", uuid4().hex, LONG, "zero")
    first, second = (drive(saver.leases._ask(lease, "enqueue")) for _ in range(2))
    assert first["granted"] is first["settled"] is True
    assert {**second, "holder": None} == first, "but for who holds it, by now"
    drive(saver.leases.release(lease))


@pytest.mark.parametrize("major", [18, 15])
def test_a_backend_killed_while_it_connects_is_no_failure(
    own_postgres: Callable[..., PostgresServer], major: int
) -> None:
    url = own_postgres(major).url
    starting = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'pg_database'::regclass"
    with open_checkpointer(url) as saver:
        saver.setup()
        agent(saver).invoke(said("zero"), at("zero"))
    with (
        open_checkpointer(url, pool_size=3) as saver,
        psycopg.connect(url) as killer,
        ThreadPoolExecutor(1) as threads,
    ):
        killer.execute("LOCK TABLE pg_catalog.pg_database IN ACCESS EXCLUSIVE MODE")  # which each new backend reads
        turn = threads.submit(agent(saver).invoke, said("one"), at("one"))
        until(lambda: bool(killer.execute(starting).fetchall()))
        killer.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({starting}) AS starting")
        killer.rollback()
        assert texts(turn.result(20)) == ["zero", "to zero", "one", "to one"]


def test_turns_are_taken_once_while_backends_die(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    """Three clients send their turns again until each is acknowledged; their backends are killed all the time."""
    mine = f"chaos {schema}"
    url, over = make_conninfo(postgres_url, application_name=mine), Event()
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s ORDER BY random() LIMIT 1"
    )

    def killing() -> int:
        count = 0
        with psycopg.connect(postgres_url, autocommit=True) as killer:
            while not over.wait(0.02):
                count += killer.execute(kill, (mine,)).rowcount
        return count

    def client(name: str) -> None:
        with open_checkpointer(url, schema=schema, pool_size=4) as own:
            for number in range(5):
                turn = f"{name}{number}"
                while True:
                    try:
                        assert texts(agent(own).invoke(said(turn), at(turn)))[-2:] == [turn, f"to {turn}"]
                    except StoreUnavailableError:
                        continue
                    break

    with ThreadPoolExecutor(4) as threads:
        killer = threads.submit(killing)
        try:
            for done in [threads.submit(client, name) for name in "abc"]:
                done.result(60)
        finally:
            over.set()
        assert killer.result() > 10
    said_once = texts(agent(saver).get_state(at("a0")).values)
    assert sorted(said_once[::2]) == sorted(f"{name}{number}" for name in "abc" for number in range(5))
    assert said_once[1::2] == [f"to {text}" for text in said_once[::2]]
    until(lambda: status(saver) in ("idle", "failed"))
