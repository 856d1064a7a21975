"""The words of a thread are a transcript that ChatHistories lists: kept with the checkpoints, each exactly once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from operator import add
from pathlib import Path
from typing import Annotated, Any, Literal

import psycopg
import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, _messages_delta_reducer
from langgraph.types import Overwrite
from typing_extensions import TypedDict

from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.effects.ledger import ToolLedger
from lc_history.agents.offline import OfflineToolModel
from lc_history.agents.running.graph import resumable
from lc_history.errors import DecodeError
from lc_history.histories import ChatHistories
from lc_history.privacy.keyring import Keyring
from lc_history.stores.postgres import PostgresStore
from tests.doors import BOTH, Door
from tests.processes import forked

KEYS = Keyring({"k": b"\1" * 32}, current="k")


@pytest.fixture
def histories(postgres_url: str, schema: str) -> Iterator[ChatHistories]:
    with ChatHistories(PostgresStore.from_url(postgres_url, schema=schema)) as histories:
        yield histories


def at(thread_id: str = "t1", **configurable: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, **configurable}}


def said(text: str, **more: Any) -> Any:
    return {"messages": [HumanMessage(text, **more)]}


def texts(history: Any) -> list[str]:
    return [message.text for message in history.messages]


def texts_of(state: Any) -> list[str]:
    return [message.text for message in state.values["messages"]]


def answer(state: MessagesState) -> Any:
    text = state["messages"][-1].text
    if text == "forget":
        return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), AIMessage("forgotten")]}
    if text == "overwrite":
        return {"messages": Overwrite([AIMessage("overwritten")])}
    return {"messages": [AIMessage("to " + text)]}


def chat(saver: Checkpointer, node: Any = answer) -> Any:
    graph = StateGraph(MessagesState).add_node("answer", node).add_edge(START, "answer").add_edge("answer", END)
    return resumable(graph.compile(checkpointer=saver))


class Changing(TypedDict):
    """Most checkpoints hold no messages, only what led to them."""

    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=7)]


class ChangingLog(TypedDict):
    """The same under another name, beside what is no message."""

    log: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=7)]
    steps: Annotated[list[str], DeltaChannel(lambda lines, more: lines + [one for some in more for one in some])]


def logging(saver: Checkpointer) -> Any:
    graph = StateGraph(ChangingLog).add_node("answer", answer_in_log).add_edge(START, "answer")
    return resumable(graph.compile(checkpointer=saver))


def answer_in_log(state: Any) -> Any:
    return {"log": [AIMessage(f"to {state['log'][-1].text}")], "steps": ["answered"]}


def changing(saver: Checkpointer, **nodes: Any) -> Any:
    graph = StateGraph(Changing)
    for name, node in (nodes or {"answer": lambda state: answer(state)}).items():  # noqa: PLW0108 - its state is another
        graph.add_node(name, node).add_edge(START, name)
    return resumable(graph.compile(checkpointer=saver))


class Concatenated(TypedDict):
    messages: Annotated[list[Any], add]


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"sun in {city}"


@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
def test_an_agents_words_are_its_transcript(saver: Checkpointer, histories: ChatHistories, door: Door) -> None:
    agent = resumable(create_agent(OfflineToolModel(), [weather], checkpointer=saver))
    for number in range(2):
        config = at(user_id="ann", turn_id=f"turn-{number}")
        for _ in range(2):  # a client's retry is the same turn
            door.call(agent, "invoke", said(f"weather in Rome {number}?"), config)
    state = saver.get_tuple(at(user_id="ann"))
    assert state is not None
    kept = state.checkpoint["channel_values"]["messages"]
    assert [message.type for message in kept] == ["human", "ai", "tool", "ai"] * 2
    assert histories.session("t1", user_id="ann").messages == kept
    assert [session.session_id for session in histories.sessions("ann").items] == ["t1"]
    assert histories.sessions("bob").items == []
    assert histories.session("t1").messages == []


def test_what_the_state_drops_was_said_all_the_same(saver: Checkpointer, histories: ChatHistories) -> None:
    agent, history = chat(saver), histories.session("t1")
    for text in ("one", "forget", "two", "overwrite"):
        agent.invoke(said(text), at())
    saver.prune(["t1"])
    everything = ["one", "to one", "forget", "forgotten", "two", "to two", "overwrite", "overwritten"]
    assert texts(history) == everything
    summary = HumanMessage("they talked", additional_kwargs={"lc_source": "summarization"})
    agent.update_state(at(), {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), summary]})
    assert texts(history) == everything


@tool(response_format="content_and_artifact")
def fetch(name: str) -> tuple[str, Any]:
    """Fetch a document."""
    return f"fetched {name}", [Document(name), Path(name)]


def test_what_json_cannot_hold_stays_in_the_state_and_is_told_in_the_transcript(
    saver: Checkpointer, histories: ChatHistories
) -> None:
    agent = resumable(create_agent(OfflineToolModel(), [fetch], checkpointer=saver, middleware=[ToolLedger()]))
    agent.invoke(said("fetch tea"), at())
    kept = agent.get_state(at()).values["messages"][2].artifact
    assert kept == [Document("tea").model_dump(), Path("tea")], "as LangGraph reads it in any process"
    told = histories.session("t1", user_id="default").messages[2].artifact
    assert (told[0]["page_content"], told[1]) == ("tea", repr(Path("tea")))
    assert len(agent.invoke(said("fetch coffee"), at())["messages"]) == 8


class Stamped(AIMessage):
    """A message that has something more than LangChain's, and a type of its own."""

    type: Literal["stamped"] = "stamped"  # type: ignore[assignment]
    stamp: int = 0


