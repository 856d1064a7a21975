"""Two stores as one: the contract, and moves that are overtaken, interrupted at every step, and killed."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from itertools import count
from typing import ClassVar
from uuid import uuid4

import pytest

from lc_history.bridge import drive
from lc_history.errors import ConflictError, StoreError, StoreUnavailableError, TooLargeError
from lc_history.model import LANES, Entry, Expiry, SessionKey, Slice
from lc_history.stores.memory import MemoryStore
from lc_history.stores.tiered import Archiver, TieredStore
from lc_history.stores.tiered.copies import copied
from lc_history.testing import StoreContract
from lc_history.testing.contract.appends import Appends
from lc_history.testing.contract.bodies import Bodies
from lc_history.testing.contract.concurrency import Concurrency
from lc_history.testing.contract.erasure import Erasure
from lc_history.testing.contract.expiry import Expiries
from lc_history.testing.contract.listing import Listings
from lc_history.testing.contract.moves import Moves
from lc_history.testing.contract.naming import Names
from lc_history.testing.contract.reads import Reads
from tests.archiving_process import (
    IDLE,
    PROCESSES,
    archive_until_killed,
    held_up_before_the_hot_store_deletes,
    open_tiered,
)

NOW = timedelta(hours=-1)
"""An idle time after which every session is to be moved."""
VERBS = ("append", "read", "replace", "delete", "describe", "described", "sessions", "scan", "load")
KEY = SessionKey("ann", "s1")


def in_memory(kind=MemoryStore):
    return TieredStore(hot=kind(), cold=kind())


def move_all(store):
    return Archiver(store, idle=NOW).run_once()


def entries(*names):
    return [Entry(name, f"said {name}".encode()) for name in names]


class TestTieredInMemory(StoreContract):
    processes = 0

    @pytest.fixture
    def open_store(self):
        only = in_memory()
        return lambda: only


class Restless(TieredStore):
    """Moves every session away before each verb, so that every verb finds it in the cold store."""

    def _resting(self, info):
        return info  # the contract asks for what was set

    async def _move(self):
        await Archiver(self, idle=NOW).arun_once()


def _restless(name):
    verb = getattr(TieredStore, name)

    @wraps(verb)
    async def after_a_move(self, *args, **kwargs):
        await self._move()
        return await verb(self, *args, **kwargs)

    return after_a_move


for _name in VERBS:
    setattr(Restless, _name, _restless(_name))


class TestEveryVerbOnAnArchivedSession(
    Appends, Reads, Erasure, Moves, Expiries, Listings, Names, Bodies, Concurrency
):  # without random histories, which know nothing of moves that change the version
    processes = 0
    xfails: ClassVar = {
        "test_archived_or_not": "what rests in the cold store is listed as archived, whatever was set",
        **dict.fromkeys(
            (
                "test_describe_changes_what_is_given",
                "test_replace_wants_the_expected_body",
                "test_same_id_keeps_number_and_first_content",
                "test_version_grows_with_every_change",
                "test_a_living_session_is_replaced_only_knowingly",
            ),
            "a move is a change of the version",
        ),
    }

    @pytest.fixture
    def open_store(self):
        only = Restless(hot=MemoryStore(), cold=MemoryStore())
        return lambda: only


@pytest.fixture(scope="module")
def open_real(redis_url, postgres_url):
    opener = partial(open_tiered, redis_url, postgres_url, f"tiered-{uuid4().hex[:8]}")
    store = opener()
    drive(store.migrate())
    drive(store.close())
    return opener


class TestRedisAndPostgres(StoreContract):
    examples = 5  # in memory there are more

    @pytest.fixture
    def open_store(self, open_real):
        return open_real


class Killed(BaseException):
    pass


class Steps:
    """Counts the calls of both stores, and does something in between two of them."""

    def __init__(self):
        self.number, self.at, self.action = 0, -1, None

    async def next(self):
        number, self.number = self.number, self.number + 1
        if number == self.at:
            await self.action()


class Stepped(MemoryStore):
    steps: Steps


def _stepped(name):
    verb = getattr(MemoryStore, name)

    async def after_a_step(self, *args, **kwargs):
        await self.steps.next()
        return await verb(self, *args, **kwargs)

    return after_a_step


for _name in VERBS:
    setattr(Stepped, _name, _stepped(_name))


async def a_turn(store):
    await store.append(KEY, entries("c", "d"))


async def an_erasure(store):
    await store.delete(KEY)


async def a_trim(store):
    await store.delete(KEY, through=1)


async def a_replacement(store):
    await store.replace(KEY, 2, b"redacted", expected=b"said b")


async def a_name(store):
    await store.describe(KEY, description=b"named")


async def a_side_record(store):
    await store.append(KEY, entries("y"), lane="audit")


async def a_turn_that_begins_a_life(store):
    await store.append(KEY, entries("c", "d"), expiry=Expiry(timedelta(hours=1)))


async def a_turn_that_shortens_a_life(store):
    await store.append(KEY, entries("c", "d"), expiry=Expiry(timedelta(minutes=1), sliding=True))


async def an_end(store):
    await store.describe(KEY, expires_at=datetime.now(UTC) + timedelta(minutes=30))


async def a_move(store):
    await Archiver(store, idle=NOW).arun_once()


def moved_after(action):
    async def action_and_move(store):
        await action(store)
        await a_move(store)

    return action_and_move


CHANGES = (
    a_turn,
    a_turn_that_begins_a_life,
    a_turn_that_shortens_a_life,
    an_end,
    a_trim,
    a_replacement,
    a_name,
    a_side_record,
)
MOVED = {each: pytest.param(moved_after(each), id=f"{each.__name__}, moved") for each in CHANGES}
ACTIONS = (*CHANGES, an_erasure, a_move, MOVED[a_turn])
BEGINNINGS = ("hot", "archived", "back", "without messages")


def begun(how):
    """Return a store with a session, and what counts its steps."""
    store = in_memory(Stepped)
    steps = store.hot.steps = store.cold.steps = Steps()
    if how != "without messages":
        drive(store.append(KEY, entries("a", "b")))
    drive(store.append(KEY, entries("x"), lane="audit"))
    drive(store.describe(KEY, description=b"title"))
    if how == "archived":
        move_all(store)
        assert drive(store.hot.describe(KEY)) is None
    if how == "back":
        move_all(store)
        drive(store.append(KEY, entries("z")))
        assert drive(store.cold.describe(KEY)) is not None
    steps.number = 0
    return store, steps


def ends(info):
    """Return when a session ends, to within what a test takes."""
    return info.expires_at and round((info.expires_at - datetime.now(UTC)) / timedelta(minutes=10))


def seen(store):
    """Return everything that can be read of the session."""
    hot, cold = drive(store.hot.describe(KEY)), drive(store.cold.describe(KEY))
    if hot and cold and hot.expires_at:
        assert cold.expires_at is not None
        assert cold.expires_at <= hot.expires_at, "the copy outlives the session"
    info = drive(store.describe(KEY))
    listed = [(each.count, each.last_seq) for each in drive(store.sessions("ann")).items]
    if info is None:
        assert not any(drive(store.read(KEY, lane=lane)).records for lane in LANES)
        assert listed == []
        return None
    assert listed == [(info.count, info.last_seq)]
    lanes = {lane: drive(store.read(KEY, lane=lane)).records for lane in LANES}
    records = {lane: [(each.seq, each.id, each.body) for each in found] for lane, found in lanes.items()}
    assert info.count == len(records["messages"])
    return info.description, ends(info), records


def after(how, *actions):
    store, _ = begun(how)
    for action in actions:
        drive(action(store))
    return seen(store)


@pytest.mark.parametrize("how", BEGINNINGS)
@pytest.mark.parametrize("second", [*CHANGES, an_erasure, a_move, *MOVED.values()])
@pytest.mark.parametrize("first", ACTIONS)
def test_whatever_comes_in_between(first, second, how):
    """One action between any two steps of another: as if one had come after the other."""
    allowed = [after(how, first, second), after(how, second, first)]
    for at in count():
        store, steps = begun(how)
        steps.at, steps.action = at, partial(second, store)
        drive(first(store))
        if steps.number <= at:
            break
        for moved in (False, True):
            assert seen(store) in allowed, f"step {at}, moved again: {moved}"
            move_all(store)


@pytest.mark.parametrize("how", BEGINNINGS)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_reader_sees_what_was_or_what_is(action, how):
    """One action between any two steps of a read, and a read between any two of an action's."""

    async def read(store):
        slices = [await store.read(KEY, lane=lane) for lane in ("messages", "audit")]
        return [[(each.seq, each.id, each.body) for each in found.records] for found in slices]

    store, _ = begun(how)
    was = drive(read(store))
    drive(action(store))
    now = drive(read(store))
    allowed = list(zip(was, now, strict=True))
    for at in count():
        store, steps = begun(how)
        steps.at, steps.action = at, partial(action, store)
        found = drive(read(store))
        if steps.number <= at:
            break
        assert all(lane in either for lane, either in zip(found, allowed, strict=True)), f"step {at} of the read"
    for at in count():
        store, steps = begun(how)

        async def look(store=store, at=at):
            found = await read(store)
            assert all(lane in either for lane, either in zip(found, allowed, strict=True)), f"step {at} of the action"

        steps.at, steps.action = at, look
        drive(action(store))
        if steps.number <= at:
            break


