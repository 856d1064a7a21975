"""The command, as a person or a program uses it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from lc_history import ChatHistories, SessionKey
from lc_history.bridge import drive
from lc_history.cli import main
from lc_history.model import Entry
from lc_history.privacy.keyring import Keyring


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'chats.sqlite3'}"


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


def in_a_process(*args: str, url: str, stdin: str = "") -> Result:
    """Run the command as a person does: nothing is left of it afterwards but the store."""
    command = [sys.executable, "-m", "lc_history", *args]
    environment = {**os.environ, "LC_HISTORY_URL": url}
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process, which saves two seconds of imports each time."""

    def run(*args: str, url: str | None = None) -> Result:
        monkeypatch.setattr(sys, "argv", ["lc-history", *args])
        monkeypatch.setenv("LC_HISTORY_URL", url or "")
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capfd.readouterr()
        return Result(code, printed.out, printed.err)

    return run


def rows(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_chat_is_remembered_by_the_next_process(url: str) -> None:
    first = in_a_process("chat", "tea", url=url, stdin="I am Ann.\n")
    assert 'one thing: "I am Ann."' in first.stdout, first.stderr
    second = in_a_process("chat", "tea", url=url, stdin="Who am I?\n")
    assert 'The first was "I am Ann."' in second.stdout


def test_sessions_show_and_rm(url: str, run: Run) -> None:
    in_a_process("chat", "tea", url=url, stdin="hello\n")
    listed = rows(run("sessions", "--json", url=url))
    assert [(row["session"], row["messages"]) for row in listed] == [("tea", 2)]
    shown = rows(run("show", "tea", "--json", url=url))
    assert [(row["seq"], row["type"]) for row in shown] == [(1, "human"), (2, "ai")]
    assert "hello" in run("show", "tea", url=url).stdout
    assert run("rm", "tea", "--yes", url=url).returncode == 0
    assert run("sessions", "--json", url=url).stdout == ""
    assert run("show", "tea", url=url).returncode == 4


def test_export_and_import_lose_nothing(url: str, tmp_path: Path, run: Run) -> None:
    said = [
        HumanMessage("hello \u0000 \ud800", id="a", name="ann"),
        AIMessage("", id="b", tool_calls=[{"name": "pay", "args": {"z": 1.0, "a": None}, "id": "c"}]),
    ]
    with ChatHistories.open(url) as histories:
        histories.migrate()
        history = histories.session("tea: the ü/..*", user_id="ann")
        history.add_messages(said)
        history.describe(title="Tea", tags=["x"], metadata={"k": [1, None]})
        before = history.page().said, history.info()
    copy = f"sqlite:///{tmp_path / 'copy.sqlite3'}"
    file = tmp_path / "out.jsonl"
    assert run("export", "--user", "ann", "-o", str(file), url=url).returncode == 0
    for _ in range(2):
        assert run("import", str(file), url=copy).returncode == 0
    with ChatHistories.open(copy) as histories:
        history = histories.session("tea: the ü/..*", user_id="ann")
        assert (history.page().said, history.info()) == before


def test_an_export_that_fails_leaves_the_last_one_alone(url: str, tmp_path: Path, run: Run) -> None:
    with ChatHistories.open(url) as histories:
        histories.migrate()
        histories.session("tea").add_messages([HumanMessage("hello")])
    file = tmp_path / "out.jsonl"
    assert run("export", "-o", str(file), url=url).returncode == 0
    last = file.read_bytes()
    assert run("export", "coffee", "-o", str(file), url=url).returncode == 4
    assert (file.read_bytes(), list(tmp_path.glob(".*"))) == (last, [])
    assert run("export", "-o", "/dev/null", url=url).returncode == 0
    assert Path("/dev/null").is_char_device()


def test_the_doctor_finds_and_sets_aside(url: str, run: Run) -> None:
    with ChatHistories.open(url) as histories:
        histories.migrate()
        history = histories.session("tea")
        history.add_messages([HumanMessage("before")])
        drive(histories.store.append(SessionKey("default", "tea"), [Entry("bad", b"\xff\xfe not a message")]))
        history.add_messages([HumanMessage("after")])
    found = run("doctor", "--json", url=url)
    assert found.returncode == 5
    assert [(row["session"], row["seq"]) for row in rows(found)] == [("tea", 2)]
    assert "before" in run("show", "tea", url=url).stdout, "show reads on and reports"
    assert run("doctor", "--quarantine", url=url).returncode == 0
    assert run("doctor", url=url).returncode == 0
    with ChatHistories.open(url) as histories:
        history = histories.session("tea")
        assert [message.text for message in history.messages] == ["before", "after"]
        assert drive(history.transcript.notes("quarantine"))[0].value["seq"] == 2


@pytest.mark.parametrize(
    ("args", "url", "code", "sentence"),
    [
        (["sessions"], "mongodb://localhost", 1, "names no store"),
        (["sessions"], "redis://127.0.0.1:1", 3, "127.0.0.1:1"),
        (["sessions"], "postgresql://ann:secret@127.0.0.1:1/chat", 3, "127.0.0.1:1/chat"),
        (["show", "nothing"], None, 4, "there is no session 'nothing'"),
        (["chat", "--model", "nobody:x"], None, 1, "nobody"),
        (["chat", "--model", "openai:gpt-4o"], None, 1, "the model 'openai:gpt-4o' failed: OpenAIError"),
        (["import", "/nowhere/at/all"], None, 1, "/nowhere/at/all"),
    ],
)
def test_what_goes_wrong_is_one_readable_line(run: Run, args, url, code, sentence, tmp_path) -> None:
    result = run(*args, url=url or f"sqlite:///{tmp_path / 'x.sqlite3'}")
    assert result.returncode == code, result.stderr
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert "secret" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_damaged_import_says_where(url: str, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text("{not json\n")
    result = run("import", str(file), url=url)
    assert result.returncode == 1
    assert "line 1 is no JSON" in result.stderr


def test_every_command_has_help(run: Run) -> None:
    listed = run("--help").stdout
    for command in (
        "chat",
        "sessions",
        "show",
        "export",
        "import",
        "rm",
        "doctor",
        "migrate",
        "archive",
        "rotate-keys",
        "threads",
        "checkpoints",
        "resume",
        "repair",
        "fork",
        "retain",
    ):
        assert command in listed
        assert run(command, "--help").returncode == 0


def test_idle_sessions_are_archived(run: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hot.sqlite3'}+sqlite:///{tmp_path / 'cold.sqlite3'}"
    with ChatHistories.open(url) as histories:
        histories.session("tea").add_messages([HumanMessage("hello")])
    assert rows(run("archive", "--idle", "1h", "--json", url=url)) == [
        {"moved": 0, "skipped": 0, "bytes": 0, "failed": 0, "interrupted": None}
    ]
    assert run("archive", "--idle", "0s", "--once", "--every", "1m", url=url).returncode == 2
    assert rows(run("archive", "--idle", "0s", "--once", "--json", url=url))[0]["moved"] == 1
    assert rows(run("sessions", "--json", url=url))[0]["archived"] is True
    assert "hello" in run("show", "tea", url=url).stdout


def test_a_person_sees_how_many_idle_sessions_there_are(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hot.sqlite3'}+sqlite:///{tmp_path / 'cold.sqlite3'}"
    with ChatHistories.open(url) as histories:
        for number in range(3):
            histories.session(f"s{number}").add_messages([HumanMessage("hello")])
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lc_history", "archive", "--idle", "0s", "--json", "--url", url]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # which is how its end is told
        while more := os.read(ours, 4096):
            seen += more
    os.close(ours)
    assert b"3/3" in seen
    assert json.loads(done.stdout)["moved"] == 3


@pytest.mark.parametrize(
    ("args", "sentence"),
    [(["--idle", "1h"], "give a hot and a cold store"), (["--idle", "soon"], "'soon' is no time")],
)
def test_archiving_needs_two_stores_and_a_time(run: Run, url: str, args: list[str], sentence: str) -> None:
    result = run("archive", *args, url=url)
    assert result.returncode in (1, 2)
    assert sentence in result.stderr


def keyring(number: int) -> str:
    return f"{number}:{b64encode(bytes([number]) * 32).decode()}"


@pytest.mark.parametrize("keys", ["", keyring(2), f"1:{keyring(3)[2:]}"], ids=["none", "another", "a false one"])
def test_the_doctor_sets_nothing_aside_that_another_key_may_open(url, run: Run, monkeypatch, keys: str) -> None:
    monkeypatch.setenv("LC_HISTORY_KEYS", keyring(1))
    ring = Keyring.from_env()
    with ChatHistories.open(url, keys=ring) as histories:
        histories.session("tea").add_messages([HumanMessage("sealed")])
    monkeypatch.setenv("LC_HISTORY_KEYS", keys)
    assert run("doctor", "--quarantine", url=url).returncode == 5
    with ChatHistories.open(url, keys=ring) as histories:
        assert [message.text for message in histories.session("tea").messages] == ["sealed"]


def test_the_doctor_sets_aside_what_is_damaged_beneath_its_seal(url, run: Run, monkeypatch) -> None:
    monkeypatch.setenv("LC_HISTORY_KEYS", keyring(1))
    with ChatHistories.open(url, keys=Keyring.from_env()) as histories:
        histories.session("tea").add_messages([HumanMessage("one"), HumanMessage("two")])
        key = SessionKey("default", "tea")
        body = drive(histories.store.read(key)).records[0].body
        drive(histories.store.replace(key, 1, body[:-1] + bytes([body[-1] ^ 1]), expected=body))
        assert run("doctor", url=url).returncode == 5
        assert run("doctor", "--quarantine", url=url).returncode == 0
        assert [message.text for message in histories.session("tea").messages] == ["two"]


def test_the_doctor_knows_no_such_session(url, run: Run) -> None:
    assert run("doctor", "nothing", url=url).returncode == 4


def test_a_terminal_obeys_no_message(url, run: Run) -> None:
    with ChatHistories.open(url) as histories:
        histories.session("a\nb\x1b[2J").add_messages([HumanMessage("red \x1b[31m \u202e \ud800 stays\n\tin place")])
    for args in (["show", "a\nb\x1b[2J"], ["sessions"], ["show", "\x1b[2J"]):
        result = run(*args, url=url)
        assert "\\x1b[" in result.stdout + result.stderr
        assert not {"\x1b", "\u202e", "\ud800"} & set(result.stdout + result.stderr)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda head, _: [head, [1]], "line 2 is no row"),
        (lambda head, rows: [7, head, *rows], "line 1 is no row"),
        (lambda head, rows: [{"lc_history": 1}, *rows], "expected a session exported"),
        (lambda head, rows: [head, {**rows[0], "lane": "evil"}], "no record of session 'tea'"),
        (lambda head, rows: [head, {**rows[0], "seq": "x"}], "no record of session 'tea'"),
        (lambda head, rows: [head, {**rows[0], "body": 7}], "no record of session 'tea'"),
        (lambda head, rows: [head, {**rows[0], "created_at": None}], "no record of session 'tea'"),
        *(
            (lambda head, rows, wrong=wrong: [{**head, **wrong}, *rows], "expected a session exported")
            for wrong in ({"user_id": 7}, {"tags": None}, {"archived": "no"}, {"created_at": 0}, {"expires_at": []})
        ),
        (lambda head, rows: [{**head, "created_at": "9999-12-31T23:59:59-14:00"}, *rows], "in no year"),
        (lambda head, rows: [head, {**rows[0], "created_at": "0001-01-01T00:00:00+14:00"}], "no record of session"),
        (lambda head, rows: [head, *rows[:-1], {**rows[-1], "seq": 2**70}], "no record of session 'tea'"),
        (lambda head, rows: [head, {**rows[0], "seq": 0}], "no record of session 'tea'"),
        (lambda head, rows: [head, {}], "no record of session 'tea'"),
        (lambda head, rows: [head, rows[1], rows[0]], "number 1 of session 'tea'"),
        (lambda head, rows: [head, rows[0], rows[0]], "number 1 of session 'tea'"),
    ],
)
def test_a_damaged_export_is_refused_and_nothing_of_it_kept(url, tmp_path, run: Run, damage, sentence: str) -> None:
    with ChatHistories.open(url) as histories:
        histories.session("tea").add_messages([HumanMessage(str(number)) for number in range(3)])
    head, *records = rows(run("export", "tea", url=url))
    file = tmp_path / "damaged.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in damage(head, records)))
    copy = f"sqlite:///{tmp_path / 'copy.sqlite3'}"
    result = run("import", str(file), url=copy)
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (1, 1), result.stderr
    assert sentence in result.stderr
    assert run("sessions", "--json", url=copy).stdout == ""


def test_a_narrow_terminal_shows_the_names(url, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with ChatHistories.open(url) as histories:
        histories.session("tea-with-ann-and-bob").add_messages([HumanMessage("hello")])
    monkeypatch.setattr(sys.modules["lc_history.cli.app"], "PIPED_COLUMNS", 60)
    listed = run("sessions", url=url).stdout
    assert max(map(len, listed.splitlines())) <= 60
    assert "tea-with-ann-and-bob" in "".join(line.split("  ")[0] for line in listed.splitlines()[1:])


def test_ctrl_c_keeps_what_was_said(url: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, "chat", "tea"]
    done = subprocess.run(
        command,
        input="hello\n",
        capture_output=True,
        text=True,
        env={**os.environ, "LC_HISTORY_URL": url},
        check=False,
    )
    assert done.returncode == 130, done.stderr
    with ChatHistories.open(url) as histories:
        assert [message.text for message in histories.session("tea").messages] == ["hello", "I am an "]


INTERRUPTED = """
from lc_history.cli import chat, main
from rich.console import Console

shown = []
class Interrupted(Console):
    def print(self, *words, **options):
        shown.append(words)
        if len(shown) == 4:  # the prompt, and a word more than was told
            raise KeyboardInterrupt
        super().print(*words, **options)

import sys
sys.modules["lc_history.cli.chat"].console = lambda: Interrupted()
main()
"""


def test_a_model_that_cannot_be_reached_is_one_readable_line(
    url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(sys, "stdin", StringIO("hello\n"))
    done = run("chat", "tea", "--model", "openai:gpt-4o", url=url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("lc-history: the model 'openai:gpt-4o' failed: ")
    assert "Traceback" not in done.stderr
    with ChatHistories.open(url) as histories:
        assert [message.text for message in histories.session("tea").messages] == ["hello"]


def test_a_home_with_any_name_has_a_store(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "50% #1?"))
    assert run("sessions").returncode == 0
    assert (tmp_path / "50% #1?" / "lc-history" / "history.sqlite3").is_file()


def test_commands_are_recorded_and_audit_shows_whether_the_trail_is_whole(
    url: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = f"sqlite:///{tmp_path / 'trail.sqlite3'}"
    monkeypatch.setenv("LC_HISTORY_AUDIT", trail)
    monkeypatch.setenv("LOGNAME", "kim")
    ChatHistories.open(url).migrate()
    ChatHistories.open(url).session("tea").add_messages([HumanMessage("hello")])
    run("show", "tea", url=url)
    run("export", "tea", url=url)
    run("rm", "tea", "--yes", url=url)
    told = run("audit", "tea", "--json", url=url)
    assert [(row["actor"], row["action"]) for row in rows(told)] == [
        ("lc-history/kim", "read"),
        ("lc-history/kim", "export"),
        ("lc-history/kim", "erase"),
    ]
    head = told.stderr.split()[-1]
    assert run("audit", "tea", "--known", head).returncode == 0
    assert run("audit", "tea", "--known", "3:another").returncode == 5
    assert run("audit", "tea", "--known", "four").returncode == 2
    assert run("audit", "coffee").returncode == 4
    monkeypatch.delenv("LC_HISTORY_AUDIT")
    assert "LC_HISTORY_AUDIT" in run("audit", "tea").stderr
