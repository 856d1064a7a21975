"""The contract on SQLite, and what is SQLite's own: the file, its rights, its locks, its damage."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from lc_history import SQLiteChatMessageHistory
from lc_history.bridge import drive
from lc_history.errors import StoreError, StoreUnavailableError
from lc_history.model import LANES, MESSAGES, Entry, Lane, SessionKey
from lc_history.sqlite import MIGRATIONS
from lc_history.stores.sqlite import SQLiteStore
from lc_history.stores.sqlite import rows as sqlite_rows
from lc_history.testing import SideDoor, StoreContract, StoreOpener
from lc_history.testing.races import in_processes, write_turns_apart

KEY, KEY_OF_FORKED = SessionKey("ann", "s1"), SessionKey("default", "s1")
HELLO = [Entry("a", b"hello")]
SOON = timedelta(milliseconds=100)


class RawSQLite:
    """Reads and damages the rows of a file, with SQL of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def _sessions(self, key: SessionKey) -> list[tuple[int, bytes]]:
        names = (name.encode("utf-8", "surrogatepass") for name in (key.user_id, key.session_id))
        return self._execute("SELECT id, description FROM sessions WHERE user_id = ? AND session_id = ?", *names)

    def raw_records(self, key: SessionKey) -> list[bytes]:
        values = []
        for id_, description in self._sessions(key):
            values.append(description)
            for pair in self._execute("SELECT id, body FROM records WHERE place >> 34 = ?", id_):
                values += pair
        return values

    def corrupt(self, key: SessionKey, seq: int, *, lane: Lane = MESSAGES) -> None:
        ((id_, _),) = self._sessions(key)
        place = (id_ << 4 | LANES.index(lane)) << 30 | seq
        self._execute("UPDATE records SET body = CAST(x'00ff' || substr(body, 2) AS BLOB) WHERE place = ?", place)


class TestSQLiteStore(StoreContract):
    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("sqlite") / "chat.db"

    @pytest.fixture(scope="class")
    @classmethod
    def open_store(cls, path: Path) -> StoreOpener:
        return partial(SQLiteStore, path)

    @pytest.fixture(scope="class")
    @classmethod
    def side_door(cls, path: Path) -> SideDoor:
        return RawSQLite(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "chat.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    store = SQLiteStore(path, busy_timeout=SOON)
    yield store
    drive(store.close())


def test_nothing_is_made_before_the_first_use(path, store):
    assert not path.parent.exists()
    assert drive(store.read(KEY)).records == []
    assert path.stat().st_mode & 0o777 == 0o600, "a conversation is its owner's"
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///chat.db", "chat.db"),
        ("sqlite:///folder/chat.db", "folder/chat.db"),
        ("sqlite:////var/chat.db", "/var/chat.db"),
        ("sqlite:///a%20b/100%25.db", "a b/100%.db"),
    ],
)
def test_url(url, expected):
    assert SQLiteStore.from_url(url).path == Path(expected)


@pytest.mark.parametrize("url", ["sqlite://host/chat.db", "sqlite:///chat.db?mode=ro", "chat.db", "sqlite3:///chat.db"])
def test_url_that_is_none(url):
    with pytest.raises(ValueError, match="sqlite:///relative"):
        SQLiteStore.from_url(url)


@pytest.mark.parametrize("url", ["sqlite:///:memory:", "sqlite:///", "sqlite://"])
def test_memory_is_another_store(url):
    with pytest.raises(ValueError, match="memory://"):
        SQLiteStore.from_url(url)


def test_locked_by_another(path, store):
    drive(store.append(KEY, HELLO))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert drive(store.read(KEY)).last_seq == 1, "a reader does not wait for a writer"
        begun = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"locked by another process for 0\.1 seconds"):
            drive(store.append(KEY, [Entry("b", b"")]))
        assert time.monotonic() - begun < 2
        other.execute("ROLLBACK")
    assert drive(store.append(KEY, [Entry("b", b"")])).seqs == (2,)