@pytest.mark.parametrize("how", BEGINNINGS)
@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_any_step(action, how):
    """What is killed between two steps has happened or not, and can be done again."""
    before, done = after(how), after(how, action)

    async def kill():
        raise Killed

    for at in count():
        store, steps = begun(how)
        steps.at, steps.action = at, kill
        with suppress(Killed):
            drive(action(store))
        if steps.number <= at:
            break
        steps.at = -1
        assert seen(store) in (before, done), f"step {at}"
        drive(action(store))
        assert seen(store) == done, f"step {at}"
        move_all(store)
        assert seen(store) == done, f"step {at}"
        drive(store.append(KEY, entries("e")))
        assert move_all(store).failures == {}


@pytest.mark.parametrize("how", BEGINNINGS)
def test_an_erasure_killed_at_any_step_within_a_move_holds_nobody_up(how):
    """Whatever it leaves, the next turn is stored at once, and moved."""
    before, left = after(how), []

    async def kill():
        raise Killed

    for begun_at in count():
        for killed_at in count():
            store, steps = begun(how)

            async def erase(store=store, steps=steps, killed_at=killed_at):
                begun_with = steps.number
                steps.at, steps.action = steps.number + killed_at, kill
                with suppress(Killed):
                    await store.delete(KEY)
                steps.at, steps.killed = -1, steps.number - begun_with > killed_at

            steps.at, steps.action, steps.killed = begun_at, erase, False
            move_all(store)
            number, steps.at = steps.number, -1
            if not steps.killed:
                break
            left.append(seen(store))
            assert left[-1] in (before, None), f"erased at {begun_at}, killed at {killed_at}"
            if left[-1] is None and before is not None:
                with pytest.raises(ConflictError, match="erased"):
                    drive(store.append(KEY, entries("late"), not_erased_since=len(before[2]["messages"])))
            drive(store.append(KEY, entries("e")))
            said = [record.id for record in drive(store.read(KEY)).records]
            was = [name for _, name, _ in before[2]["messages"]] if left[-1] else []
            assert said == [*was, "e"], f"erased at {begun_at}, killed at {killed_at}"
            if left[-1] is None:
                assert move_all(store).moved == 1, f"erased at {begun_at}, killed at {killed_at}"
        if number <= begun_at:
            break
    assert None in left


