"""Streams that nobody closes: what was said is stored, whenever the garbage collector comes and whatever is locked."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from langchain_core.messages import AIMessage

from lc_history import ChatHistories, with_history
from lc_history.bridge import abandoned
from lc_history.testing.models import StrictChatModel

CONFIG = {"configurable": {"session_id": "s1"}}


@contextmanager
def no_collection_but_ours():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def abandon(histories: ChatHistories) -> None:
    """Begin to read a stream, and leave it to the garbage collector."""
    items = with_history(StrictChatModel(answer=lambda _: AIMessage("one two")), histories).stream("count", CONFIG)
    next(items)
    cycle = [items]
    cycle.append(cycle)


def said(histories: ChatHistories) -> list[str]:
    return [message.type for message in histories.session("s1").messages]


def wait_for_the_closing_thread() -> None:
    """Collect again: what is found now is closed after what was found before."""
    closed = threading.Event()
    histories = ChatHistories.open("memory://")
    append = histories.store.append

    async def tell(*args, **kwargs):
        closed.set()
        return await append(*args, **kwargs)

    histories.store.append = tell
    abandon(histories)
    gc.collect()
    closed.wait()


def test_a_collection_while_the_stores_lock_is_held_ends_and_the_turn_is_stored() -> None:
    histories = ChatHistories.open("memory://")
    with no_collection_but_ours():
        abandon(histories)
        with histories.store._lock:
            gc.collect()
        wait_for_the_closing_thread()
    assert said(histories) == ["human", "ai"]


def test_any_number_found_at_once_is_closed_by_one_thread(monkeypatch) -> None:
    started, start = [], abandoned.start_new_thread

    def counted(*args):
        started.append(args)
        return start(*args)

    monkeypatch.setattr(abandoned, "start_new_thread", counted)
    histories = ChatHistories.open("memory://")
    with no_collection_but_ours():
        for _ in range(100):
            abandon(histories)
        gc.collect()
        assert len(started) == 1
        wait_for_the_closing_thread()
    assert said(histories) == ["human", "ai"] * 100


def test_what_is_dropped_outside_a_collection_is_stored_at_once() -> None:
    histories = ChatHistories.open("memory://")
    for _ in with_history(StrictChatModel(answer=lambda _: AIMessage("one two")), histories).stream("count", CONFIG):
        break
    assert said(histories) == ["human", "ai"]


def test_one_that_cannot_be_stored_is_told_and_harms_no_other(caplog) -> None:
    broken, whole = ChatHistories.open("memory://"), ChatHistories.open("memory://")

    async def fail(*_, **__):
        raise RuntimeError("the store has a bug")

    broken.store.append = fail
    with no_collection_but_ours():
        abandon(broken)
        abandon(whole)
        gc.collect()
        wait_for_the_closing_thread()
    assert said(whole) == ["human", "ai"]
    assert "the store has a bug" in caplog.text


PROGRAM = """
import atexit, gc, sys
{first}
from lc_history import ChatHistories
from tests.test_abandoned_streams import abandon
gc.disable()
histories = ChatHistories.open(sys.argv[1])
abandon(histories)
{last}
"""
ENDS = {
    "collected under the lock": ("", "with histories.store._file._writing: gc.collect()"),
    "collected when we have said goodbye": ("atexit.register(gc.collect)", ""),
    "collected with everything": ("", ""),
}


@pytest.mark.parametrize(("first", "last"), ENDS.values(), ids=ENDS)
def test_a_program_that_ends_right_after_has_stored_the_turn(tmp_path, first, last) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    program = PROGRAM.format(first=first, last=last)
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert said(ChatHistories.open(url)) == ["human", "ai"]


LEFT_OPEN = """
import atexit, gc, sys
atexit.register(lambda: print(said(histories)))  # runs after all that is registered later
from lc_history import ChatHistories
from tests.test_abandoned_streams import abandon, said
gc.disable()
histories = ChatHistories.open("memory://")
abandon(histories)
{more}
"""
FAILING = """
async def fail(*_, **__):
    raise RuntimeError("the store has a bug")
histories.store.append = fail
"""


@pytest.mark.parametrize(
    ("more", "printed", "told"), [("", "['human', 'ai']", ""), (FAILING, "[]", "the store has a bug")]
)
def test_a_stream_left_open_is_closed_while_the_interpreter_is_whole(more, printed, told) -> None:
    program = [sys.executable, "-c", LEFT_OPEN.format(more=more)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, printed)
    assert told in done.stderr
    assert bool(done.stderr) == bool(told)
