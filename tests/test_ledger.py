from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.types import Command, interrupt

from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.effects.answers import IN_DOUBT, NOT_BEGUN
from lc_history.agents.effects.execution import effect_connection, effect_key
from lc_history.agents.effects.ledger import ToolLedger, once
from lc_history.agents.effects.repair import settle_thread
from lc_history.agents.effects.rows import Attempt, Effect, Effects
from lc_history.agents.running.graph import resumable
from lc_history.bridge import drive
from lc_history.errors import DecodeError, HistoryError, LeaseLostError
from lc_history.privacy.keyring import Keyring
from lc_history.strategies.repair import UNFINISHED, problems
from lc_history.testing.models import StrictChatModel
from tests.processes import forked
from tests.striking_agent import SCHEMA, Marks, agent, direct, run, storing

TWO = "strike a; strike b | strike c"


@pytest.fixture(scope="module")
def url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as loop:
        yield loop


@pytest.fixture(scope="module")
def saver(url: str, loop: asyncio.Runner) -> Iterator[Checkpointer]:
    saver = open_checkpointer(url, schema=SCHEMA)
    saver.setup()
    yield saver
    loop.run(saver.aclose())


Call = Callable[..., Any]


@pytest.fixture(params=["blocking", "async"])
def call(request: pytest.FixtureRequest, loop: asyncio.Runner) -> Call:
    """Call a graph by either door; the async one has one event loop, as a server has."""

    async def waiting(target: Any, verb: str, *args: Any) -> Any:
        return await getattr(target, f"a{verb}")(*args)

    if request.param == "blocking":
        return lambda target, verb, *args: getattr(target, verb)(*args)
    return lambda *args: loop.run(waiting(*args))


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(tmp_path / "marks")


@pytest.fixture
def where() -> Any:
    return {"configurable": {"thread_id": uuid4().hex}}


@pytest.fixture(scope="module")
def processes() -> Any:
    return forked()


def start(processes: Any, url: str, marks: Marks, where: Any, text: str, **options: Any) -> Any:
    arguments = (url, marks.path, where["configurable"]["thread_id"], text, options)
    process = processes.Process(target=run, args=arguments, daemon=True)
    process.start()
    return process


def killed(process: Any) -> None:
    process.join(30)
    assert process.exitcode == -signal.SIGKILL


def resume(agent: Any, where: Any, text: str) -> list[Any]:
    """Go on where the run was killed; or begin, if it had not."""
    state = agent.get_state(where)
    return agent.invoke(None if state.values else {"messages": text}, where)["messages"]


def write_again(agent: Any, where: Any, _text: str) -> list[Any]:
    return agent.invoke({"messages": "and?"}, where)["messages"]


def settle_and_write(agent: Any, where: Any, text: str) -> list[Any]:
    settle_thread(agent, where)
    return write_again(agent, where, text)


def command_again(agent: Any, where: Any, _text: str) -> list[Any]:
    return agent.invoke(Command(update={"messages": [HumanMessage("and?")]}, goto="model"), where)["messages"]


WAYS = [resume, write_again, settle_and_write]


def standings(saver: Checkpointer, where: Any) -> dict[str, tuple[str, str | None]]:
    """Return by the id of each call that waits in the thread what it is to strike, and what the ledger knows of it."""
    messages = agent(saver, Marks(Path())).get_state(where).values["messages"]
    calls = next(message.tool_calls for message in messages if isinstance(message, AIMessage))
    rows = "SELECT tool_call_id, state FROM {schema}lch_effects WHERE thread_id = %s"
    known = dict(drive(saver.database.rows(rows, (where["configurable"]["thread_id"],))))
    return {call["id"]: (call["args"]["label"], known.get(call["id"])) for call in calls}