@pytest.mark.parametrize("how", BEGINNINGS)
def test_two_erasures_at_once_do_not_keep_the_next_conversation_from_being_moved(how):
    for at in count():
        store, steps = begun(how)
        steps.at, steps.action = at, partial(store.delete, KEY)
        drive(store.delete(KEY))
        steps.at, number = -1, steps.number
        drive(store.append(KEY, entries("e")))
        assert move_all(store).moved == 1, f"step {at}"
        assert [record.id for record in drive(store.read(KEY)).records] == ["e"]
        if number <= at:
            break


def test_what_is_deleted_or_redacted_stays_in_no_copy():
    store = in_memory()
    drive(store.append(KEY, entries("a", "b", "c")))
    move_all(store)
    drive(store.append(KEY, entries("d")))
    drive(store.delete(KEY, through=1))
    drive(store.replace(KEY, 2, b"redacted", expected=b"said b"))
    assert [each.body for each in drive(store.cold.read(KEY)).records] == [b"redacted", b"said c"]
    drive(store.delete(KEY))
    for tier in (store.hot, store.cold):
        assert drive(tier.read(KEY)).records == []
        assert drive(tier.describe(KEY)) is None


def listed(store, limit, **options):
    """Return the names and flags of all pages; everything may change between two of them through ``between``."""
    between, found, cursor = options.pop("between", lambda: None), [], None
    while True:
        page = drive(store.sessions("ann", limit=limit, cursor=cursor, **options))
        found += [(info.key.session_id, info.archived) for info in page.items]
        cursor = page.cursor
        if cursor is None:
            return found
        between()


