"""The checkpointer against LangGraph's conformance tests, and against what a production week does to it."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Annotated, Any
from uuid import uuid4

import psycopg
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.test_utils import generate_checkpoint, generate_metadata
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from typing_extensions import TypedDict

from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.checkpoints.notes import Notes
from lc_history.errors import ColourError, DecodeError, LeaseLostError, PolicyError, StoreError
from lc_history.postgres import Postgres
from tests.doors import BOTH, Door

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["lc_history.agents.running.graph", "langchain.agents"])


class BlockingDoor(BaseCheckpointSaver[str]):
    """Shows the blocking door to a test that knows only the async one."""

    def __init__(self, saver: Checkpointer) -> None:
        super().__init__()
        self._saver = saver
        self.get_next_version = saver.get_next_version

    async def aget_tuple(self, config):
        return self._saver.get_tuple(config)

    async def alist(self, config, **options):
        for found in self._saver.list(config, **options):
            yield found

    async def aput(self, *args):
        return self._saver.put(*args)

    async def aput_writes(self, *args, **options):
        self._saver.put_writes(*args, **options)

    async def adelete_thread(self, thread_id):
        self._saver.delete_thread(thread_id)

    async def adelete_for_runs(self, run_ids):
        self._saver.delete_for_runs(run_ids)

    async def acopy_thread(self, source, target):
        self._saver.copy_thread(source, target)

    async def aprune(self, thread_ids, **options):
        self._saver.prune(thread_ids, **options)


@pytest.mark.parametrize("pgbouncer", [False, True], ids=["pipelined", "pooled"])
@pytest.mark.parametrize("door", ["async", "blocking"])
async def test_conforms_in_all_eight_capabilities(server_url: str, schema: str, door: str, pgbouncer: bool) -> None:
    saver = open_checkpointer(server_url, schema=schema, pgbouncer=pgbouncer)
    await saver.asetup()

    @checkpointer_test(name=f"{door} door")
    async def ours():
        yield saver if door == "async" else BlockingDoor(saver)

    report = (await validate(ours)).to_dict()["results"]
    await asyncio.to_thread(saver.close)
    await saver.aclose()
    assert [name for name, result in report.items() if result["passed"] is not True] == []
    assert len(report) == 8


# Setting up


def set_up(url: str, schema: str) -> int:
    for _ in range(8):
        with open_checkpointer(url, schema=schema, pool_size=2) as saver:
            saver.setup()
    return 8


def test_setup_by_eight_processes_at_once(server_url: str, schema: str) -> None:
    with ProcessPoolExecutor(8, mp_context=processes) as pool:
        assert sum(pool.map(set_up, [server_url] * 8, [schema] * 8)) == 64
    with open_checkpointer(server_url, schema=schema) as saver:
        put(saver, "t1")


def test_the_printed_sql_sets_a_database_up(postgres_url: str, schema: str) -> None:
    with open_checkpointer(postgres_url, schema=schema) as saver:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(saver.sql())
        assert saver.get_tuple(at("t1")) is None
        saver.setup()
        put(saver, "t1")
        assert saver.get_tuple(at("t1")) is not None


def test_a_checkpointer_takes_no_string(postgres_url: str) -> None:
    with pytest.raises(TypeError, match="use open_checkpointer"):
        Checkpointer(postgres_url)  # type: ignore[arg-type]


def test_missing_tables_say_what_to_call(postgres_url: str, schema: str) -> None:
    with open_checkpointer(postgres_url, schema=schema) as saver, pytest.raises(StoreError, match=r"call setup\(\)"):
        saver.get_tuple(at("t1"))


def test_a_pool_without_autocommit_keeps_what_is_written(postgres_url: str, saver: Checkpointer, schema: str) -> None:
    with ConnectionPool(postgres_url, min_size=1) as pool:
        put(Checkpointer(Postgres(pool, schema=schema)), "t1")
    assert saver.get_tuple(at("t1")) is not None


def test_a_closed_checkpointer_says_so(postgres_url: str) -> None:
    saver = open_checkpointer(postgres_url, pool_size=3)
    saver.setup()
    saver.close()
    with pytest.raises(StoreError, match="closed"):
        saver.get_tuple(at("t1"))


async def test_the_wrong_door_says_which(postgres_url: str, saver: Checkpointer, schema: str) -> None:
    with ConnectionPool(postgres_url, min_size=1) as pool, pytest.raises(ColourError, match="async"):
        await Checkpointer(Postgres(pool, schema=schema)).aget_tuple(at("t1"))
    async with AsyncConnectionPool(postgres_url, min_size=1) as async_pool:
        one = Checkpointer(Postgres(async_pool=async_pool, schema=schema))
        assert await one.aget_tuple(at("t1")) is None
        with pytest.raises(ColourError, match="blocking"):
            one.get_tuple(at("t1"))


# Running


async def test_one_object_serves_sync_and_async_graphs(saver: Checkpointer) -> None:
    graph = chat().compile(checkpointer=saver)
    graph.invoke(said("one"), at("t1"))
    state = await graph.ainvoke(said("two"), at("t1"))
    assert [message.text for message in state["messages"]] == ["one", "ONE", "two", "TWO"]
    graph.invoke(said("three"), at("t1"))
    assert len((await graph.aget_state(at("t1"))).values["messages"]) == 6
    await saver.aclose()


def test_many_calls_run_at_once(postgres_url: str, schema: str, saver: Checkpointer) -> None:
    """A pool of 16 serves 16: each call waits for a row that somebody else has locked, and none waits for another."""
    put(saver, "t1")
    with ThreadPoolExecutor(16) as threads:
        with psycopg.connect(postgres_url) as other, psycopg.connect(postgres_url, autocommit=True) as watch:
            other.execute(f"LOCK TABLE {schema}.checkpoints")
            calls = [threads.submit(saver.get_tuple, at("t1")) for _ in range(16)]
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'checkpoint_ns'"
            for _ in range(200):
                if watch.execute(waiting).fetchone() == (16,):
                    break
                watch.execute("SELECT pg_sleep(0.02)")
            assert watch.execute(waiting).fetchone() == (16,)
            other.rollback()
        assert all(call.result() for call in calls)


def test_killed_backends_are_no_failure(postgres_url: str, schema: str) -> None:
    with open_checkpointer(postgres_url, schema=schema, pool_size=4) as saver:
        saver.setup()
        graph = chat().compile(checkpointer=saver)
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda n: graph.invoke(said("one"), at(f"t{n}")), range(4)))
        kill_backends(postgres_url)
        graph.invoke(said("two"), at("t1"))

        def killing(state: MessagesState) -> Any:
            kill_backends(postgres_url)
            return {"messages": [AIMessage("ANSWER")]}

        state = chat(killing).compile(checkpointer=saver).invoke(said("three"), at("t1"), durability="sync")
        assert [message.text for message in state["messages"]][-2:] == ["three", "ANSWER"]
        assert len(graph.get_state(at("t1")).values["messages"]) == 6


def test_a_write_whose_backend_is_killed_again_and_again_is_no_failure(postgres_url: str, schema: str) -> None:
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    with (
        open_checkpointer(postgres_url, schema=schema) as saver,
        psycopg.connect(postgres_url) as other,
        psycopg.connect(postgres_url, autocommit=True) as watch,
        ThreadPoolExecutor(1) as threads,
    ):
        saver.setup()
        graph = chat().compile(checkpointer=saver)
        graph.invoke(said("one"), at("t1"))
        other.execute(f"SELECT FROM {schema}.lch_threads FOR UPDATE")
        run = threads.submit(graph.invoke, said("two"), at("t1"), durability="sync")
        for _ in range(4):
            while not run.done() and watch.execute(waits, (f'%"{schema}".lch_admit%',)).fetchone() == (0,):
                watch.execute("SELECT pg_sleep(0.01)")
            watch.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE wait_event_type = 'Lock' AND query LIKE %s",
                (f'%"{schema}".lch_admit%',),
            )
        other.rollback()
        assert [message.text for message in run.result()["messages"]] == ["one", "ONE", "two", "TWO"]


async def test_killed_backends_are_no_failure_for_async(postgres_url: str, schema: str) -> None:
    async with open_checkpointer(postgres_url, schema=schema, pool_size=4) as saver:
        await saver.asetup()
        graph = chat().compile(checkpointer=saver)
        await asyncio.gather(*(graph.ainvoke(said("one"), at(f"t{n}")) for n in range(4)))
        kill_backends(postgres_url)
        state = await graph.ainvoke(said("two"), at("t1"))
        assert [message.text for message in state["messages"]] == ["one", "ONE", "two", "TWO"]


def test_a_planted_row_builds_nothing(postgres_url: str, schema: str, saver: Checkpointer) -> None:
    import ormsgpack

    graph = chat().compile(checkpointer=saver)
    graph.invoke(said("one"), at("t1"))
    call = ormsgpack.packb(("os", "getenv", "PATH"))
    planted = ormsgpack.packb(ormsgpack.Ext(0, call))
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            f"UPDATE {schema}.checkpoint_blobs SET type = 'msgpack', blob = %s WHERE channel = 'messages'", (planted,)
        )
    with pytest.raises(DecodeError, match=r"os\.getenv"):
        graph.get_state(at("t1"))


# Users


def test_another_users_thread_is_refused_in_every_verb(saver: Checkpointer) -> None:
    ann, bob = at("t1", user_id="ann"), at("t1", user_id="bob")
    graph = chat().compile(checkpointer=saver)
    graph.invoke(said("one"), ann)
    for stranger in (bob, at("t1")):
        for verb in (
            lambda who: graph.invoke(said("two"), who),
            graph.get_state,
            lambda who: list(graph.get_state_history(who)),
            lambda who: graph.update_state(who, said("three")),
            lambda who: saver.put_writes(placed(who), [("messages", "x")], "task"),
        ):
            with pytest.raises(PolicyError, match="another user"):
                verb(stranger)
    first = list(graph.get_state_history(ann))[-1]
    assert graph.get_state(first.config).config == first.config
    assert len(graph.get_state(ann).values["messages"]) == 2


# Deleting, copying, pruning


@pytest.mark.parametrize("late", ["put", "put_writes", "first put"])
def test_a_deleted_thread_stays_deleted(saver: Checkpointer, late: str) -> None:
    graph = chat().compile(checkpointer=saver)
    graph.invoke(said("one"), at("t1"))
    begun = saver.get_tuple(at("t1")).config
    saver.delete_thread("t1")
    same = {**generate_checkpoint(), "id": begun["configurable"]["checkpoint_id"]}
    writes = {
        "put": lambda: saver.put(begun, generate_checkpoint(), generate_metadata(), {}),
        "put_writes": lambda: saver.put_writes(begun, [("messages", "late")], "task"),
        "first put": lambda: saver.put(at("t1"), same, {}, {}),
    }
    with pytest.raises(LeaseLostError, match="was deleted"):
        writes[late]()
    assert saver.get_tuple(at("t1")) is None
    assert list(saver.list(at("t1"))) == []


def test_a_deleted_thread_can_begin_again(saver: Checkpointer) -> None:
    graph = chat().compile(checkpointer=saver)
    graph.invoke(said("one"), at("t1", user_id="ann"))
    saver.delete_thread("t1")
    state = graph.invoke(said("new"), at("t1", user_id="bob"))
    assert [message.text for message in state["messages"]] == ["new", "NEW"]


def test_a_thread_that_keeps_only_changes_is_pruned_and_copied(saver: Checkpointer) -> None:
    graph = log().compile(checkpointer=saver)
    for number in range(7):
        graph.invoke({"lines": [f"{number}"]}, at("t1"))
    lines = graph.get_state(at("t1")).values["lines"]
    assert len(lines) == 14
    before = len(list(saver.list(at("t1"))))
    saver.copy_thread("t1", "t2")
    saver.prune(["t1"])
    assert len(list(saver.list(at("t1")))) < before / 2
    for thread in ("t1", "t2"):
        assert graph.get_state(at(thread)).values["lines"] == lines
        graph.invoke({"lines": ["more"]}, at(thread))
        assert graph.get_state(at(thread)).values["lines"] == [*lines, "more", "MORE"]
    assert len(next(graph.get_state_history(at("t2"))).values["lines"]) == 16


async def test_pruning_changes_through_the_async_door(saver: Checkpointer) -> None:
    graph = log().compile(checkpointer=saver)
    for number in range(5):
        await graph.ainvoke({"lines": [f"{number}"]}, at("t1"))
    lines = (await graph.aget_state(at("t1"))).values["lines"]
    await saver.aprune(["t1"])
    assert (await graph.aget_state(at("t1"))).values["lines"] == lines
    await saver.aclose()


def test_deleting_a_run_joins_what_stays(saver: Checkpointer) -> None:
    graph = chat().compile(checkpointer=saver)
    runs = [uuid4() for _ in range(3)]
    for number, run in enumerate(runs):
        graph.invoke(said(f"{number}"), {**at("t1"), "metadata": {"run_id": str(run)}})
    saver.delete_for_runs([str(runs[1])])
    history = list(graph.get_state_history(at("t1")))
    assert {state.metadata["run_id"] for state in history} == {str(runs[0]), str(runs[2])}
    parents = [state.parent_config["configurable"]["checkpoint_id"] for state in history[:-1]]
    assert parents == [state.config["configurable"]["checkpoint_id"] for state in history[1:]]


def test_one_name_is_not_taken_for_a_list_of_letters(saver: Checkpointer) -> None:
    for remove in (saver.prune, saver.delete_for_runs):
        with pytest.raises(TypeError, match=r"must be a list .*, not 't1': put one alone in brackets"):
            remove("t1")
    with pytest.raises(TypeError, match="allow must be a list of type"):
        open_checkpointer("postgresql://nowhere", allow=Checkpointer)


def test_deleting_a_run_that_later_ones_are_rebuilt_from_is_refused(saver: Checkpointer) -> None:
    graph = log().compile(checkpointer=saver)
    graph.invoke({"lines": ["a"]}, {**at("t1"), "metadata": {"run_id": "one"}})
    graph.invoke({"lines": ["b"]}, {**at("t1"), "metadata": {"run_id": "two"}})
    with pytest.raises(PolicyError, match="rebuilt"):
        saver.delete_for_runs(["one"])
    assert graph.get_state(at("t1")).values["lines"] == ["a", "A", "b", "B"]
    saver.delete_for_runs(["two"])
    assert graph.get_state(at("t1")).values["lines"] == ["a", "A"]


@pytest.mark.parametrize("count", [1, 32, 33, 100])
@pytest.mark.parametrize("door", ["blocking", "async"])
async def test_writes_of_any_number_are_kept_in_order(saver: Checkpointer, count: int, door: str) -> None:
    where, writes = put(saver, uuid4().hex), [("messages", AIMessage(str(n), id=str(n))) for n in range(count)]
    if door == "blocking":
        saver.put_writes(where, writes, "task")
    else:
        await saver.aput_writes(where, writes, "task")
    found = saver.get_tuple(where)
    assert found is not None
    assert [(channel, value) for _, channel, value in found.pending_writes or ()] == writes
    if door == "async":
        await saver.aclose()


@pytest.mark.parametrize("count", [2, 100])
def test_writes_of_any_number_are_refused_as_a_whole(saver: Checkpointer, count: int) -> None:
    where = put(saver, uuid4().hex)
    stranger: RunnableConfig = {"configurable": {**where["configurable"], "user_id": "eve"}}
    with pytest.raises(PolicyError):
        saver.put_writes(stranger, [("messages", "x")] * count, "task")
    found = saver.get_tuple(where)
    assert found is not None
    assert not found.pending_writes


def test_of_what_a_task_writes_once_the_last_stands(saver: Checkpointer) -> None:
    where = put(saver, uuid4().hex)
    saver.put_writes(where, [("__error__", "first"), ("__error__", "last")], "task")
    found = saver.get_tuple(where)
    assert found is not None
    assert found.pending_writes == [("task", "__error__", "last")]


def at(thread_id: str, **configurable: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **configurable}}


def placed(config: RunnableConfig) -> RunnableConfig:
    return {"configurable": {**config["configurable"], "checkpoint_id": generate_checkpoint()["id"]}}


def put(saver: Checkpointer, thread_id: str) -> RunnableConfig:
    return saver.put(at(thread_id), generate_checkpoint(), generate_metadata(), {})


def said(text: str) -> Any:
    return {"messages": [("user", text)]}


def answer(state: MessagesState) -> Any:
    return {"messages": [AIMessage(state["messages"][-1].text.upper())]}


def chat(node: Any = answer) -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(MessagesState).add_node("answer", node).add_edge(START, "answer").add_edge("answer", END)


def extend(lines: list[str], more: Sequence[list[str]]) -> list[str]:
    return [*lines, *(line for some in more for line in some)]


class Log(TypedDict):
    lines: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=5)]


def log() -> StateGraph[Any, Any, Any, Any]:
    def shout(state: Log) -> Any:
        return {"lines": [state["lines"][-1].upper()]}

    return StateGraph(Log).add_node("shout", shout).add_edge(START, "shout").add_edge("shout", END)


def kill_backends(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND application_name = 'lc-history'"
        )


@pytest.mark.parametrize("value", ["nul \0", float("inf"), "whole", 1.5])
def test_a_short_value_that_json_cannot_hold_comes_back(saver: Checkpointer, value: Any) -> None:
    class State(TypedDict):
        value: Any

    graph = StateGraph(State).add_node("keep", lambda state: state).add_edge(START, "keep").compile(checkpointer=saver)
    graph.invoke({"value": value}, at("t1"))
    assert graph.get_state(at("t1")).values == {"value": value}


@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
def test_the_owner_sees_a_subgraph_that_waits(saver: Checkpointer, door: Door) -> None:
    inner = StateGraph(MessagesState).add_node("ask", lambda _: {"messages": interrupt("sure?")}).add_edge(START, "ask")
    graph = StateGraph(MessagesState).add_node("inner", inner.compile()).add_edge(START, "inner")
    agent = graph.compile(checkpointer=saver)
    agent.invoke(said("hello"), at("t1", user_id="ann"))
    state = door.call(agent, "get_state", at("t1", user_id="ann"), subgraphs=True)
    assert [one.value for one in state.tasks[0].state.interrupts] == ["sure?"]
    where = agent.get_state(at("t1", user_id="ann")).tasks[0].state
    assert agent.get_state(where).next == ("ask",)
    with pytest.raises(PolicyError):
        agent.get_state({"configurable": {**where["configurable"], "user_id": "bob"}})


def test_a_saver_that_writes_otherwise_is_refused_in_words() -> None:
    notes = Notes()
    notes.execute("MERGE INTO checkpoints USING ...", ["t1"])
    with pytest.raises(StoreError, match="nothing was written; upgrade lc-history"):
        notes.statement("1", "")
