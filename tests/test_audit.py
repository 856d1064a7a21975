"""Who did what: the trail is one chain under every writer, and nothing happens that it does not tell of."""

from __future__ import annotations

import asyncio
import gc
import json
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from lc_history import (
    AuditTrail,
    ChatHistories,
    InMemoryChatMessageHistory,
    Keyring,
    SessionKey,
    SQLiteChatMessageHistory,
    acting_as,
    with_history,
)
from lc_history.agents import open_checkpointer, resumable
from lc_history.bridge import collect, drive
from lc_history.doctor import examine
from lc_history.errors import DecodeError, PolicyError, StoreUnavailableError
from lc_history.model import Entry, Record, Slice
from lc_history.portable import exported, imported
from lc_history.privacy.actor import acting
from lc_history.privacy.audit import ACTIONS, RIVALS, SLICE
from lc_history.privacy.keyring import bind
from lc_history.rotation import rotate
from lc_history.stores.memory import MemoryStore
from lc_history.stores.sqlite import SQLiteStore
from lc_history.stores.tiered.copies import copied
from lc_history.testing.servers import RedisServer
from lc_history.transcript import Policy
from tests.doors import BOTH, Door

DYNAMODB = "dynamodb_endpoint"
KEY = SessionKey("ann", "s1")
SECRET = "the moon is made of gold"
both_doors = pytest.mark.parametrize("door", BOTH, ids=lambda door: door.name)


@pytest.fixture
def trail() -> AuditTrail:
    return AuditTrail(MemoryStore())


@pytest.fixture
def histories(trail: AuditTrail) -> ChatHistories:
    return ChatHistories.open("memory://", audit=trail)


def told(trail: AuditTrail) -> list[tuple]:
    return [(event.actor, event.action, event.detail) for event in trail.events("s1", user_id="ann")]


@both_doors
def test_every_verb_of_a_history_is_an_event_with_who_did_it_and_no_word_of_it(trail, histories, door: Door) -> None:
    history = histories.session("s1", user_id="ann")
    with acting_as("chat"):
        door.call(history, "append", [HumanMessage(SECRET, id="h1"), AIMessage(SECRET, id="a1")])
    with acting_as("support/kim"):
        door.call(history, "last", 1)
        door.call(history, "describe", title=SECRET, archived=True)
        door.call(history, "clear")
    door.call(history, "page", after=1)
    assert told(trail) == [
        ("chat", "append", {"ids": ["h1", "a1"]}),
        ("support/kim", "read", {"after": 0, "last": 1}),
        ("support/kim", "describe", {"label": True, "archived": True}),
        ("support/kim", "erase", {}),
        (None, "read", {"after": 1}),
    ]
    stored = drive(trail.store.read(KEY, lane="audit")).records
    assert [record.seq for record in stored] == [1, 2, 3, 4, 5]
    assert not any(SECRET.encode() in record.body for record in stored)
    assert door.call(trail, "verify", "s1", user_id="ann").seq == 5


def test_side_records_exports_imports_repairs_and_rotations_are_events(trail) -> None:
    keys = Keyring.generate("2026")
    histories = ChatHistories(MemoryStore(), policy=Policy(keys=keys, audit=trail))
    history = histories.session("s1", user_id="ann")
    history.add_messages([HumanMessage(SECRET, id="h1")])
    drive(history.transcript.note("memory", "n1", {"likes": "tea"}))
    drive(history.transcript.notes("memory"))
    drive(history.transcript.forget("memory"))
    head, *rows = json.loads(json.dumps(drive(collect(exported(history.transcript))), default=str))
    drive(rotate(history.transcript))
    drive(rotate(history.transcript, dry_run=True))
    elsewhere = ChatHistories(MemoryStore(), policy=Policy(keys=keys, audit=trail)).session("s1", user_id="ann")
    drive(imported(head, rows, elsewhere.transcript))
    assert [(action, detail) for _, action, detail in told(trail)] == [
        ("append", {"ids": ["h1"]}),
        ("append", {"lane": "memory", "ids": ["n1"]}),
        ("read", {"lane": "memory"}),
        ("erase", {"lane": "memory"}),
        ("export", {}),
        ("rotate", {"key": "2026"}),
        ("import", {"messages": 1}),
    ]


