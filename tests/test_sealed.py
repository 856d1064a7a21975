"""With keys, nothing that a user supplied is readable, and nothing that was moved or altered is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import psycopg
import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.serde.types import INTERRUPT
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.types import interrupt
from typing_extensions import TypedDict

from lc_history.agents.checkpoints.checkpointer import Checkpointer, open_checkpointer
from lc_history.agents.running.graph import resumable
from lc_history.agents.threads import rotation
from lc_history.errors import DecodeError
from lc_history.privacy.keyring import Keyring
from lc_history.rotation import RotationError

KEYS = Keyring({"2026-11": b"\1" * 32}, current="2026-11")


@pytest.fixture
def saver(postgres_url: str, schema: str) -> Iterator[Checkpointer]:
    with open_checkpointer(postgres_url, schema=schema, keys=KEYS) as saver:
        saver.setup()
        yield saver


def at(thread_id: str = "t1", **configurable: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id, **configurable}}


def extend(lines: list[str], more: Any) -> list[str]:
    return [*lines, *(line for some in more for line in some)]


class State(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    short: str
    number: int
    ratio: float
    record: dict[str, Any]
    lines: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=3)]


def work(state: State) -> Any:
    return {
        "messages": [AIMessage("secret-answer")],
        "short": "secret-short",
        "number": 4_111_111_111,
        "ratio": 0.123456789,
        "record": {"secret-key": "secret-value"},
        "lines": ["secret-line"],
    }


def ask(state: State) -> Any:
    return {"short": interrupt("secret-question")}


def fail(state: State) -> Any:
    raise ValueError("secret-error")


def graph(*nodes: Any) -> StateGraph[Any, Any, Any, Any]:
    built = StateGraph(State)
    for number, node in enumerate(nodes):
        built.add_node(f"n{number}", node).add_edge(f"n{number - 1}" if number else START, f"n{number}")
    return built.add_edge(f"n{len(nodes) - 1}", END)


SECRETS = ["secret", "4111111111", "0.123456789"]


def dump(url: str, schema: str) -> str:
    """Return all rows as text, and the bytes of all of them as characters."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'").fetchall()
        texts = []
        for (table,) in tables:
            for row in connection.execute(f"SELECT * FROM {schema}.{table}").fetchall():
                texts += [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in row]
    return "\n".join(texts)