class Bell(BaseMessage):
    """A message that is none of LangChain's."""

    type: Literal["bell"] = "bell"


def test_messages_of_other_classes_stay_in_the_state_and_are_told_as_langchains(
    postgres_url: str, schema: str, histories: ChatHistories
) -> None:
    given = [Stamped("x", stamp=1, name="ann", id="1", note="n"), Bell("ring", id="2")]
    graph = StateGraph(MessagesState).add_node("end", lambda _: {}).add_edge(START, "end")
    with open_checkpointer(postgres_url, schema=schema, allow=[Stamped, Bell]) as saver:
        saver.setup()
        made = graph.compile(checkpointer=saver)
        made.invoke({"messages": given}, at())
        assert made.get_state(at()).values["messages"] == given
    told = [AIMessage("x", name="ann", id="1", note="n"), ChatMessage("ring", role="bell", id="2")]
    assert histories.session("t1", user_id="default").messages == told


def test_a_branch_adds_what_is_new_in_it(saver: Checkpointer, histories: ChatHistories) -> None:
    agent = chat(saver)
    agent.invoke(said("one"), at())
    agent.invoke(said("two"), at())
    first = next(state for state in agent.get_state_history(at()) if state.next == () and len(texts_of(state)) == 2)
    agent.invoke(said("other"), first.config)
    expected = ["one", "to one", "two", "to two", "other", "to other"]
    assert texts(histories.session("t1")) == expected


def test_another_process_goes_on_and_nothing_erased_comes_back(
    saver: Checkpointer, histories: ChatHistories, postgres_url: str, schema: str
) -> None:
    chat(saver).invoke(said("one"), at())
    histories.session("t1").clear()
    with open_checkpointer(postgres_url, schema=schema) as other:
        state = other.get_tuple(at())
        assert state is not None
        with open_checkpointer(postgres_url, schema=schema) as third:  # has read nothing, and is given what to write
            checkpoint = {**state.checkpoint, "id": str(state.checkpoint["id"]).replace("-6", "-7", 1)}
            third.put(state.config, checkpoint, state.metadata, state.checkpoint["channel_versions"])
        chat(other).invoke(said("two"), at())
    assert texts(histories.session("t1")) == ["two", "to two"]


def test_messages_that_are_there_already_and_new_ones_come_together(
    saver: Checkpointer, histories: ChatHistories
) -> None:
    history = histories.session("t1")
    history.add_messages([HumanMessage("one", id="1"), AIMessage("two", id="2")])
    given = [HumanMessage("one", id="1"), AIMessage("two", id="2"), HumanMessage("three", id="3")]
    chat(saver).invoke({"messages": given}, at())
    assert texts(history) == ["one", "two", "three", "to three"]
    many = [HumanMessage(str(number)) for number in range(50)]
    chat(saver).invoke({"messages": many}, at("t2"))
    assert texts(histories.session("t2")) == [*map(str, range(50)), "to 49"]


def test_messages_without_ids_are_said_once(saver: Checkpointer, histories: ChatHistories) -> None:
    graph = StateGraph(Concatenated).add_node("answer", lambda _: {"messages": [AIMessage("yes")]})
    agent = graph.add_edge(START, "answer").add_edge("answer", END).compile(checkpointer=saver)
    for _ in range(2):
        agent.invoke(said("sure?"), at())
    assert texts(histories.session("t1")) == ["sure?", "yes", "sure?", "yes"]


@pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "sealed"])
@pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)
@pytest.mark.parametrize(("make", "channel"), [(changing, "messages"), (logging, "log")])
def test_words_that_are_kept_as_changes_are_said_with_each_checkpoint(
    postgres_url: str, schema: str, door: Door, keys: Keyring | None, make: Any, channel: str
) -> None:
    expected = []
    for number in range(7):  # each time in another process, as far as what is remembered goes
        with (
            open_checkpointer(postgres_url, schema=schema, keys=keys) as saver,
            ChatHistories.open(postgres_url, schema=schema, keys=keys) as histories,
        ):
            saver.setup()
            agent, history = make(saver), histories.session("t1")
            door.call(agent, "invoke", {channel: [HumanMessage(f"{number}")]}, at())
            expected += [f"{number}", f"to {number}"]
            assert texts(history) == expected
            door.call(agent, "invoke", {channel: [HumanMessage(f"{number}, again")]}, at())
            expected += [f"{number}, again", f"to {number}, again"]
            assert texts(history) == expected
            agent.update_state(at(), {channel: [AIMessage("by hand")]}, as_node="answer")
            assert texts(history) == [*expected, "by hand"]
            if number == 3:
                history.clear()  # and nothing of it comes back with the next whole value
                expected = []
            else:
                expected.append("by hand")


def test_changes_that_a_killed_step_has_left_are_said_when_it_is_finished(
    saver: Checkpointer, histories: ChatHistories, postgres_url: str, schema: str
) -> None:
    ready = []

    def fails_once(_: Any) -> Any:
        if not ready:
            raise RuntimeError
        return {"messages": [AIMessage("later")]}

    def finishes(_: Any) -> Any:
        return {"messages": [AIMessage("at once")]}

    with pytest.raises(RuntimeError):
        changing(saver, finishes=finishes, fails_once=fails_once).invoke(said("go"), at())
    ready.append(True)
    with open_checkpointer(postgres_url, schema=schema) as other:
        changing(other, finishes=finishes, fails_once=fails_once).invoke(None, at())
    assert sorted(texts(histories.session("t1"))) == ["at once", "go", "later"]


@pytest.mark.parametrize("keys", [None, KEYS], ids=["plain", "sealed"])
@pytest.mark.parametrize(("make", "channel"), [(chat, "messages"), (changing, "messages"), (logging, "log")])
def test_a_fork_begins_with_what_was_said_by_then(
    postgres_url: str, schema: str, make: Any, keys: Keyring | None, channel: str
) -> None:
    with (
        open_checkpointer(postgres_url, schema=schema, keys=keys) as saver,
        ChatHistories.open(postgres_url, schema=schema, keys=keys) as histories,
    ):
        saver.setup()
        agent = make(saver)
        for text in ("one", "two", "three"):
            agent.invoke({channel: [HumanMessage(text)]}, at(user_id="ann"))
        second = next(
            state
            for state in agent.get_state_history(at(user_id="ann"))
            if len(state.values[channel]) == 4 and not state.next
        ).config["configurable"]["checkpoint_id"]
        saver.threads.fork("t1", "t2", checkpoint_id=second, user_id="ann")
        saver.copy_thread("t1", "t3")
    two, three = ["one", "to one", "two", "to two"], ["three", "to three"]
    with (
        open_checkpointer(postgres_url, schema=schema, keys=keys) as other,
        ChatHistories.open(postgres_url, schema=schema, keys=keys) as histories,
    ):
        words = {name: histories.session(name, user_id="ann") for name in ("t1", "t2", "t3")}
        assert {name: texts(history) for name, history in words.items()} == {
            "t1": two + three,
            "t2": two,
            "t3": two + three,
        }
        make(other).invoke({channel: [HumanMessage("else")]}, at("t2", user_id="ann"))
        assert texts(words["t2"]) == [*two, "else", "to else"]
        assert texts(words["t1"]) == two + three
        assert [message.id for message in words["t2"].messages][:4] == [m.id for m in words["t1"].messages][:4]