def scattered():
    """Return a store with twelve sessions, every third one in the cold store, and one that came back from it."""
    store = in_memory()
    for number in range(12):
        drive(store.append(SessionKey("ann", f"s{number}"), entries("a")))
        if number % 3 == 0:
            copy = drive(copied(store.hot, SessionKey("ann", f"s{number}")))
            drive(store.cold.load(copy))
            drive(store.hot.delete(copy.info.key, moved_version=copy.info.version))
    drive(store.append(SessionKey("ann", "s0"), entries("b")))
    return store


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 50])
def test_one_listing_of_both_stores(limit):
    store = scattered()
    expected = [("s0", False), *((f"s{number}", number % 3 == 0) for number in range(11, 0, -1))]
    assert listed(store, limit) == expected
    assert listed(store, limit, archived=True) == [each for each in expected if each[1]]
    assert listed(store, limit, archived=False) == [each for each in expected if not each[1]]
    scanned, cursor = [], None
    while True:
        page = drive(store.scan(limit=limit, cursor=cursor))
        scanned += [info.key.session_id for info in page.items]
        cursor = page.cursor
        if cursor is None:
            break
    assert scanned == [name for name, _ in reversed(expected)]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_listing_while_everything_is_moved(limit):
    store = scattered()
    names = [name for name, _ in listed(store, limit, between=lambda: move_all(store))]
    assert names == ["s0", *(f"s{number}" for number in range(11, 0, -1))]


def test_a_life_goes_with_the_session():
    store = in_memory()
    drive(store.append(KEY, entries("a"), expiry=Expiry(timedelta(hours=1))))
    ends = drive(store.describe(KEY)).expires_at
    move_all(store)
    assert drive(store.describe(KEY)).expires_at == drive(store.cold.describe(KEY)).expires_at == ends
    drive(store.append(KEY, entries("b")))
    assert drive(store.describe(KEY)).expires_at == drive(store.hot.describe(KEY)).expires_at == ends


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("sliding", [False, True])
def test_a_life_that_begins_later_ends_in_both_stores(back, sliding):
    store = in_memory()
    drive(store.append(KEY, entries("a")))
    move_all(store)
    if back:
        drive(store.append(KEY, entries("c")))
    drive(store.append(KEY, entries("b"), expiry=Expiry(timedelta(milliseconds=30), sliding=sliding)))
    time.sleep(0.05)
    assert drive(store.describe(KEY)) is None
    assert drive(store.read(KEY)) == Slice()
    assert listed(store, 10) == []


def test_a_turn_of_a_session_with_a_life_does_not_ask_the_cold_store():
    store, expiries = in_memory(Stepped), [Expiry(timedelta(hours=1), sliding=sliding) for sliding in (False, True)]
    store.hot.steps, store.cold.steps = Steps(), Steps()
    for number, expiry in enumerate(expiries):
        key = SessionKey("ann", str(number))
        drive(store.append(key, entries("a"), expiry=expiry))
        move_all(store)
        drive(store.append(key, entries("b"), expiry=expiry))
        store.hot.steps.number = store.cold.steps.number = 0
        drive(store.append(key, entries("c"), expiry=expiry))
        assert (store.hot.steps.number, store.cold.steps.number) == (1, 0)


def test_a_session_that_ended_in_the_cold_store_begins_anew():
    store = in_memory()
    drive(store.append(KEY, entries("a"), expiry=Expiry(timedelta(milliseconds=30))))
    move_all(store)
    time.sleep(0.05)
    assert drive(store.read(KEY)) == Slice()
    appended = drive(store.append(KEY, entries("b")))
    assert (appended.created, appended.new) == (True, (True,))
    assert [record.id for record in drive(store.read(KEY)).records] == ["b"]


class Failing(MemoryStore):
    """Fails for one session, or altogether."""

    failure: Exception | None = None
    drops = False

    async def load(self, copy, **options):
        if self.failure and copy.info.key == KEY:
            raise self.failure
        if not self.drops:
            await super().load(copy, **options)