def test_a_message_set_aside_is_an_event(trail, histories) -> None:
    drive(histories.store.append(KEY, [Entry("bad", b"\xff not JSON")]))
    drive(collect(examine(histories.session("s1", user_id="ann").transcript, set_aside=True)))
    assert ("set_aside", {"seq": 1}) in [(action, detail) for _, action, detail in told(trail)]


def test_forgetting_a_user_leaves_the_trail_and_an_event_for_each_session(trail, histories) -> None:
    for name in ("s1", "s2"):
        histories.session(name, user_id="ann").add_messages([HumanMessage(SECRET)])
    with acting_as("dpo"):
        assert histories.forget("ann") == 2
    for name in ("s1", "s2"):
        *_, last = trail.events(name, user_id="ann")
        assert (last.actor, last.action) == ("dpo", "erase")


def test_a_turn_of_a_chain_names_who_spoke(trail, histories) -> None:
    chat = with_history(FakeListChatModel(responses=["hello"]), histories)
    with acting_as("ann"):
        chat.invoke("I am Ann.", {"configurable": {"session_id": "s1", "user_id": "ann"}})
    assert [(actor, action) for actor, action, _ in told(trail)] == [("ann", "read"), ("ann", "append")]


def test_a_named_history_records_as_the_others_do(trail) -> None:
    history = InMemoryChatMessageHistory("s1", user_id="ann", audit=trail)
    history.add_messages([HumanMessage("hello", id="h1")])
    assert told(trail) == [(None, "append", {"ids": ["h1"]})]


def test_actors_of_tasks_and_threads_do_not_mix(trail, histories) -> None:
    history = histories.session("s1", user_id="ann")

    async def read_as(name: str) -> None:
        with acting_as(name):
            await asyncio.sleep(0)
            await history.alast(1)

    async def all_at_once() -> None:
        await asyncio.gather(*(read_as(f"task/{number}") for number in range(20)))

    asyncio.run(all_at_once())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: drive_as(f"thread/{number}", history), range(20)))
    names = sorted(actor for actor, _, _ in told(trail))
    assert names == sorted([f"task/{n}" for n in range(20)] + [f"thread/{n}" for n in range(20)])


def test_a_stream_is_recorded_under_who_asked_for_it_whoever_reads_or_drops_it(trail, histories) -> None:
    chat = with_history(FakeListChatModel(responses=["hello"]), histories)
    config = {"configurable": {"session_id": "s1", "user_id": "ann"}}
    with acting_as("kim"):
        read, dropped, never_begun = (chat.stream("hi", config) for _ in range(3))
        waited_for = chat.astream("hi", config)
    list(read)
    with acting_as("eve"):
        next(dropped)
        dropped.close()
        asyncio.run(collect(waited_for))
        never_begun.close()
        assert [*chat.stream("hi", config)]
    by_kim = [("kim", "read"), ("kim", "append")]
    assert [(actor, action) for actor, action, _ in told(trail)] == 3 * by_kim + [("eve", "read"), ("eve", "append")]


def test_a_stream_that_the_garbage_collector_closes_is_recorded_under_who_asked_for_it(trail, histories) -> None:
    chat = with_history(FakeListChatModel(responses=["hello"]), histories)
    appended = threading.Event()
    record = trail.store.append

    async def tell(*args, **kwargs):
        placed = await record(*args, **kwargs)
        appended.set()
        return placed

    with acting_as("kim"):
        items = chat.stream("hi", {"configurable": {"session_id": "s1", "user_id": "ann"}})
        next(items)
    trail.store.append = tell
    cycle = [items]
    cycle.append(cycle)
    del items, cycle
    with acting_as("eve"):
        gc.collect()
        assert appended.wait(60)
    assert [(actor, action) for actor, action, _ in told(trail)] == [("kim", "read"), ("kim", "append")]