def test_a_deleted_thread_takes_its_words_along(saver: Checkpointer, histories: ChatHistories) -> None:
    agent = chat(saver)
    for thread, user in (("t1", "ann"), ("t2", "ann")):
        agent.invoke(said("one"), at(thread, user_id=user))
    histories.session("t1").add_messages([HumanMessage("of another user")])
    saver.delete_thread("t1")
    assert histories.session("t1", user_id="ann").messages == []
    assert texts(histories.session("t2", user_id="ann")) == ["one", "to one"]
    assert texts(histories.session("t1")) == ["of another user"]
    agent.invoke(said("anew"), at(user_id="ann"))
    assert texts(histories.session("t1", user_id="ann")) == ["anew", "to anew"]


def test_a_refused_write_says_nothing(saver: Checkpointer, histories: ChatHistories) -> None:
    agent = chat(saver)
    agent.invoke(said("one"), at(user_id="ann"))
    with pytest.raises(Exception, match="another user"):
        agent.invoke(said("mine"), at(user_id="bob"))
    assert histories.sessions("bob").items == []


def test_words_are_sealed(postgres_url: str, schema: str, histories: ChatHistories) -> None:
    with open_checkpointer(postgres_url, schema=schema, keys=KEYS) as sealed:
        sealed.setup()
        chat(sealed).invoke(said("a secret"), at())
    opened = ChatHistories.open(postgres_url, schema=schema, keys=KEYS)
    assert texts(opened.session("t1")) == ["a secret", "to a secret"]
    opened.close()
    with pytest.raises(DecodeError, match="keys="):
        _ = histories.session("t1").messages
    with psycopg.connect(postgres_url) as connection:
        bodies = connection.execute(f"SELECT body FROM {schema}.lc_history_records").fetchall()
    assert bodies
    assert not any(b"secret" in body for (body,) in bodies)


def test_without_a_transcript_nothing_is_kept(postgres_url: str, schema: str, histories: ChatHistories) -> None:
    with open_checkpointer(postgres_url, schema=schema, transcript=False) as saver:
        saver.setup()
        chat(saver).invoke(said("one"), at())
    assert histories.sessions().items == []


def die_in_the_middle(url: str, schema: str) -> None:
    def node(state: MessagesState) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    with open_checkpointer(url, schema=schema) as saver:
        chat(saver, node).invoke(said("one", id="m1"), at(turn_id="turn"))


def test_a_killed_turn_is_said_once(
    saver: Checkpointer, histories: ChatHistories, postgres_url: str, schema: str
) -> None:
    process = forked().Process(target=die_in_the_middle, args=(postgres_url, schema))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert texts(histories.session("t1")) == ["one"]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"UPDATE {schema}.lch_leases SET expires_at = now()")
    chat(saver).invoke(said("one", id="m1"), at(turn_id="turn"))
    assert texts(histories.session("t1")) == ["one", "to one"]


@tool
def open_safe(city: str) -> str:
    """Tell a secret."""
    return f"secret-result of {city}"


def test_rotation_reaches_words_results_and_titles(postgres_url: str, schema: str) -> None:
    with open_checkpointer(postgres_url, schema=schema) as plain:
        plain.setup()
        agent = create_agent(OfflineToolModel(), [open_safe], checkpointer=plain, middleware=[ToolLedger()])
        resumable(agent).invoke(said("open safe in secret-place"), at())
        plain.threads.rename("t1", "secret-title")
    assert b"secret-result" in b"".join(tables(postgres_url, schema))
    with open_checkpointer(postgres_url, schema=schema, keys=KEYS) as sealed:
        count = sealed.rows_per_key()[None]
        assert sealed.rotate_keys(seal_plaintext=True) == count
        assert sealed.rows_per_key() == {"k": count}
        assert b"secret" not in b"".join(tables(postgres_url, schema))
        agent = create_agent(OfflineToolModel(), [open_safe], checkpointer=sealed, middleware=[ToolLedger()])
        resumable(agent).invoke(said("open safe in another secret-place"), at())
        assert b"secret" not in b"".join(tables(postgres_url, schema))
        info = sealed.threads.get("t1")
        assert info is not None
        assert info.title == "secret-title"
    both = Keyring({"k": b"\1" * 32, "l": b"\2" * 32}, current="l")
    with open_checkpointer(postgres_url, schema=schema, keys=both) as rotated:
        rotated.rotate_keys()
        assert list(rotated.rows_per_key()) == ["l"]


def tables(url: str, schema: str) -> list[bytes]:
    """Return the values of all rows of all tables."""
    found = []
    with psycopg.connect(url) as connection:
        for (name,) in connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s", (schema,)
        ).fetchall():
            for row in connection.execute(f"SELECT * FROM {schema}.{name}").fetchall():
                found += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return found