@pytest.mark.parametrize("durability", ["sync", "async"])
@pytest.mark.parametrize("instant", ["model", "before", "after", "results", "beside"])
@pytest.mark.parametrize("go_on", WAYS)
def test_killed_at_an_instant(
    saver: Checkpointer,
    url: str,
    marks: Marks,
    where: Any,
    processes: Any,
    instant: str,
    durability: str,
    go_on: Callable[..., list[Any]],
) -> None:
    text = "strike quick; strike slow" if instant == "beside" else TWO
    killed(start(processes, url, marks, where, text, instant=instant, durability=durability))
    before = marks.labels()
    known = standings(saver, where) if instant == "results" else {}
    messages = go_on(agent(saver, marks), where, text)
    assert messages[-1].text.startswith("heard: "), "the thread is stuck"
    assert problems(messages) == [] or go_on is write_again
    assert len(marks.labels()) == len(set(marks.labels())), "an effect took place twice"
    if instant == "beside":
        assert sorted(before) == ["quick", "slow"]
        assert "struck quick" in messages[-1].text, "a finished result was lost"
        assert "unknown" in messages[-1].text, "nobody was told of the other"
    if instant == "results":
        finished = storing(marks.path).read_text().split()
        assert finished
        assert {known[call][1] for call in finished} == {"done"}
        # what the ledger has not seen is carried out now, or never was; to settle a thread, it need not have a ledger
        absent = {resume: "struck {}", write_again: NOT_BEGUN, settle_and_write: UNFINISHED}[go_on]
        told = {"done": "struck {}", "started": IN_DOUBT, None: absent}
        heard = [told[state].format(label) for label, state in known.values()] + ["struck c"] * (go_on is resume)
        assert messages[-1].text == "heard: " + ", ".join(heard), "a finished result was lost, or nobody was told"
        assert {label for label, state in known.values() if state == "done"} <= set(before)
        assert not {label for label, state in known.values() if state is None} & set(before)


@pytest.mark.parametrize("instant", ["after", "results", "beside"])
@pytest.mark.parametrize("go_on", [resume, write_again, command_again])
def test_killed_while_it_held_its_thread(
    saver: Checkpointer,
    url: str,
    marks: Marks,
    where: Any,
    processes: Any,
    instant: str,
    go_on: Callable[..., list[Any]],
) -> None:
    text = "strike quick; strike slow" if instant == "beside" else TWO
    killed(start(processes, url, marks, where, text, instant=instant, lease=1))
    messages = go_on(resumable(agent(saver, marks), lease=timedelta(seconds=1)), where, text)
    assert problems(messages) == [], "the thread itself is mended, not only what the model sees"
    assert messages[-1].text.startswith("heard: "), "the thread is stuck"
    assert len(marks.labels()) == len(set(marks.labels())), "an effect took place twice"
    if instant == "beside":
        assert "struck quick" in messages[-1].text, "a finished result was lost"


def test_a_run_that_lost_its_thread_begins_nothing(saver: Checkpointer) -> None:
    effects, thread = Effects(saver.database, saver.serde), uuid4().hex
    mine = drive(saver.leases.acquire(thread, user_id="ann"))
    try:
        assert drive(effects.begin(Effect(thread, "1", "tool", "a"), Attempt("mine", mine.run_id))).state == "begun"
        with pytest.raises(LeaseLostError):
            drive(effects.begin(Effect(thread, "2", "tool", "b"), Attempt("old", "a run before")))
        assert drive(effects.find(thread, ["2"])) == {}
    finally:
        drive(saver.leases.release(mine))


def test_slow_storage_delays_an_effect_until_its_call_is_stored(
    saver: Checkpointer, url: str, marks: Marks, where: Any, processes: Any
) -> None:
    options = {"instant": "after", "durability": "async", "storage": 0.4}
    killed(start(processes, url, marks, where, "strike a", **options))
    messages = resume(agent(saver, marks), where, "strike a")
    assert marks.labels() == ["a"]
    assert "unknown" in messages[-1].text


def test_random_kills(saver: Checkpointer, url: str, tmp_path: Path, processes: Any) -> None:
    chance = random.Random(4)
    twice, stuck, kills = 0, 0, 0
    while kills < 30:
        marks, where = Marks(tmp_path / uuid4().hex), {"configurable": {"thread_id": uuid4().hex}}
        durability = chance.choice(["sync", "async"])
        process = start(processes, url, marks, where, TWO, seconds=0.02, durability=durability)
        while not marks.path.with_name(f"{marks.path.name} begins").exists():
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        messages = WAYS[kills % 3](agent(saver, marks), where, TWO)
        twice += len(marks.labels()) != len(set(marks.labels()))
        stuck += not messages[-1].text.startswith("heard: ")
    assert (twice, stuck) == (0, 0)


@pytest.mark.parametrize("go_on", WAYS)
def test_on_postgresql_15_too(
    postgres15_url: str, marks: Marks, where: Any, processes: Any, go_on: Callable[..., list[Any]]
) -> None:
    with open_checkpointer(postgres15_url, schema=SCHEMA) as saver:
        saver.setup()
        killed(start(processes, postgres15_url, marks, where, TWO, instant="after"))
        assert go_on(agent(saver, marks), where, TWO)[-1].text.startswith("heard: ")
    assert len(marks.labels()) == len(set(marks.labels()))


