"""The values that stores and callers exchange."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import timedelta
from importlib import import_module

import pytest

from lc_history import ChatHistories, InMemoryChatMessageHistory, Label
from lc_history.errors import HistoryError, MissingExtraError, StoreError, TooLargeError, extra
from lc_history.model import LANES, MAX_NAME_CHARACTERS, MESSAGES, Entry, Expiry, SessionKey, Slice, several
from lc_history.store import TOMBSTONE_TTL, check_range, check_sizes, cursor_after, cursor_position
from lc_history.testing import HOSTILE_NAMES, SEPARATORS


class TestSessionKey:
    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_any_string_is_a_name(self, name):
        assert SessionKey(name, "s").user_id == name
        assert SessionKey("u", name).session_id == name

    @pytest.mark.parametrize("name", [None, 1, b"bytes", {"$ne": ""}, ["a"]])
    def test_nothing_else_is(self, name):
        with pytest.raises(TypeError, match="user_id must be a str"):
            SessionKey(name, "s")
        with pytest.raises(TypeError, match="session_id must be a str"):
            SessionKey("u", name)

    @pytest.mark.parametrize("name", ["", "x" * (MAX_NAME_CHARACTERS + 1)])
    def test_neither_empty_nor_endless(self, name):
        with pytest.raises(ValueError, match="user_id"):
            SessionKey(name, "s")
        with pytest.raises(ValueError, match="session_id"):
            SessionKey("u", name)

    def test_equal_by_both_names(self):
        assert SessionKey("a", "b") == SessionKey("a", "b")
        assert len({SessionKey("a", "b"), SessionKey("b", "a"), SessionKey("a", "b")}) == 2

    def test_says_whose_it_is(self):
        assert str(SessionKey("ann", "a\nb")) == r"session 'a\nb' of user 'ann'"

    def test_cannot_be_changed(self):
        with pytest.raises(FrozenInstanceError):
            SessionKey("a", "b").user_id = "eve"  # type: ignore[misc]


class TestSeveral:
    @pytest.mark.parametrize("values", ["tea", b"tea", None, 5, [1], ["tea", None], {"tea": 1}.items()])
    def test_one_alone_is_not_several(self, values):
        with pytest.raises(TypeError, match="tags must be a list of str"):
            several("tags", values, str)
        with pytest.raises(TypeError, match="tags"):
            Label("Tea", tags=values)

    @pytest.mark.parametrize("values", [["a", "b"], ("a", "b"), {"a": 1, "b": 2}, (each for each in "ab")])
    def test_any_iterable_is(self, values):
        assert several("tags", values, str) == ("a", "b")


class TestExpiry:
    def test_a_time_span_only(self):
        with pytest.raises(TypeError, match="timedelta"):
            Expiry(3600)  # type: ignore[arg-type]

    @pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta(microseconds=999)])
    def test_of_a_millisecond_or_more(self, ttl):
        with pytest.raises(ValueError, match="millisecond"):
            Expiry(ttl)

    @pytest.mark.parametrize("ttl", [timedelta.max, timedelta(days=365_000)])
    def test_of_no_more_years_than_a_calendar_has(self, ttl):
        with pytest.raises(ValueError, match="at most 73,000 days"):
            Expiry(ttl)

    def test_fixed_unless_asked(self):
        assert not Expiry(timedelta(hours=1)).sliding

    def test_sliding_moves_the_end_of_something(self):
        with pytest.raises(ValueError, match="give ttl="):
            ChatHistories.open("memory://", sliding=True)
        with pytest.raises(ValueError, match="give ttl="):
            ChatHistories.open("memory://", ttl=timedelta(hours=1)).session("s1", sliding=True)
        with pytest.raises(ValueError, match="give ttl="):
            InMemoryChatMessageHistory("s1", sliding=True)


class TestHostileNames:
    def test_all_different_and_allowed(self):
        assert len(set(HOSTILE_NAMES)) == len(HOSTILE_NAMES)
        assert len(set(SEPARATORS)) == len(SEPARATORS)
        assert {len(name) for name in HOSTILE_NAMES} >= {1, MAX_NAME_CHARACTERS}


class TestChecks:
    def test_the_first_body_that_is_too_large_is_named(self):
        key = SessionKey("ann", "s1")
        check_sizes(key, [Entry("a", b"123")], 3)
        with pytest.raises(TooLargeError, match=r"'b' for session 's1' of user 'ann' has 4 bytes .* at most 3"):
            check_sizes(key, [Entry("a", b"123"), Entry("b", b"1234"), Entry("c", b"12345")], 3)

    @pytest.mark.parametrize(("first", "last"), [(1, 1), (0, None), (None, 0), (-1, None)])
    def test_wrong_limits(self, first, last):
        with pytest.raises(ValueError, match=r"not both|at least 1"):
            check_range(first, last)

    def test_right_limits(self):
        check_range(None, None)
        check_range(1, None)
        check_range(None, 1)


class TestCursors:
    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_come_back(self, name):
        assert cursor_position(cursor_after(7, name), int, str) == (7, name)

    @pytest.mark.parametrize(
        "wrong", ["", "nonsense", "🍪", "bnVsbA==", cursor_after(1), cursor_after("a", 1), cursor_after(10**30, "a")]
    )
    def test_of_another_listing_are_refused(self, wrong):
        with pytest.raises(ValueError, match="not a cursor of this listing"):
            cursor_position(wrong, int, str)


def test_lanes_keep_their_places():
    # Stores number the lanes by their place: a new one goes to the end.
    assert LANES == ("messages", "summaries", "anchors", "memory", "audit", "quarantine")
    assert LANES[0] == MESSAGES


def test_empty_slices_share_nothing():
    Slice().records.append(None)  # type: ignore[arg-type]
    assert Slice().records == []


def test_a_tombstone_lasts_longer_than_any_turn():
    assert timedelta(hours=1) <= TOMBSTONE_TTL


class TestErrors:
    def test_too_large_is_a_value_error(self):
        assert issubclass(TooLargeError, ValueError)
        assert issubclass(TooLargeError, StoreError)
        assert issubclass(StoreError, HistoryError)

    def test_a_missing_extra_names_what_to_install(self):
        wanted = r"no_such_driver is missing: pip install 'lc-history\[redis\]'"
        with pytest.raises(MissingExtraError, match=wanted), extra("redis"):
            import_module("no_such_driver")
        assert issubclass(MissingExtraError, ImportError)