def test_what_cannot_be_moved_is_reported_and_stays():
    store = TieredStore(hot=MemoryStore(), cold=Failing())
    for key in (KEY, SessionKey("ann", "s2")):
        drive(store.append(key, entries("a")))
    store.cold.failure, so_far = TooLargeError("too large"), []
    report = Archiver(store, idle=NOW, progress=lambda report: so_far.append((report.seen, report.idle))).run_once()
    assert (report.moved, report.bytes, report.failures) == (1, len(b"said a"), {KEY: store.cold.failure})
    assert so_far == [(0, 2), (1, 2), (2, 2)]
    assert [record.id for record in drive(store.hot.read(KEY)).records] == ["a"]


def test_what_does_not_read_back_stays():
    store = TieredStore(hot=MemoryStore(), cold=Failing())
    drive(store.append(KEY, entries("a")))
    store.cold.drops = True
    assert isinstance(move_all(store).failures[KEY], StoreError)
    assert [record.id for record in drive(store.read(KEY)).records] == ["a"]


def test_a_store_that_is_away_ends_a_pass_and_not_the_worker():
    store = TieredStore(hot=MemoryStore(), cold=Failing())
    drive(store.append(KEY, entries("a")))
    store.cold.failure = StoreUnavailableError("away")
    passes = Archiver(store, idle=NOW).run_every(timedelta(0))
    assert next(passes).interrupted is store.cold.failure
    store.cold.failure = None
    report = next(passes)
    assert (report.moved, report.interrupted) == (1, None)
    passes.close()


def test_only_what_is_idle_is_moved():
    store = in_memory()
    drive(store.append(KEY, entries("a")))
    assert Archiver(store, idle=timedelta(minutes=30)).run_once().moved == 0
    assert drive(store.hot.describe(KEY)) is not None


def test_a_redaction_killed_halfway_and_asked_for_again_stays_in_no_copy():
    store, steps = begun("archived")
    drive(store.append(KEY, entries("c")))
    redact = partial(store.replace, KEY, 2, b"redacted", expected=b"said b")

    async def kill():
        raise Killed

    for at in count():
        steps.number, steps.at, steps.action = 0, at, kill
        with suppress(Killed):
            drive(redact())
        if steps.number <= at:
            break
    steps.at = -1
    for tier in (store.hot, store.cold):
        assert [each.body for each in drive(tier.read(KEY)).records][1] == b"redacted"


@pytest.mark.parametrize("door", ["async", "blocking"])
async def test_both_servers_restart_in_mid_conversation(own_redis, own_postgres, door):
    servers = (own_redis(durable=True), own_postgres())
    store = open_tiered(*(server.url for server in servers), "restarting")
    await store.migrate()

    async def call(verb, *args):
        return await (verb(*args) if door == "async" else asyncio.to_thread(drive, verb(*args)))

    for turn in range(8):
        appended = await call(store.append, KEY, entries(f"{turn}/q", f"{turn}/a"))
        assert appended.seqs == (2 * turn + 1, 2 * turn + 2)
        servers[turn % 2].restart()
        if turn % 4 > 1:
            assert (await call(Archiver(store, idle=NOW).arun_once)).moved == 1
            servers[turn % 2].restart()
        assert [record.seq for record in (await call(store.read, KEY)).records] == list(range(1, 2 * turn + 3))
        assert [info.archived for info in (await call(store.sessions, "ann")).items] == [turn % 4 > 1]
    await call(store.close)
    await store.close()


class HeldUp:
    """A process that moves or erases a session, up to the instant at which the hot store is to delete it."""

    def __init__(self, open_store, key, work):
        self.pipe, end = PROCESSES.Pipe()
        arguments = (open_store, key, work, end)
        self.process = PROCESSES.Process(target=held_up_before_the_hot_store_deletes, args=arguments, daemon=True)
        self.process.start()
        end.close()
        assert self.pipe.recv_bytes() == b"there"

    def go_on(self):
        self.pipe.send_bytes(b"go on")
        assert self.pipe.recv_bytes() == b"done"
        self.process.join()

    def kill(self):
        self.process.kill()
        self.process.join()