def in_doubt(url: str, marks: Marks, where: Any, processes: Any) -> None:
    """Leave a thread behind whose effect has taken place, and nobody knows."""
    killed(start(processes, url, marks, where, "strike a", instant="after"))


def test_retry_runs_it_again_with_the_same_key(
    saver: Checkpointer, url: str, marks: Marks, where: Any, processes: Any, call: Call
) -> None:
    in_doubt(url, marks, where, processes)
    messages = call(agent(saver, marks, rules={"strike": "retry"}), "invoke", None, where)["messages"]
    assert messages[-1].text == "heard: struck a"
    assert marks.labels() == ["a", "a"]
    assert len(set(marks.all())) == 1, "the key has changed"


@pytest.mark.parametrize("answer", ["retry", "it arrived"])
def test_ask_lets_a_person_decide(
    saver: Checkpointer, url: str, marks: Marks, where: Any, processes: Any, call: Call, answer: str
) -> None:
    in_doubt(url, marks, where, processes)
    asking = agent(saver, marks, rules={"strike": "ask"})
    [asked] = call(asking, "invoke", None, where)["__interrupt__"]
    assert asked.value["in_doubt"]["args"] == {"label": "a"}
    messages = call(asking, "invoke", Command(resume=answer), where)["messages"]
    assert ("struck a" if answer == "retry" else answer) in messages[-1].text
    assert len(marks.labels()) == (2 if answer == "retry" else 1)


def test_what_was_reported_as_unknown_stays_so(
    saver: Checkpointer, url: str, marks: Marks, where: Any, processes: Any, call: Call
) -> None:
    in_doubt(url, marks, where, processes)
    told = call(agent(saver, marks), "invoke", None, where)["messages"][-2]
    assert (told.status, marks.labels()) == ("error", ["a"])
    asked = next(state for state in agent(saver, marks).get_state_history(where) if state.next == ("tools",))
    again = call(agent(saver, marks, rules={"strike": "retry"}), "invoke", None, asked.config)["messages"][-2]
    assert (again.content, marks.labels()) == (told.content, ["a"])


def test_a_finished_call_is_replayed_also_when_time_is_turned_back(
    saver: Checkpointer, marks: Marks, where: Any, call: Call
) -> None:
    striking = agent(saver, marks)
    first = call(striking, "invoke", {"messages": TWO}, where)["messages"]
    asked = next(state for state in striking.get_state_history(where) if len(state.next) == 2)
    again = call(striking, "invoke", None, asked.config)["messages"]
    assert again[-1].text == first[-1].text
    assert sorted(marks.labels()) == ["a", "b", "c", "c"], "only the second step is asked for in other words"


def bookings(url: str) -> Any:
    import psycopg

    connection = psycopg.connect(url, autocommit=True)
    connection.execute("CREATE TABLE IF NOT EXISTS bookings (label text)")
    return connection


def test_a_transactional_effect_commits_with_its_row_or_not_at_all(
    saver: Checkpointer, url: str, where: Any, call: Call
) -> None:
    fails = [True]
    label = uuid4().hex

    @tool
    def strike(label: str) -> str:
        """Book it."""
        effect_connection().execute("INSERT INTO public.bookings VALUES (%s)", (label,))
        if fails.pop():
            raise RuntimeError("the tool died after its effect")
        return "booked"

    async def astrike(label: str) -> str:
        await effect_connection().execute("INSERT INTO public.bookings VALUES (%s)", (label,))
        if fails.pop():
            raise RuntimeError("the tool died after its effect")
        return "booked"

    strike.coroutine = astrike
    ledger = ToolLedger({"strike": "transactional"})
    booking = create_agent(StrictChatModel(answer=direct), [strike], checkpointer=saver, middleware=[ledger])
    with bookings(url) as watch:
        count = "SELECT count(*) FROM bookings WHERE label = %s"
        with pytest.raises(RuntimeError):
            call(booking, "invoke", {"messages": f"strike {label}"}, where)
        assert watch.execute(count, (label,)).fetchone() == (0,)
        fails[:] = [False]
        assert call(booking, "invoke", None, where)["messages"][-1].text == "heard: booked"
        assert watch.execute(count, (label,)).fetchone() == (1,)