def test_a_generator_that_ends_in_another_context_takes_nobodys_name_away() -> None:
    def chunks():
        with acting_as("kim"):
            yield acting()

    items = chunks()
    assert copy_context().run(next, items) == "kim"
    with acting_as("eve"):
        items.close()
        assert acting() == "eve"


def drive_as(name: str, history) -> None:
    with acting_as(name):
        history.last(1)


@pytest.fixture(params=["sqlite", "redis", "postgres", "firestore", "dynamodb"])
def url_and_options(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict]:
    """Give a trail of its own on each store."""
    name = tmp_path.name.replace("_", "")[-40:]
    make: dict[str, Callable[[], tuple[str, dict]]] = {
        "sqlite": lambda: (f"sqlite:///{tmp_path / 'trail.sqlite3'}", {}),
        "redis": lambda: (request.getfixturevalue("redis_url"), {"key_prefix": f"audit-{name}"}),
        "postgres": lambda: (request.getfixturevalue("postgres_url"), {"schema": f"audit_{name}"}),
        "firestore": lambda: emulated(request, name),
        "dynamodb": lambda: (
            f"dynamodb://audit-{name}?endpoint_url={request.getfixturevalue('dynamodb_endpoint')}",
            {},
        ),
    }
    return make[request.param]()


def emulated(request: pytest.FixtureRequest, name: str) -> tuple[str, dict]:
    request.getfixturevalue("monkeypatch").setenv("FIRESTORE_EMULATOR_HOST", request.getfixturevalue("firestore_host"))
    return f"firestore://audit-{name}", {}


def test_writers_at_once_make_one_chain_on_every_store(url_and_options) -> None:
    url, options = url_and_options
    with AuditTrail.open(url, keys=Keyring.generate(), **options) as trail:
        trail.migrate()
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda number: trail.record(KEY, "read", {"last": number}), range(30)))
        events = trail.events("s1", user_id="ann")
        assert sorted(event.detail["last"] for event in events) == list(range(30))
        assert trail.verify("s1", user_id="ann").seq == 30
        assert [event.seq for event in trail.events("s1", user_id="ann", last=2)] == [29, 30]


def test_a_crowd_of_one_event_loop_gets_its_events_in(tmp_path: Path) -> None:
    trail, crowd = AuditTrail.open(f"sqlite:///{tmp_path / 'trail.sqlite3'}"), RIVALS + 30

    async def all_at_once() -> None:
        async with trail:
            await asyncio.gather(*(trail.arecord(KEY, "read", {"last": number}) for number in range(crowd)))

    asyncio.run(all_at_once())
    assert trail.verify("s1", user_id="ann").seq == crowd


@pytest.mark.parametrize("verb", ["verify", "events"])
def test_the_event_loop_goes_on_while_a_long_trail_is_read(trail, verb: str) -> None:
    for _ in range(1000):
        trail.record(KEY, "read")

    async def turns_of_another() -> int:
        reading = asyncio.ensure_future(getattr(trail, f"a{verb}")("s1", user_id="ann"))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(turns_of_another()) >= 1000 // SLICE


def altered(records: list[Record]) -> list[Record]:
    body = records[1].body[:-1] + b"!"
    return [records[0], records[1]._replace(body=body), *records[2:]]


def swapped(records: list[Record]) -> list[Record]:
    first, second, *rest = records
    return [first._replace(id=second.id, body=second.body), second._replace(id=first.id, body=first.body), *rest]