@pytest.mark.parametrize("other", ["killed as well", "goes on"])
def test_an_erasure_killed_right_before_the_hot_store_holds_nobody_up(open_real, other):
    """The hot store remembers the session as moved then, and the cold one as erased."""
    store, key = open_real(), SessionKey(f"held-up-{uuid4().hex}", "s1")
    drive(store.append(key, entries("a", "b")))
    move = HeldUp(open_real, key, "move")
    erasures = [HeldUp(open_real, key, "erase") for _ in range(2)]
    erasures[0].kill()
    if other == "killed as well":
        erasures[1].kill()
    move.go_on()
    if other == "goes on":
        erasures[1].go_on()
    assert drive(store.read(key)).records == []
    with pytest.raises(ConflictError, match="erased"):
        drive(store.append(key, entries("late"), not_erased_since=2))
    assert drive(store.append(key, entries("c", "d"))).created
    assert [record.id for record in drive(store.read(key)).records] == ["c", "d"]
    assert Archiver(store, idle=timedelta(0)).run_once().failures == {}
    assert drive(store.hot.describe(key)) is None
    assert [record.id for record in drive(store.read(key)).records] == ["c", "d"]
    drive(store.close())


class Workers:
    """Two processes that archive; one of them is killed again and again, at any moment of its work."""

    def __init__(self, open_store):
        self.open_store, self.processes = open_store, []

    def start(self):
        receiver, sender = PROCESSES.Pipe(duplex=False)
        process = PROCESSES.Process(target=archive_until_killed, args=(self.open_store, sender), daemon=True)
        process.start()
        sender.close()
        self.processes.append((process, receiver))

    def kill_one(self):
        process, receiver = self.processes.pop(0)
        for _ in range(random.randrange(1, 6)):  # it is at work
            receiver.recv_bytes()
        time.sleep(random.uniform(0, 0.004))
        process.kill()
        process.join()
        receiver.close()

    def drain(self):
        for _, receiver in self.processes:
            while receiver.poll():
                receiver.recv_bytes()


def write_until(store, keys, writer, stop, acknowledged):
    """Append turns to sessions at random, and again, with the same ids, what was not acknowledged."""
    for number in count():
        if stop.is_set():
            return
        key = random.choice(keys)
        turn = entries(*(f"{writer}.{number}/{part}" for part in range(3)))
        for attempts_left in reversed(range(50)):
            try:
                appended = drive(store.append(key, turn))
                break
            except (ConflictError, StoreUnavailableError):
                if not attempts_left:
                    raise
        acknowledged.append((key, turn, appended))
        time.sleep(random.uniform(0, 0.01))


def test_fifty_killed_workers_lose_and_double_nothing(open_real):
    store, stop = open_real(), threading.Event()
    keys = [SessionKey(f"killed-{uuid4().hex}", f"s{number}") for number in range(8)]
    acknowledged = []
    writers = [
        threading.Thread(target=write_until, args=(store, keys, f"w{number}", stop, acknowledged))
        for number in range(2)
    ]
    workers = Workers(open_real)
    workers.start()
    for writer in writers:
        writer.start()
    try:
        for _ in range(50):
            workers.start()
            workers.drain()
            workers.kill_one()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
        workers.kill_one()

    assert len(acknowledged) > 100
    for moved in (False, True):
        told = {}
        for key, turn, appended in acknowledged:
            told.setdefault(key, {}).update(zip((entry.id for entry in turn), appended.seqs, strict=True))
        for key, numbers in told.items():
            records = drive(store.read(key)).records
            assert {record.id: record.seq for record in records} == numbers
            assert [record.seq for record in records] == list(range(1, len(numbers) + 1))
            assert all(record.body == f"said {record.id}".encode() for record in records)
        if not moved:
            time.sleep(IDLE.total_seconds() * 2)
            assert Archiver(store, idle=IDLE).run_once().failures == {}
            assert all(drive(store.hot.describe(key)) is None for key in keys)
    drive(store.close())


class MovedAndBack(MemoryStore):
    """A hot store whose session is moved away right before a turn, and brought back right after its refusal."""

    rivals = 0

    async def append(self, key, entries, *, create=True, **options):
        if not create or not self.rivals:
            return await super().append(key, entries, create=create, **options)
        self.rivals -= 1
        await Archiver(self.tiered, idle=NOW).arun_once()
        try:
            return await super().append(key, entries, create=create, **options)
        except ConflictError:
            await self.tiered._bring_back(key)
            raise


def test_a_turn_is_not_refused_because_of_a_move_that_is_undone():
    hot = MovedAndBack()
    hot.tiered = store = TieredStore(hot=hot, cold=MemoryStore())
    drive(store.append(KEY, entries("a")))
    move_all(store)
    hot.rivals = 1
    assert drive(store.append(KEY, entries("b"))).seqs == (2,)
    assert [record.id for record in drive(store.read(KEY)).records] == ["a", "b"]