@pytest.mark.parametrize("rule", ["report", "retry", "ask", "transactional"])
def test_a_tool_may_ask_a_person_itself(saver: Checkpointer, where: Any, rule: Any) -> None:
    @tool
    def strike(label: str) -> str:
        """Strike what a person allows."""
        return f"{label}: {interrupt('may I?')}"

    careful = create_agent(
        StrictChatModel(answer=direct), [strike], checkpointer=saver, middleware=[ToolLedger({"strike": rule})]
    )
    assert careful.invoke({"messages": "strike a"}, where)["__interrupt__"][0].value == "may I?"
    assert careful.invoke(Command(resume="yes"), where)["messages"][-1].text == "heard: a: yes"


def test_a_call_id_that_a_server_uses_again_is_another_call(saver: Checkpointer, marks: Marks, where: Any) -> None:
    def numbered(messages: Any) -> AIMessage:
        said = direct(messages)
        return AIMessage(said.content, tool_calls=[{**call, "id": "call_0"} for call in said.tool_calls])

    @tool
    def strike(label: str) -> str:
        """Make a mark."""
        marks.add(label)
        return label

    numbering = create_agent(StrictChatModel(answer=numbered), [strike], checkpointer=saver, middleware=[ToolLedger()])
    numbering.invoke({"messages": "strike a | strike b"}, where)
    assert marks.labels() == ["a", "b"]


def test_an_agent_within_an_agent_keeps_its_effects_in_its_own_namespace(
    saver: Checkpointer, marks: Marks, where: Any, call: Call
) -> None:
    from langgraph.graph import START, MessagesState, StateGraph

    @tool
    def strike(label: str) -> str:
        """Make a mark."""
        marks.add(label)
        return label

    def made(*tools: Any, **options: Any) -> Any:
        return create_agent(StrictChatModel(answer=direct), tools, middleware=[ToolLedger()], **options)

    inner = made(strike)

    @tool("strike")
    def delegate(label: str) -> str:
        """Let another agent strike."""
        return inner.invoke({"messages": f"strike {label}-by-tool"})["messages"][-1].text

    builder = StateGraph(MessagesState).add_node("inner", made(strike)).add_node("outer", made(delegate))
    graph = builder.add_edge(START, "inner").add_edge("inner", "outer").compile(checkpointer=saver)
    call(graph, "invoke", {"messages": "strike a"}, where)
    assert marks.labels() == ["a"], "the outer one sees that it is done"
    outer = made(delegate, checkpointer=saver)
    call(outer, "invoke", {"messages": "strike b"}, {"configurable": {"thread_id": uuid4().hex}})
    assert marks.labels() == ["a", "b-by-tool"]


def test_one_of_many_begins(saver: Checkpointer) -> None:
    from concurrent.futures import ThreadPoolExecutor

    effects, effect = Effects(saver.database, saver.serde), Effect(uuid4().hex, "key", "tool", "call")
    with ThreadPoolExecutor(8) as pool:
        begun = list(pool.map(lambda name: drive(effects.begin(effect, Attempt(str(name)))), range(8)))
    assert sorted(standing.state for standing in begun) == ["begun"] + ["started"] * 7
    winner = next(Attempt(str(name)) for name, standing in enumerate(begun) if standing.state == "begun")
    assert drive(effects.begin(effect, winner)).state == "begun", "sent twice, it answers alike"
    drive(effects.finish(effect, winner, ["done"]))
    drive(effects.finish(effect, winner, ["done"]))
    assert drive(effects.begin(effect, Attempt("late"))).result == ["done"]


def test_with_keys_a_result_is_sealed_to_its_row(saver: Checkpointer) -> None:
    keys = Keyring({"k": bytes(32)}, current="k")
    sealing, plain = Effects(saver.database, saver.serde, keys=keys), Effects(saver.database, saver.serde)
    one, two = Effect(uuid4().hex, "1", "tool", "a"), Effect(uuid4().hex, "2", "tool", "a")
    for effect in (one, two):
        drive(sealing.begin(effect, Attempt("me")))
        drive(sealing.finish(effect, Attempt("me"), "a planted secret"))
    assert drive(sealing.begin(one, Attempt("you"))).result == "a planted secret"
    [(stored,)] = drive(
        saver.database.rows("SELECT result FROM {schema}lch_effects WHERE thread_id = %s", (one.thread_id,))
    )
    assert b"secret" not in bytes(stored)
    with pytest.raises(DecodeError, match="sealed"):
        drive(plain.find(one.thread_id, ["1"]))
    move = "UPDATE {schema}lch_effects SET result = %s WHERE thread_id = %s RETURNING 1"
    drive(saver.database.rows(move, (stored, two.thread_id)))
    with pytest.raises(DecodeError):
        drive(sealing.find(two.thread_id, ["2"]))