TAMPERINGS = {
    "altered": altered,
    "left out in the middle": lambda records: [records[0], *records[2:]],
    "beginning left out": lambda records: records[1:],
    "swapped": swapped,
    "planted at the end": lambda records: [*records, Record(5, "0" * 64, records[0].body, records[0].created_at)],
}


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS)
def test_whatever_is_done_to_a_trail_shows_without_a_key(trail: AuditTrail, tamper) -> None:
    sealing = AuditTrail(trail.store, keys=Keyring.generate()) if tamper is not altered else trail
    for last in range(1, 5):
        sealing.record(KEY, "read", {"last": last})
    assert trail.verify("s1", user_id="ann").seq == 4
    with pytest.raises(DecodeError, match=r"event . in the audit trail of session 's1' of user 'ann'"):
        AuditTrail(rewritten(trail.store, tamper)).verify("s1", user_id="ann")


def rewritten(store: MemoryStore, tamper: Callable[[list[Record]], list[Record]]) -> MemoryStore:
    """Return a store with other events in the trail, as whoever has the database can write them."""
    whole = drive(copied(store, KEY))
    records = tamper(whole.lanes["audit"].records)
    forged, lanes = MemoryStore(), {**whole.lanes, "audit": Slice(records, records[-1].seq)}
    drive(forged.load(replace(whole, lanes=lanes)))
    return forged


def test_what_is_cut_off_at_the_end_shows_by_a_head_that_was_kept(trail) -> None:
    for last in range(1, 4):
        trail.record(KEY, "read", {"last": last})
    known = trail.verify("s1", user_id="ann")
    shorter = AuditTrail(rewritten(trail.store, lambda records: records[:2]))
    assert shorter.verify("s1", user_id="ann").seq == 2
    with pytest.raises(DecodeError, match=r"event 3 .* is missing"):
        shorter.verify("s1", user_id="ann", known=known)
    shorter.record(KEY, "read")
    with pytest.raises(DecodeError, match=r"event 3 .* is not the one that was there"):
        shorter.verify("s1", user_id="ann", known=known)
    trail.record(KEY, "read")
    assert trail.verify("s1", user_id="ann", known=known).seq == 4
    with pytest.raises(DecodeError, match=r"event 3 .* is missing"):
        AuditTrail(MemoryStore()).verify("s1", user_id="ann", known=known)


def test_an_event_cut_off_shows_by_the_stores_own_count(tmp_path: Path) -> None:
    file = tmp_path / "trail.sqlite3"
    with AuditTrail.open(f"sqlite:///{file}") as trail:
        trail.migrate()
        trail.record(KEY, "read")
        trail.record(KEY, "read")
        with closing(sqlite3.connect(file)) as db, db:
            assert db.execute("DELETE FROM records WHERE place = (SELECT max(place) FROM records)").rowcount == 1
        with pytest.raises(DecodeError, match=r"event 2 .* is missing"):
            trail.verify("s1", user_id="ann")


def test_a_trail_verifies_after_its_key_is_gone_and_with_one_refuses_what_was_not_sealed(trail) -> None:
    sealed = AuditTrail(trail.store, keys=Keyring.generate("gone"))
    sealed.record(KEY, "read")
    assert trail.verify("s1", user_id="ann").seq == 1
    with pytest.raises(DecodeError, match=r"event 1 .* is sealed: give keys="):
        trail.events("s1", user_id="ann")
    trail.record(KEY, "erase")  # well chained, by somebody who has no key
    assert trail.verify("s1", user_id="ann").seq == 2
    for verb in (sealed.verify, sealed.events):
        with pytest.raises(DecodeError, match=r"event 2 .* cannot be read: not sealed"):
            verb("s1", user_id="ann")