def test_written_by_a_newer_version(path, store):
    drive(store.append(KEY, HELLO))
    drive(store.close())
    with closing(sqlite3.connect(path)) as newer:
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match=r"schema version 2, .* upgrade lc-history"):
        drive(store.read(KEY))


def test_another_programs_database_is_left_alone(path, store):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE accounts (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        drive(store.append(KEY, HELLO))
    assert path.read_bytes() == before


def test_no_database_at_all(path, store):
    path.parent.mkdir()
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(StoreError, match="no SQLite database") as refused:
        drive(store.append(KEY, HELLO))
    assert isinstance(refused.value.__cause__, sqlite3.DatabaseError)
    assert path.read_bytes().startswith(b"Dear diary")


def test_a_damaged_page_is_told(path, store):
    for number in range(20):
        drive(store.append(KEY, [Entry(f"m{number}", bytes([number]) * 3000)]))
    drive(store.close())
    pages = path.read_bytes()
    place = pages.index(bytes([10]) * 3000)
    path.write_bytes(pages[: place - 300] + b"\xff" * 600 + pages[place + 300 :])
    with pytest.raises(StoreError, match=r"damaged|as it is"):
        drive(store.read(KEY))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="choose another path"):
        drive(SQLiteStore(tmp_path / "file" / "chat.db").read(KEY))
    with pytest.raises(StoreError, match="choose another path"):
        drive(SQLiteStore(tmp_path).append(KEY, HELLO))


def test_a_file_that_may_not_be_written(path, store):
    drive(store.append(KEY, HELLO))
    drive(store.close())
    for place, mode in ((path, 0o444), (path.parent, 0o555), *((place, 0o755) for place in path.parents[1:4])):
        place.chmod(mode)
    program = f"""if True:
        import os
        from lc_history.bridge import drive
        from lc_history.errors import StoreError
        from lc_history.model import Entry, SessionKey
        from lc_history.stores.sqlite import SQLiteStore

        if os.getuid() == 0:  # root may write anything
            os.setuid(65534)
        try:
            drive(SQLiteStore({str(path)!r}).append(SessionKey("ann", "s1"), [Entry("b", b"")]))
        except StoreError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    path.parent.chmod(0o755)
    assert "mend the rights" in done.stdout


def test_first_use_by_eight_processes_at_once(tmp_path):
    for attempt in range(8):
        open_store = partial(SQLiteStore, tmp_path / f"{attempt}.db")
        for writer in in_processes(8, write_turns_apart, open_store, "blocking", KEY, turns=1, attempts=1):
            writer.result()
        assert len(drive(open_store().read(KEY)).records) == 24


def test_sessions_that_ended_are_cleared_away(path, store):
    for number in range(12):
        key = SessionKey("ann", f"old {number}")
        drive(store.append(key, HELLO))
        drive(store.describe(key, expires_at=datetime.now(UTC)))
    for number in range(3):
        drive(store.append(SessionKey("ann", f"new {number}"), HELLO))
    with closing(sqlite3.connect(path)) as raw:
        for table in ("sessions", "lanes", "records"):
            assert raw.execute(f"SELECT count(*) FROM {table}").fetchone() == (3,)


def test_erased_words_leave_the_file(path, store):
    drive(store.append(KEY, [Entry("a", b"my secret" * 1000)]))
    drive(store.delete(KEY))
    drive(store.close())
    assert [place.name for place in path.parent.iterdir()] == ["chat.db"], "the last to close folds the log into it"
    assert b"my secret" not in path.read_bytes()


@pytest.mark.parametrize("order", ["updated_at DESC, id DESC", "updated_at, id"])
@pytest.mark.parametrize("where", ["user_id = :user", "user_id = :user AND archived = :archived", "TRUE"])
def test_listings_walk_an_index(path, store, where, order):
    drive(store.migrate())
    statement = sqlite_rows._LIST.format(where=f"{where} AND (updated_at, id) < (:time, :row)", order=order)
    values = {"user": b"ann", "archived": 0, "now": 0, "limit": 1, "time": 0, "row": 0}
    with closing(sqlite3.connect(path)) as raw:
        plan = [step for *_, step in raw.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert any("USING INDEX sessions_by" in step for step in plan)
    assert not any("TEMP B-TREE" in step or step == "SCAN sessions" for step in plan)


def test_one_connection_serves_one_caller_at_a_time(store):
    for _ in range(20):
        drive(store.append(KEY, HELLO))
        drive(store.read(KEY))
    assert len(store._file._idle) == 1


def test_ctrl_c_while_it_waits_for_another_process_leaves_no_transaction_behind(path):
    store = SQLiteStore(path)
    drive(store.append(KEY, HELLO))
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    with (
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("BEGIN IMMEDIATE")

        def interrupt() -> None:
            time.sleep(0.2)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
            time.sleep(0.2)
            other.execute("ROLLBACK")

        try:
            done = pool.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                drive(store.append(KEY, [Entry("b", b"")]))
            done.result()
        finally:
            signal.signal(signal.SIGALRM, before)
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    assert drive(store.append(KEY, [Entry("b", b"")])).new == (True,)
    drive(store.close())


FORKED = """
import asyncio, os, sys
from lc_history import ChatHistories
from lc_history.bridge import drive
from langchain_core.messages import HumanMessage

