"""Sealed histories: nothing readable at rest, and no record that was moved, altered or left in the clear is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from lc_history import ChatHistories, SessionKey
from lc_history.bridge import drive
from lc_history.errors import DecodeError
from lc_history.model import Entry
from lc_history.privacy.keyring import Keyring

SECRET = "the moon is made of gold"
KEY = SessionKey("ann", "s1")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sealed.sqlite3'}"


def talk(histories: ChatHistories) -> None:
    history = histories.session("s1", user_id="ann")
    history.add_messages([HumanMessage(SECRET), AIMessage(SECRET, response_metadata={"note": SECRET})])
    history.describe(title=SECRET, tags=[SECRET], metadata={"note": SECRET})
    drive(history.transcript.note("summaries", "1", {"text": SECRET}))


def test_nothing_readable_at_rest(url: str, tmp_path: Path) -> None:
    with ChatHistories.open(url, keys=Keyring.generate()) as histories:
        talk(histories)
        assert histories.session("s1", user_id="ann").messages[0].text == SECRET
        assert histories.sessions("ann").items[0].label.title == SECRET
    at_rest = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert SECRET.encode() not in at_rest
    assert b"HumanMessage" not in at_rest


def test_without_keys_the_test_above_would_find_it(url: str, tmp_path: Path) -> None:
    with ChatHistories.open(url) as histories:
        talk(histories)
    assert SECRET.encode() in b"".join(file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize("unreadable", ["raise", "report"])
def test_a_wrong_or_missing_key_always_raises(url: str, unreadable: str) -> None:
    with ChatHistories.open(url, keys=Keyring.generate("old")) as histories:
        talk(histories)
    for keys, sentence in ((Keyring.generate("new"), "old"), (Keyring.generate("old"), "record 1"), (None, "keyring")):
        with (
            ChatHistories.open(url, keys=keys, unreadable=unreadable) as histories,
            pytest.raises(DecodeError, match=sentence),
        ):
            _ = histories.session("s1", user_id="ann").messages


def test_plaintext_and_moved_records_are_refused(url: str) -> None:
    with ChatHistories.open(url, keys=Keyring.generate()) as histories:
        talk(histories)
        store = histories.store
        first, second = drive(store.read(KEY)).records
        for key, entry in (
            (SessionKey("ann", "s2"), Entry(first.id, first.body)),  # moved to another session
            (SessionKey("bob", "s1"), Entry(first.id, first.body)),  # to another user
            (SessionKey("ann", "s3"), Entry(second.id, first.body)),  # swapped with another record
            (SessionKey("ann", "s4"), Entry("x", b'1{"type":"human","content":"planted"}')),  # plaintext
        ):
            drive(store.append(key, [entry]))
            with pytest.raises(DecodeError, match=repr(key.session_id)):
                _ = histories.session(key.session_id, user_id=key.user_id).messages
        assert histories.session("s1", user_id="ann").messages[0].text == SECRET


def test_an_old_key_still_opens_and_a_new_one_seals(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Keyring.generate("old")
    with ChatHistories.open(url, keys=old) as histories:
        talk(histories)
    monkeypatch.setenv("LC_HISTORY_KEYS", f"{Keyring.generate('new').to_env()},{old.to_env()}")
    both = Keyring.from_env()
    with ChatHistories.open(url, keys=both) as histories:
        history = histories.session("s1", user_id="ann")
        history.add_messages([HumanMessage("later")])
        assert [message.text for message in history.messages] == [SECRET, SECRET, "later"]
        bodies = [record.body for record in drive(histories.store.read(KEY)).records]
        assert [both.key_id(body) for body in bodies] == ["old", "old", "new"]