def test_rotation_and_a_move_by_export_leave_a_trail_whole() -> None:
    store, old = MemoryStore(), Keyring({"old": bytes(range(32))}, current="old")
    trail = AuditTrail(store, keys=old)
    trail.record(KEY, "read")
    trail.record(KEY, "read")
    both = Keyring({"new": bytes(range(32, 64)), "old": bytes(range(32))}, current="new")
    transcript = ChatHistories(store, policy=Policy(keys=both)).session("s1", user_id="ann").transcript
    assert drive(rotate(transcript)) == {"old": 2}
    head, *rows = json.loads(json.dumps(drive(collect(exported(transcript))), default=str))
    moved = ChatHistories(MemoryStore(), policy=Policy(keys=both)).session("s1", user_id="ann").transcript
    drive(imported(head, rows, moved))
    for where in (store, moved.store):
        assert AuditTrail(where, keys=both).verify("s1", user_id="ann").seq == 2


def test_what_cannot_be_recorded_is_not_done(own_redis: Callable[..., RedisServer]) -> None:
    server = own_redis()
    store = MemoryStore()
    history = ChatHistories(store, policy=Policy(audit=AuditTrail.open(server.url))).session("s1", user_id="ann")
    history.add_messages([HumanMessage("hello", id="h1")])
    server.kill()
    for verb in (lambda: history.messages, history.clear, lambda: history.add_messages([HumanMessage("more")])):
        with pytest.raises(StoreUnavailableError):
            verb()
    assert [record.id for record in drive(store.read(KEY)).records] == ["h1"]


class LosesAnswers(MemoryStore):
    """A store whose answer to a first append is lost with the connection, so that the second finds it done."""

    async def append(self, *args, **kwargs):
        await super().append(*args, **kwargs)
        return await super().append(*args, **kwargs)


def test_an_event_whose_answer_was_lost_is_there_once() -> None:
    trail = AuditTrail(LosesAnswers())
    trail.record(KEY, "read")
    trail.record(KEY, "read")
    assert trail.verify("s1", user_id="ann").seq == 2


class EndsUnderTheHand(MemoryStore):
    """A trail that is erased, or expires, between the look at its latest event and the next one."""

    end = None

    async def append(self, key, *args, **kwargs):
        end, self.end = self.end, None
        if end is not None:
            await end(self, key)
        return await super().append(key, *args, **kwargs)


class AlwaysSecond(MemoryStore):
    """A store where somebody else is always first."""

    async def append(self, key, entries, **kwargs):
        await super().append(key, [entry._replace(body=b"{}") for entry in entries], **kwargs)
        return await super().append(key, entries, **kwargs)


def test_a_trail_that_cannot_get_a_word_in_says_so() -> None:
    with pytest.raises(
        StoreUnavailableError, match="read of session 's1' of user 'ann' was not recorded, and not done"
    ):
        AuditTrail(AlwaysSecond()).record(KEY, "read")


def test_a_trail_ends_so_long_after_its_latest_event() -> None:
    trail = AuditTrail(MemoryStore(), ttl=timedelta(days=30))
    trail.record(KEY, "read")
    info = drive(trail.store.describe(KEY))
    assert timedelta(days=29) < info.expires_at - info.created_at <= timedelta(days=30)


def test_only_the_actions_asked_for_are_recorded() -> None:
    trail = AuditTrail(MemoryStore(), actions={"erase"})
    history = ChatHistories.open("memory://", audit=trail).session("s1", user_id="ann")
    history.add_messages([HumanMessage("hello")])
    history.clear()
    assert [event.action for event in trail.events("s1", user_id="ann")] == ["erase"]


def test_unknown_actions_are_refused() -> None:
    with pytest.raises(ValueError, match=f"some of {', '.join(ACTIONS)}, not reed"):
        AuditTrail(MemoryStore(), actions={"reed", "erase"})
    with pytest.raises(ValueError, match="not 'reed'"):
        AuditTrail(MemoryStore()).record(KEY, "reed")
    with pytest.raises(TypeError, match="actions"):
        AuditTrail(MemoryStore(), actions="read")


@pytest.mark.parametrize("actor", ["", None, 7])
def test_nobody_acts_without_a_name(actor) -> None:
    with pytest.raises(ValueError, match="an actor is a name"), acting_as(actor):
        pass


