"""What a keyring seals opens with its key in its place, and nowhere else; nothing ever fails open."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_history.errors import DecodeError, MissingExtraError
from lc_history.model import MAX_NAME_CHARACTERS, SessionKey
from lc_history.privacy.keyring import Keyring, bind, bound_to, is_sealed
from lc_history.testing.messages import texts
from lc_history.testing.names import HOSTILE_NAMES, SEPARATORS

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
KEYS = Keyring({"new": NEW, "old": OLD}, current="new")
PLACE = bound_to(SessionKey("ann", "s1"), "messages", "m1")

STORED = (
    "ff4c4831036f6c6424e0e2571131d8f8741000e396c6f40f646b6c4211681cd54f085f"
    "43f86c5dc9612e6f7bd9c6ecd64ea61ccc23e4a2bed4fcfc5cf1af11ae313d18b2d56b"
)


@given(st.binary(), st.binary())
def test_what_was_sealed_opens_in_its_place(plain: bytes, context: bytes) -> None:
    sealed = KEYS.seal(plain, context)
    assert KEYS.open(sealed, context) == plain
    assert len(sealed) == len(plain) + len(b"\xffLH1") + 1 + len("new") + 12 + 16
    assert is_sealed(sealed)
    assert KEYS.key_id(sealed) == "new"


@given(st.binary(min_size=8), st.binary(), st.binary())
def test_it_opens_nowhere_else(plain: bytes, context: bytes, other: bytes) -> None:
    sealed = KEYS.seal(plain, context)
    assert plain not in sealed
    if other != context:
        with pytest.raises(DecodeError, match="altered, or moved here from another place"):
            KEYS.open(sealed, other)


def test_the_same_text_is_never_sealed_alike() -> None:
    assert len({KEYS.seal(b"yes", PLACE) for _ in range(100)}) == 100


def test_every_flipped_bit_is_noticed() -> None:
    sealed = KEYS.seal(b"pay 100 to ann", PLACE)
    for position in range(len(sealed) * 8):
        altered = bytearray(sealed)
        altered[position // 8] ^= 1 << position % 8
        with pytest.raises(DecodeError):
            KEYS.open(bytes(altered), PLACE)


def test_every_cut_and_every_addition_is_noticed() -> None:
    sealed = KEYS.seal(b"pay 100 to ann", PLACE)
    for end in range(len(sealed)):
        with pytest.raises(DecodeError):
            KEYS.open(sealed[:end], PLACE)
    for altered in (sealed + b"x", b"x" + sealed, sealed + sealed, b""):
        with pytest.raises(DecodeError):
            KEYS.open(altered, PLACE)


@given(st.binary() | st.binary().map(b"\xffLH1".__add__) | st.binary().map(b"\xffLH1\x03new".__add__))
def test_any_bytes_are_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        KEYS.open(body, PLACE)


@pytest.mark.parametrize(
    "plain", [b"", b'{"type":"human","content":"x"}', b"2{}", b"\x00quarantined", b"\xff", b"\xffL"]
)
def test_plaintext_is_refused_where_keys_are_given(plain: bytes) -> None:
    assert not is_sealed(plain)
    assert KEYS.key_id(plain) is None
    with pytest.raises(DecodeError, match="plaintext is refused"):
        KEYS.open(plain, PLACE)


def test_a_lost_key_is_named() -> None:
    sealed = Keyring({"2024": OLD}, current="2024").seal(b"x", PLACE)
    assert KEYS.key_id(sealed) == "2024"
    with pytest.raises(DecodeError, match=r"the key '2024' is missing: the keyring has new, old"):
        KEYS.open(sealed, PLACE)


def test_another_key_of_the_same_name_does_not_open() -> None:
    sealed = Keyring({"new": OLD}, current="new").seal(b"x", PLACE)
    with pytest.raises(DecodeError, match="another key is called 'new'"):
        KEYS.open(sealed, PLACE)


def test_the_key_id_is_authenticated() -> None:
    """Two names for one key: a record cannot be relabelled, so a report of records per key is right."""
    twins = Keyring({"aa": OLD, "bb": OLD}, current="aa")
    with pytest.raises(DecodeError, match="altered"):
        twins.open(twins.seal(b"x", PLACE).replace(b"aa", b"bb", 1), PLACE)


def test_a_newer_seal_says_so() -> None:
    with pytest.raises(DecodeError, match="newer lc-history"):
        KEYS.key_id(KEYS.seal(b"x", PLACE).replace(b"\xffLH1", b"\xffLH2"))


def test_rotation_reads_the_old_and_writes_the_new() -> None:
    before = Keyring({"old": OLD}, current="old")
    sealed = before.seal(b"x", PLACE)
    again = KEYS.seal(KEYS.open(sealed, PLACE), PLACE)
    assert (KEYS.key_id(sealed), KEYS.key_id(again)) == ("old", "new")
    assert Keyring({"new": NEW}, current="new").open(again, PLACE) == b"x"


def test_the_sealed_format_stands() -> None:
    """Sealed once, opened for ever: this body was made by the first version."""
    body = bytes.fromhex(STORED)
    assert Keyring({"old": OLD}, current="old").open(body, PLACE) == b'{"type":"human","content":"hello"}'


# Contexts


@given(st.lists(texts()), st.lists(texts()))
def test_two_places_never_have_the_same_context(one: list[str], other: list[str]) -> None:
    assert (bind(*one) == bind(*other)) is (one == other)


def test_separators_and_hostile_names_make_different_contexts() -> None:
    names = [name for name in HOSTILE_NAMES if len(name) <= MAX_NAME_CHARACTERS]
    contexts = {bound_to(SessionKey(user, session), "messages", "1") for user in names for session in names}
    assert len(contexts) == len(set(names)) ** 2
    for mark in SEPARATORS:
        left, right = SessionKey(f"a{mark}b", "c"), SessionKey("a", f"b{mark}c")
        assert bound_to(left, "messages", "1") != bound_to(right, "messages", "1")


@pytest.mark.parametrize(
    "place",
    [
        ("bob", "s1", "messages", "m1"),
        ("ann", "s2", "messages", "m1"),
        ("ann", "s1", "audit", "m1"),
        ("ann", "s1", "messages", "m2"),
    ],
)
def test_a_record_is_bound_to_user_session_lane_and_id(place: tuple[str, str, str, str]) -> None:
    user_id, session_id, lane, record_id = place
    with pytest.raises(DecodeError, match="moved here"):
        KEYS.open(KEYS.seal(b"x", PLACE), bound_to(SessionKey(user_id, session_id), lane, record_id))


# Keys


def test_keys_are_never_shown() -> None:
    keys = Keyring.generate("k1")
    secret = keys.to_env().partition(":")[2]
    assert repr(keys) == str(keys) == "Keyring(ids=['k1'], current='k1')"
    with pytest.raises(TypeError):
        pickle.dumps(keys)
    with pytest.raises(DecodeError) as caught:
        keys.open(b"x", b"")
    inner = caught.value.with_traceback(caught.tb.tb_next)  # without this test's own locals
    shown = "".join(traceback.TracebackException.from_exception(inner, capture_locals=True).format())
    assert "Keyring(ids=" in shown
    assert secret not in shown


def test_a_ring_goes_through_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_HISTORY_KEYS", KEYS.to_env())
    ring = Keyring.from_env()
    assert ring.ids == KEYS.ids == ("new", "old")
    assert ring.current == "new"
    assert ring.open(KEYS.seal(b"x", PLACE), PLACE) == b"x"
    sealed = Keyring({"old": OLD}, current="old").seal(b"y", PLACE)
    assert ring.open(sealed, PLACE) == b"y"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("a:" + "+//+" * 11, b"\xfb\xff\xfe" * 11),
        ("a:" + "-__-" * 11, b"\xfb\xff\xfe" * 11),
        (" a:" + "+//+" * 11 + "\n", b"\xfb\xff\xfe" * 11),
        ("a:" + "A" * 43, bytes(32)),
        ("a:" + "A" * 43 + "=", bytes(32)),
    ],
)
def test_base64_of_any_tool_is_read(text: str, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS", text)
    assert Keyring.from_env("KEYS").open(Keyring({"a": key}, current="a").seal(b"x", b""), b"") == b"x"


SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U="


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a",
        SECRET,
        f":{SECRET}",
        f"a={SECRET}",
        f"a:{SECRET},",
        f"a:{SECRET},a:{SECRET}",
        f"a:{SECRET}!",
        f"a:{SECRET[:20]}",
        f"a b:{SECRET}",
        f"{SECRET}:a",
        f"{b'x'.hex() * 32}:{SECRET[:8]}",
    ],
)
def test_a_malformed_variable_is_refused_without_showing_keys(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS", text)
    with pytest.raises(ValueError, match=r"KEYS: |key") as caught:
        Keyring.from_env("KEYS")
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET[:16] not in shown
    assert "7878" not in shown


def test_bad_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes are too few for a key: at least 32"):
        Keyring({"a": bytes(31)}, current="a")
    with pytest.raises(ValueError, match="'b' is not among the keys: a"):
        Keyring({"a": OLD}, current="b")
    with pytest.raises(ValueError, match="not among the keys: none"):
        Keyring({}, current="a")
    with pytest.raises(TypeError, match="keys of type bytes"):
        Keyring({"a": "x" * 32}, current="a")  # type: ignore[dict-item]
    for key_id in ("", "a:b", "a,b", "x" * 65, "é", "a\n"):
        with pytest.raises(ValueError, match="key id"):
            Keyring({key_id: OLD}, current=key_id)


def test_generated_keys_differ() -> None:
    with pytest.raises(DecodeError, match="another key"):
        Keyring.generate().open(Keyring.generate().seal(b"x", b""), b"")


def test_without_cryptography_the_error_names_the_extra() -> None:
    script = """if True:
        import sys
        sys.modules["cryptography"] = sys.modules["cryptography.exceptions"] = None
        from lc_history.privacy.keyring import Keyring, is_sealed
        assert not is_sealed(b"x")
        Keyring.generate()
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=False)
    assert f"{MissingExtraError.__name__}: " in done.stderr
    assert "pip install 'lc-history[crypto]'" in done.stderr