def test_who_ends_after_it_was_reported_as_unknown_is_told(saver: Checkpointer) -> None:
    effects, effect = Effects(saver.database, saver.serde), Effect(uuid4().hex, "key", "tool", "call")
    drive(effects.begin(effect, Attempt("slow")))
    drive(effects.give_up(effect.thread_id, effect.key, "unknown"))
    with pytest.raises(LeaseLostError, match="its result was not kept"):
        drive(effects.finish(effect, Attempt("slow"), "done"))


def test_once_for_tasks(saver: Checkpointer, where: Any) -> None:
    charged: list[str] = []
    fails = [True]

    @task
    @once
    def charge(order: str) -> str:
        charged.append(order)
        return effect_key()

    @task
    def ship(order: str) -> str:
        if fails:
            fails.pop()
            raise RuntimeError("no ship")
        return f"shipped {order}"

    @entrypoint(checkpointer=saver)
    def order(name: str) -> list[str]:
        paid = charge(name).result()
        return [paid, ship(name).result()]

    with pytest.raises(RuntimeError):
        order.invoke("tea", where)
    assert order.invoke(None, where)[1] == "shipped tea"
    assert charged == ["tea"]


def test_once_for_nodes_by_a_key_of_their_own(saver: Checkpointer, where: Any, call: Call) -> None:
    from langgraph.graph import START, MessagesState, StateGraph

    charged: list[str] = []

    @once(key=lambda state: state["messages"][0].text)
    def charge(state: MessagesState) -> dict[str, Any]:
        charged.append(state["messages"][0].text)
        return {"messages": [AIMessage("charged")]}

    graph = StateGraph(MessagesState).add_node("charge", charge).add_edge(START, "charge").compile(checkpointer=saver)
    call(graph, "invoke", {"messages": "tea"}, where)
    assert call(graph, "invoke", {"messages": "again"}, where)["messages"][-1].text == "charged"
    assert charged == ["tea"]


def test_a_once_that_died_asks_a_person_and_takes_the_answer_for_its_result(saver: Checkpointer, where: Any) -> None:
    class Died(BaseException):
        """Like a kill: nothing is caught, nothing is completed."""

    @task
    @once
    def charge() -> str:
        raise Died

    @entrypoint(checkpointer=saver)
    def order(_: str) -> str:
        return charge().result()

    with pytest.raises(Died):
        order.invoke("tea", where)
    assert list(order.invoke(None, where)) == ["__interrupt__"]
    assert order.invoke(Command(resume="receipt 7"), where) == "receipt 7"


def test_a_ledger_may_stand_beside_another_checkpointer(saver: Checkpointer, marks: Marks, where: Any) -> None:
    @tool
    def strike(label: str) -> str:
        """Make a mark."""
        marks.add(label)
        return label

    ledger = ToolLedger(postgres=saver.database.postgres)
    beside = create_agent(StrictChatModel(answer=direct), [strike], checkpointer=InMemorySaver(), middleware=[ledger])
    assert beside.invoke({"messages": "strike a"}, where)["messages"][-1].text == "heard: a"
    assert marks.labels() == ["a"]


def test_wrong_settings_are_told_before_any_effect(saver: Checkpointer, marks: Marks, where: Any) -> None:
    with pytest.raises(HistoryError, match='durability="exit"'):
        agent(saver, marks).invoke({"messages": "strike a"}, where, durability="exit")
    with pytest.raises(HistoryError, match="compile the graph with a checkpointer"):
        agent(None, marks).invoke({"messages": "strike a"})
    with pytest.raises(HistoryError, match="InMemorySaver is not open_checkpointer's"):
        agent(InMemorySaver(), marks).invoke({"messages": "strike a"}, where)
    with pytest.raises(ValueError, match="no model to report to"):
        once(rule="report")(print)
    with pytest.raises(LookupError, match="no effect is under way"):
        effect_key()
    assert marks.labels() == []


def test_without_a_transaction_there_is_no_connection(saver: Checkpointer, where: Any) -> None:
    @tool
    def strike(label: str) -> str:
        """Want a connection."""
        effect_connection()
        return label

    graph = create_agent(StrictChatModel(answer=direct), [strike], checkpointer=saver, middleware=[ToolLedger()])
    with pytest.raises(LookupError, match="transactional"):
        graph.invoke({"messages": "strike a"}, where)