def test_no_planted_secret_is_readable(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    config = {**at(turn_id="turn", note="secret-configurable"), "metadata": {"about": "secret-metadata"}}
    agent = resumable(graph(work, ask).compile(checkpointer=saver))
    agent.invoke({"messages": [("user", "secret-input")], "short": "secret-start"}, config)
    (asked,) = agent.pending()
    assert asked.asked == "secret-question"
    agent.resume("t1", {asked.interrupt_id: "secret-approval"})
    with pytest.raises(ValueError, match="secret-error"):
        resumable(graph(fail).compile(checkpointer=saver)).invoke({"short": "secret-x"}, at("t2"))
    rows = dump(postgres_url, schema)
    assert [secret for secret in SECRETS if secret in rows] == []
    values = agent.get_state(at()).values
    assert (values["short"], values["number"], values["lines"]) == ("secret-approval", 4_111_111_111, ["secret-line"])
    assert "secret-metadata" in {state.metadata.get("about") for state in agent.get_state_history(at())}
    assert [state.metadata["note"] for state in agent.get_state_history(at(), filter={"note": "secret-configurable"})]
    assert not list(agent.get_state_history(at(), filter={"note": "other"}))


def test_the_dump_of_a_plain_checkpointer_shows_them(postgres_url: str, schema: str) -> None:
    with open_checkpointer(postgres_url, schema=schema) as saver:
        saver.setup()
        graph(work).compile(checkpointer=saver).invoke({"short": "x"}, at())
    assert "secret-answer" in dump(postgres_url, schema)


async def test_conforms_when_sealed(saver: Checkpointer) -> None:
    @checkpointer_test(name="sealed")
    async def ours():
        yield saver

    report = (await validate(ours)).to_dict()["results"]
    await saver.aclose()
    assert [(name, result["failures"]) for name, result in report.items() if result["passed"] is not True] == []


ATTACKS = {
    "a value moved to another thread": "UPDATE checkpoint_blobs a SET blob = b.blob, type = b.type "
    "FROM checkpoint_blobs b "
    "WHERE a.thread_id = 't2' AND b.thread_id = 't1' AND a.channel = 'record' AND b.channel = 'record'",
    "a value swapped with another of its thread": "UPDATE checkpoint_blobs a SET blob = b.blob, type = b.type "
    "FROM checkpoint_blobs b WHERE a.thread_id = 't2' AND b.thread_id = 't2' AND a.channel = 'record' "
    "AND b.channel = 'messages'",
    "an older list of messages": "UPDATE checkpoint_blobs a SET blob = b.blob FROM (SELECT blob FROM checkpoint_blobs "
    "WHERE thread_id = 't2' AND channel = 'messages' ORDER BY version LIMIT 1) b "
    "WHERE a.thread_id = 't2' AND a.channel = 'messages'",
    "an altered value": "UPDATE checkpoint_blobs "
    "SET blob = set_byte(blob, length(blob) - 20, get_byte(blob, length(blob) - 20) # 1) "
    "WHERE thread_id = 't2' AND channel = 'record'",
    "a plaintext value": "UPDATE checkpoint_blobs SET blob = '\\x90', type = 'msgpack' WHERE thread_id = 't2' "
    "AND channel = 'record'",
    "a version put back": "UPDATE checkpoints "
    "SET checkpoint = jsonb_set(checkpoint, '{channel_versions,record}', '\"1\"') "
    "WHERE thread_id = 't2'",
    "metadata of another checkpoint": "UPDATE checkpoints a SET metadata = b.metadata FROM checkpoints b "
    "WHERE a.thread_id = 't2' AND b.thread_id = 't1'",
    "plaintext metadata": "UPDATE checkpoints SET metadata = metadata - 'lch_sealed' WHERE thread_id = 't2'",
    "a message of another thread": "UPDATE lch_bodies a SET body = b.body FROM lch_bodies b "
    "WHERE a.thread_id = 't2' AND b.thread_id = 't1'",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_row_that_was_moved_or_altered_is_refused(
    saver: Checkpointer, postgres_url: str, schema: str, attack: str
) -> None:
    agent = graph(work).compile(checkpointer=saver)
    for thread in ("t1", "t2"):
        agent.invoke({"messages": [("user", "hello")]}, at(thread))
    with psycopg.connect(postgres_url, autocommit=True, options=f"-c search_path={schema}") as connection:
        connection.execute(ATTACKS[attack])
    with open_checkpointer(postgres_url, schema=schema, keys=KEYS) as fresh:
        other = graph(work).compile(checkpointer=fresh)
        with pytest.raises(DecodeError, match="'t2'"):
            other.get_state(at("t2"))
        assert len(other.get_state(at("t1")).values["messages"]) == 2


@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET type = 'empty', blob = NULL"])
def test_a_value_does_not_vanish(saver: Checkpointer, postgres_url: str, schema: str, change: str) -> None:
    agent = graph(work).compile(checkpointer=saver)
    agent.invoke({"short": "x"}, at())
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute(change.format(f"{schema}.checkpoint_blobs") + " WHERE channel = 'record'").rowcount
    with pytest.raises(DecodeError, match="a value of record whose row is gone"):
        agent.get_state(at())


def test_a_short_value_cannot_be_planted(saver: Checkpointer, postgres_url: str, schema: str) -> None:
    graph(work).compile(checkpointer=saver).invoke({"short": "x"}, at())
    with psycopg.connect(postgres_url, autocommit=True, options=f"-c search_path={schema}") as connection:
        connection.execute(
            "UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{channel_values,short}', '\"evil\"')"
        )
    assert graph(work).compile(checkpointer=saver).get_state(at()).values["short"] == "secret-short"


def test_a_thread_is_copied_and_goes_on(saver: Checkpointer) -> None:
    agent = graph(work).compile(checkpointer=saver)
    for _ in range(4):
        agent.invoke({"messages": [("user", "hello")]}, at())
    saver.copy_thread("t1", "t2")
    assert agent.get_state(at("t2")).values == agent.get_state(at()).values
    assert len(agent.invoke({"messages": [("user", "more")]}, at("t2"))["messages"]) == 10
    saver.prune(["t1"])
    assert len(agent.get_state(at()).values["lines"]) == 4


@pytest.mark.parametrize("table", ["checkpoint_blobs", "checkpoint_writes"])
def test_a_rotation_seals_nothing_that_was_planted(
    saver: Checkpointer, postgres_url: str, schema: str, table: str
) -> None:
    agent = graph(work, ask).compile(checkpointer=saver)
    agent.invoke({"short": "x"}, at())
    kind, planted = saver.serde.dumps_typed({"secret-key": "planted"})
    with psycopg.connect(postgres_url) as connection:
        plant = f"UPDATE {schema}.{table} SET type = %s, blob = %s WHERE channel = ANY (%s)"
        assert connection.execute(plant, (kind, planted, ["record", INTERRUPT])).rowcount
    saver.keys = Keyring({"2026-11": b"\1" * 32, "2026-12": b"\2" * 32}, current="2026-12")
    assert saver.rotate_keys() > 0
    assert set(saver.rows_per_key()) == {"2026-12", None}
    with open_checkpointer(postgres_url, schema=schema, keys=saver.keys) as rotated, pytest.raises(DecodeError):
        graph(work, ask).compile(checkpointer=rotated).get_state(at())


FLIPPED = "set_byte({0}, length({0}) - 20, get_byte({0}, length({0}) - 20) # 1)"
ALTERATIONS = {
    "checkpoint_blobs": ("blob", FLIPPED.format("blob"), "channel = 'messages'"),
    "checkpoint_writes": ("blob", FLIPPED.format("blob"), "channel = 'messages'"),
    "lch_bodies": ("body", FLIPPED.format("body"), "type <> 'references'"),
    "checkpoints": ("metadata", "jsonb_set(metadata, '{lch_sealed}', to_jsonb(encode("
                    + FLIPPED.format("decode(metadata ->> 'lch_sealed', 'base64')") + ", 'base64')))", "true"),
    "lch_threads": ("title", FLIPPED.format("title"), "true"),
    "lc_history_records": ("body", FLIPPED.format("body"), "true"),
}  # fmt: skip


@pytest.mark.parametrize("table", ALTERATIONS)
def test_a_rotation_passes_by_what_was_altered_and_names_it(
    saver: Checkpointer, postgres_url: str, schema: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "BATCH_ROWS", 2)
    agent = graph(work).compile(checkpointer=saver)
    for thread in ("t1", "t2", "t3"):
        agent.invoke({"messages": [("user", "hello")]}, at(thread))
        saver.threads.rename(thread, "a title")
    column, altered, where = ALTERATIONS[table]
    mine = "stream / 16 = (SELECT id FROM lc_history_sessions WHERE session_id = 't2')"
    which = mine if table == "lc_history_records" else "thread_id = 't2'"
    with psycopg.connect(postgres_url, autocommit=True, options=f"-c search_path={schema}") as connection:
        count = connection.execute(f"UPDATE {table} SET {column} = {altered} WHERE {which} AND {where}").rowcount
        assert count > 0
        kept = connection.execute(f"SELECT {column} FROM {table} WHERE {which} AND {where} ORDER BY 1").fetchall()
        saver.keys = Keyring({"2026-11": b"\1" * 32, "2026-12": b"\2" * 32}, current="2026-12")
        total = sum(saver.rows_per_key().values())
        with pytest.raises(RotationError, match="'t2'") as told:
            saver.rotate_keys()
        assert (len(told.value.refused), told.value.sealed) == (count, total - count)
        assert {one.row.get("thread_id", one.row.get("session")) for one in told.value.refused} == {"t2"}
        assert {one.table for one in told.value.refused} <= {table, "records"}
        again = connection.execute(f"SELECT {column} FROM {table} WHERE {which} AND {where} ORDER BY 1").fetchall()
        assert again == kept, "what was altered stays as it is"
    assert saver.rows_per_key() == {"2026-12": total - count, "2026-11": count}
    with pytest.raises(RotationError) as once_more:
        saver.rotate_keys()
    assert (len(once_more.value.refused), once_more.value.sealed) == (count, 0)


def test_keys_are_rotated_and_plaintext_is_sealed(postgres_url: str, schema: str) -> None:
    with open_checkpointer(postgres_url, schema=schema) as plain:
        plain.setup()
        agent = graph(work, ask).compile(checkpointer=plain)
        agent.invoke({"messages": [("user", "hello")]}, at())
        history = list(agent.get_state_history(at()))
    with open_checkpointer(postgres_url, schema=schema, keys=KEYS) as sealed:
        agent = graph(work, ask).compile(checkpointer=sealed)
        with pytest.raises(DecodeError, match="rotate_keys"):
            agent.get_state(at())
        before = sealed.rows_per_key()
        with pytest.raises(DecodeError, match="seal_plaintext=True"):
            sealed.rotate_keys()
        assert sealed.rows_per_key() == before
        assert sealed.rotate_keys(seal_plaintext=True) == before[None] > 0
        assert sealed.rows_per_key() == {"2026-11": before[None]}
        assert list(agent.get_state_history(at())) == history
    assert [secret for secret in SECRETS if secret in dump(postgres_url, schema)] == []
    both = Keyring({"2026-11": b"\1" * 32, "2026-12": b"\2" * 32}, current="2026-12")
    with open_checkpointer(postgres_url, schema=schema, keys=both) as rotated:
        agent = graph(work, ask).compile(checkpointer=rotated)
        assert rotated.rotate_keys() == before[None]
        assert rotated.rows_per_key() == {"2026-12": before[None]}
        assert list(agent.get_state_history(at())) == history
    with (
        open_checkpointer(postgres_url, schema=schema, keys=KEYS) as lost,
        pytest.raises(DecodeError, match="'2026-12' is missing"),
    ):
        graph(work).compile(checkpointer=lost).get_state(at())
    with open_checkpointer(postgres_url, schema=schema) as without, pytest.raises(DecodeError, match="sealed"):
        graph(work).compile(checkpointer=without).get_state(at())