door, url = sys.argv[1:]
history = ChatHistories.open(url).session("s1")

def say(words):
    if door == "blocking":
        history.add_messages([HumanMessage(words)])
    else:
        asyncio.run(history.aadd_messages([HumanMessage(words)]))

say("before")
wrote, closed = os.pipe(), os.pipe()
if child := os.fork():
    os.read(wrote[0], 1)
    drive(history.transcript.store.close())  # what the child goes on to write must not go with it
    os.write(closed[1], b".")
    sys.exit(os.waitpid(child, 0)[1])
say("one")
os.write(wrote[1], b".")
os.read(closed[0], 1)
for words in ("two", "three"):
    say(words)
os._exit(0)
"""


@pytest.mark.parametrize("door", ["blocking", "async"])
def test_a_forked_process_loses_nothing_when_its_parent_closes(path, door):
    done = subprocess.run([sys.executable, "-c", FORKED, door, f"sqlite:///{path}"], check=True, timeout=120)
    assert done.returncode == 0
    assert [record.seq for record in drive(SQLiteStore(path).read(KEY_OF_FORKED)).records] == [1, 2, 3, 4]
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("name", ["a#b.db", "100%25.db", "why?.db", "a\nb.db", "x+redis:", "a b.db"])
def test_the_named_class_takes_a_path_as_it_is(tmp_path, name):
    store = SQLiteChatMessageHistory("s1", tmp_path / name).store
    drive(store.migrate())
    assert (tmp_path / name).is_file()
    drive(store.close())


def test_a_program_that_changes_its_folder_keeps_its_file(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    monkeypatch.chdir(first)
    store = SQLiteStore("chat.db")
    monkeypatch.chdir(second)
    drive(store.append(KEY, HELLO))
    drive(store.close())
    assert [place.name for place in first.iterdir()] == ["chat.db"]
    assert not list(second.iterdir())


HOLDING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read(1)
connection.execute("COMMIT")
"""


@pytest.fixture
def holder(path, store):
    """Return a process that holds the lock of writers until it is told to go on."""
    drive(store.append(KEY, HELLO))
    holding = [sys.executable, "-c", HOLDING, str(path)]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        yield other