def test_a_trail_in_the_conversations_own_store_is_refused_by_any_name_before_anything_is_done(tmp_path: Path) -> None:
    store, file = MemoryStore(), tmp_path / "chat.sqlite3"
    same = SQLiteStore(f"{tmp_path}/../{tmp_path.name}/{file.name}")
    histories = [
        ChatHistories(store, policy=Policy(audit=AuditTrail(store))).session("s1", user_id="ann"),
        ChatHistories.open(f"sqlite:///{file}", audit=AuditTrail(same)).session("s1", user_id="ann"),
        SQLiteChatMessageHistory("s1", file, user_id="ann", audit=AuditTrail.open(f"sqlite:///{file}")),
    ]
    for history in histories:
        with pytest.raises(PolicyError, match="the audit trail lies in the conversations' own store"):
            history.add_messages([HumanMessage("hello")])
        assert drive(history.transcript.store.read(KEY)).records == []


def test_a_store_is_looked_at_once_for_being_the_trails_own(trail, histories) -> None:
    asked, read = [], histories.store.read

    async def counted(*args, **kwargs):
        asked.append(kwargs.get("lane"))
        return await read(*args, **kwargs)

    histories.store.read = counted
    for _ in range(3):
        histories.session("s1", user_id="ann").last(1)
    assert asked == ["audit", None, None, None]


def test_a_checkpointer_that_would_store_words_unrecorded_is_refused(trail) -> None:
    with pytest.raises(ValueError, match="is not recorded: give audit= to the checkpointer"):
        open_checkpointer("postgresql://nowhere/agents", transcript=Policy(audit=trail))


def test_names_and_ids_that_are_no_unicode_are_recorded(trail, histories) -> None:
    with acting_as("\ud800"):
        histories.session("s1", user_id="ann").add_messages([HumanMessage("x", id="\udfff")])
    assert told(trail) == [("\ud800", "append", {"ids": ["\udfff"]})]


async def erased(store: MemoryStore, key: SessionKey) -> None:
    await store.delete(key)


async def expired(store: MemoryStore, key: SessionKey) -> None:
    await store.describe(key, expires_at=datetime.now(UTC))


async def begun_anew(store: MemoryStore, key: SessionKey) -> None:
    await store.delete(key)
    await AuditTrail(store).arecord(key, "export")


@pytest.mark.parametrize("end", [erased, expired, begun_anew])
def test_a_trail_that_ends_while_an_event_is_written_begins_anew_with_it(end) -> None:
    store = EndsUnderTheHand()
    trail = AuditTrail(store)
    for _ in range(3):
        trail.record(KEY, "read")
    store.end = end
    trail.record(KEY, "erase")
    assert [event.action for event in trail.events("s1", user_id="ann")][-1] == "erase"
    assert trail.verify("s1", user_id="ann").seq < 9


def test_a_trail_that_was_begun_anew_has_not_the_head_that_was_kept(trail) -> None:
    for _ in range(5):
        trail.record(KEY, "read")
    known = trail.verify("s1", user_id="ann")
    drive(trail.store.delete(KEY))
    for _ in range(9):
        trail.record(KEY, "read")
    assert trail.verify("s1", user_id="ann").seq > known.seq
    with pytest.raises(DecodeError, match=r"event 5 .* is missing"):
        trail.verify("s1", user_id="ann", known=known)


def chained_anew(records: list[Record]) -> list[Record]:
    """Alter an event as somebody does who knows how a trail is made."""
    first, *others = altered(records)
    made = [first]
    for record in others:
        made.append(record._replace(id=sha256(bind(made[-1].id) + made[-1].body).hexdigest()))
    return made


