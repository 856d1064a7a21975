"""Keys are changed while sessions are in use, and afterwards the old one is not needed."""

from __future__ import annotations

import pytest
from langchain_core.messages import HumanMessage

from lc_history import ChatHistories
from lc_history.bridge import drive
from lc_history.errors import DecodeError, PolicyError
from lc_history.privacy.keyring import Keyring
from lc_history.rotation import RotationError, rotate
from lc_history.stores.memory import MemoryStore
from lc_history.transcript import Policy

OLD, NEW = bytes(range(32)), bytes(range(32, 64))


def histories(store: MemoryStore, keys: Keyring | None) -> ChatHistories:
    return ChatHistories(store, policy=Policy(keys=keys))


def test_after_a_rotation_the_old_key_is_not_needed() -> None:
    store = MemoryStore()
    old = histories(store, Keyring({"old": OLD}, current="old")).new_session("ann", title="Tea")
    old.add_messages([HumanMessage("one"), HumanMessage("two")])
    drive(old.transcript.note("summaries", "1", {"text": "a talk"}))
    name = old.transcript.key.session_id

    both = histories(store, Keyring({"new": NEW, "old": OLD}, current="new")).session(name, user_id="ann")
    assert drive(rotate(both.transcript, dry_run=True)) == {"old": 4}
    assert drive(rotate(both.transcript)) == {"old": 4}
    assert drive(rotate(both.transcript)) == {"new": 4}

    new = histories(store, Keyring({"new": NEW}, current="new")).session(name, user_id="ann")
    assert [message.text for message in new.messages] == ["one", "two"]
    assert new.info().label.title == "Tea"
    assert drive(new.transcript.notes("summaries"))[0].value == {"text": "a talk"}


def test_a_missing_key_is_named_and_nothing_is_lost() -> None:
    store = MemoryStore()
    histories(store, Keyring({"old": OLD}, current="old")).session("s1").add_messages([HumanMessage("one")])
    lost = histories(store, Keyring({"new": NEW}, current="new")).session("s1")
    with pytest.raises(DecodeError, match="'old' is missing"):
        drive(rotate(lost.transcript))
    assert histories(store, Keyring({"old": OLD}, current="old")).session("s1").messages[0].text == "one"


def test_what_was_altered_stays_as_it_is_and_is_named() -> None:
    store = MemoryStore()
    old = histories(store, Keyring({"old": OLD}, current="old")).new_session("ann", title="Tea")
    old.add_messages([HumanMessage("one"), HumanMessage("two"), HumanMessage("three")])
    key = old.transcript.key
    record = drive(store.read(key)).records[1]
    altered = record.body[:-1] + bytes([record.body[-1] ^ 1])
    drive(store.replace(key, record.seq, altered, expected=record.body))
    both = histories(store, Keyring({"new": NEW, "old": OLD}, current="new")).session(key.session_id, user_id="ann")
    with pytest.raises(RotationError, match=f"records session '{key.session_id}', user 'ann', .* number 2: ") as told:
        drive(rotate(both.transcript))
    assert (told.value.sealed, told.value.count) == (3, {"old": 4})
    assert drive(store.read(key)).records[1].body == altered
    assert drive(rotate(both.transcript, dry_run=True)) == {"new": 3, "old": 1}


def test_plaintext_is_sealed_only_when_asked() -> None:
    store = MemoryStore()
    plain = histories(store, None).session("s1")
    plain.add_messages([HumanMessage("one")])
    with pytest.raises(PolicyError, match="keys="):
        drive(rotate(plain.transcript))
    sealed = histories(store, Keyring({"new": NEW}, current="new")).session("s1")
    with pytest.raises(DecodeError, match="seal_plaintext"):
        drive(rotate(sealed.transcript))
    assert drive(rotate(sealed.transcript, seal_plaintext=True)) == {"(none)": 1}
    assert sealed.messages[0].text == "one"


def test_a_record_that_changes_meanwhile_is_left_alone() -> None:
    class Racing(MemoryStore):
        async def replace(self, key, seq, body, *, expected, lane="messages"):
            await self.delete(key)  # somebody erases the session at that moment
            return await super().replace(key, seq, body, expected=expected, lane=lane)

    store = Racing()
    histories(store, Keyring({"old": OLD}, current="old")).session("s1").add_messages([HumanMessage("one")])
    both = histories(store, Keyring({"new": NEW, "old": OLD}, current="new")).session("s1")
    drive(rotate(both.transcript))
    assert both.messages == []