async def test_a_write_that_waits_for_another_process_holds_up_no_read(path, holder):
    store = SQLiteStore(path)
    waiting = asyncio.create_task(store.append(KEY, [Entry("b", b"later")]))
    for _ in range(20):
        assert [record.id for record in (await store.read(KEY)).records] == ["a"]
        assert (await store.describe(KEY)).count == 1
        assert len((await store.sessions("ann")).items) == 1
    assert not waiting.done()
    holder.communicate(".")
    await waiting
    assert [record.id for record in (await store.read(KEY)).records] == ["a", "b"]
    await store.close()


@pytest.fixture(params=["blocking", "async"])
def call(request):
    """Return what calls a verb by either door."""
    return drive if request.param == "blocking" else asyncio.run


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_file_that_is_gone_takes_no_turn_with_it_unsaid(path, store, call, how):
    call(store.append(KEY, HELLO))
    aside = path.with_name("aside.db")
    path.rename(aside)
    if how == "replaced":
        other = SQLiteStore(path.with_name("other.db"))
        drive(other.append(KEY, [Entry("z", b"another file")]))
        drive(other.close())
        other.path.rename(path)
    for verb in (store.append(KEY, [Entry("b", b"lost?")]), store.read(KEY), store.sessions("ann"), store.migrate()):
        with pytest.raises(StoreError, match=f"{path} was {how}.*nothing was written.*put it back") as refused:
            call(verb)
        assert not isinstance(refused.value, StoreUnavailableError)
    assert path.exists() == (how == "replaced"), "nothing is begun in its place"
    aside.rename(path)
    assert call(store.append(KEY, [Entry("b", b"kept")])).seqs == (2,)
    path.unlink()
    with pytest.raises(StoreError, match="deleted"):
        call(store.append(KEY, [Entry("c", b"lost?")]))
    call(store.close())
    assert call(store.append(KEY, [Entry("c", b"in a new file")])).seqs == (1,)


def test_a_file_replaced_while_a_write_waits_for_it_is_noticed(path):
    store = SQLiteStore(path)
    drive(store.append(KEY, HELLO))
    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN IMMEDIATE")
        waiting = pool.submit(drive, store.append(KEY, [Entry("b", b"lost?")]))
        time.sleep(0.1)  # it waits for the lock by now, or is about to
        path.unlink()
        other.execute("ROLLBACK")
        with pytest.raises(StoreError, match="deleted"):
            waiting.result()
    drive(store.close())


APPENDS = """
import sys
from lc_history.bridge import drive
from lc_history.model import Entry, SessionKey
from lc_history.stores.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1])
for number in range(20):
    drive(store.append(SessionKey("ann", "s1"), [Entry(f"other {number}", bytes(1000))]))
drive(store.close())
"""


@pytest.mark.parametrize("part", ["wal", "shm"])
def test_a_part_of_the_log_that_is_deleted_is_missed_also_beside_the_file_that_a_link_names(
    path, store, call, part
) -> None:
    call(store.append(KEY, HELLO))
    link = path.with_name("link.db")
    link.symlink_to(path)
    store = SQLiteStore(link)
    call(store.append(KEY, [Entry("a", b"kept")]))
    path.with_name(f"{path.name}-{part}").unlink()
    with pytest.raises(StoreError, match=r"the log of .* was deleted"):
        call(store.append(KEY, [Entry("b", b"lost?")]))


def test_a_log_that_is_deleted_beside_us_takes_no_turn_with_it(path, store, call):
    """A copy of the file drops this process's locks when it is closed; the next to leave deletes what we write to."""
    call(store.append(KEY, HELLO))
    path.read_bytes()
    path.with_name(f"{path.name}-shm").read_bytes()
    subprocess.run([sys.executable, "-c", APPENDS, str(path)], check=True)
    for verb in (store.append(KEY, [Entry("b", b"lost?")]), store.read(KEY)):
        with pytest.raises(StoreError, match=r"the log of .* was deleted .* nothing was written: close the store"):
            call(verb)
    call(store.close())
    assert call(store.append(KEY, [Entry("b", b"kept")])).new == (True,)
    assert len(call(store.read(KEY)).records) == len(HELLO) + 21
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