def test_one_who_makes_the_chain_anew_is_found_out_by_a_head_or_a_seal() -> None:
    plain, sealed = AuditTrail(MemoryStore()), AuditTrail(MemoryStore(), keys=Keyring.generate())
    for trail in (plain, sealed):
        for last in range(1, 5):
            trail.record(KEY, "read", {"last": last})
    known = plain.verify("s1", user_id="ann")
    forged = AuditTrail(rewritten(plain.store, chained_anew))
    assert forged.verify("s1", user_id="ann").seq == 4
    with pytest.raises(DecodeError, match=r"event 4 .* is not the one that was there"):
        forged.verify("s1", user_id="ann", known=known)
    with pytest.raises(DecodeError, match=r"event 2 .* cannot be read"):
        AuditTrail(rewritten(sealed.store, chained_anew), keys=sealed.keys).verify("s1", user_id="ann")


def test_a_trail_without_events_has_no_head(trail) -> None:
    assert trail.verify("s1", user_id="ann") is None
    assert trail.events("s1", user_id="ann") == []


def ask(state: MessagesState):
    return {"messages": [AIMessage(f"paid: {interrupt('May I?')}")]}


@pytest.fixture
def agent(postgres_url: str, trail: AuditTrail):
    with open_checkpointer(postgres_url, schema=f"audit_{uuid4().hex[:8]}", audit=trail) as saver:
        saver.setup()
        graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)
        yield resumable(graph)


@both_doors
def test_an_agents_trail_tells_who_approved_changed_forked_and_deleted(agent, trail, door: Door) -> None:
    where = {"configurable": {"thread_id": "s1", "user_id": "ann"}}
    threads = agent.checkpointer.threads
    with acting_as("ann"):
        door.call(agent, "invoke", {"messages": "pay 120 to Bob"}, where)
    (question,) = door.call(agent, "pending", user_id="ann")
    with acting_as("manager/lee"):
        door.call(agent, "resume", "s1", {question.interrupt_id: SECRET}, user_id="ann")
    with acting_as("support/kim"):
        door.call(agent, "update_state", where, {"messages": [HumanMessage(SECRET)]})
        door.call(threads, "rename", "s1", SECRET, user_id="ann")
        door.call(threads, "fork", "s1", "s2", user_id="ann")
        door.call(threads, "delete", "s1", user_id="ann")
    assert told(trail) == [
        ("manager/lee", "answer", {"interrupts": [question.interrupt_id]}),
        ("support/kim", "update", {}),
        ("support/kim", "describe", {"label": True}),
        ("support/kim", "fork", {"to": "s2"}),
        ("support/kim", "erase", {}),
    ]
    assert not any(SECRET.encode() in record.body for record in drive(trail.store.read(KEY, lane="audit")).records)


def test_a_trail_in_the_agents_own_tables_is_refused(postgres_url: str) -> None:
    schema = f"audit_{uuid4().hex[:8]}"
    with (
        AuditTrail.open(postgres_url, schema=schema) as trail,
        open_checkpointer(postgres_url, schema=schema, audit=trail) as saver,
    ):
        saver.setup()
        graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").compile(checkpointer=saver)
        resumable(graph).invoke({"messages": "hi"}, {"configurable": {"thread_id": "s1", "user_id": "ann"}})
        with pytest.raises(PolicyError, match="the audit trail lies in the conversations' own store"):
            saver.threads.delete("s1", user_id="ann")
        assert [thread.thread_id for thread in saver.threads.list("ann").items] == ["s1"]


def test_an_answer_that_cannot_be_recorded_is_not_given(agent, trail) -> None:
    where = {"configurable": {"thread_id": "s1", "user_id": "ann"}}
    agent.invoke({"messages": "pay 120 to Bob"}, where)
    agent.checkpointer.audit = AuditTrail(AlwaysSecond())
    with pytest.raises(StoreUnavailableError, match=r"answer .* was not recorded, and not done"):
        agent.invoke(Command(resume={"yes": SECRET}), where)
    assert len(agent.pending(user_id="ann")) == 1
    agent.checkpointer.audit = trail
    assert agent.invoke(Command(resume="yes"), where)["messages"][-1].text == "paid: yes"
    assert told(trail) == [(None, "answer", {})]
