"""The kit itself: a store that breaks a promise fails, and no test of the contract is lost on the way."""

from __future__ import annotations

import subprocess
import sys
from inspect import signature

import pytest

from lc_history.testing import StoreContract

pytest_plugins = ["pytester"]

STORE = """
import pytest
from lc_history.stores.memory import MemoryStore
from lc_history.testing import StoreContract

class OpensOne(StoreContract):
    processes = 0

    @pytest.fixture
    def open_store(self):
        only = MemoryStore()
        return lambda: only
"""


def run(pytester: pytest.Pytester, *options: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-q", "-o", "asyncio_default_fixture_loop_scope=function", *options)


def test_a_test_of_the_contract_cannot_be_overridden():
    with pytest.raises(TypeError, match="overrides test_every_range of the contract: give the reason in xfails"):

        class Lenient(StoreContract):
            def test_every_range(self): ...


def test_every_promise_runs_through_both_doors():
    tests = [name for name in dir(StoreContract) if name.startswith("test_")]
    assert len(tests) > 80
    for name in tests:
        assert "door" in signature(getattr(StoreContract, name)).parameters, name


def test_a_door_that_is_missing_is_a_skip_with_a_reason(pytester):
    pytester.makepyfile(STORE + "class TestOne(OpensOne):\n    doors = ('async',)\n")
    result = run(pytester, "-rs", "-k", "numbers_grow_from_one")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*this store has no blocking door"])


def test_a_known_failure_is_named_and_must_fail(pytester):
    pytester.makepyfile(
        STORE
        + """
class TestKnown(OpensOne):
    xfails = {"test_numbers_grow_from_one": "it counts from zero"}
    doors = ("blocking",)
"""
    )
    result = run(pytester, "-rs", "-k", "numbers_grow_from_one")
    result.assert_outcomes(failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*it counts from zero*"])


def test_a_store_says_what_the_kit_needs(pytester):
    pytester.makepyfile("from lc_history.testing import StoreContract\nclass TestNone(StoreContract): ...\n")
    result = run(pytester, "-k", "numbers_grow_from_one")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*TestNone must give the fixture open_store*"])


def test_failed_assertions_show_what_was_there(pytester):
    pytester.makepyfile(
        STORE
        + """
class Forgetful(MemoryStore):
    async def read(self, key, **options):
        return type(await super().read(key))()

class TestForgetful(OpensOne):
    doors = ("blocking",)

    @pytest.fixture
    def open_store(self):
        return Forgetful

    async def test_of_its_own(self, store, key):
        assert await store.describe(key) is None
"""
    )
    # In a process of its own: in this one the contract may have been imported before pytest could rewrite it.
    chosen = "blocking and (numbers_grow_from_one or of_its_own)"
    result = pytester.runpytest_subprocess("-q", "-o", "asyncio_default_fixture_loop_scope=function", "-k", chosen)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*assert [[]] == [[](1, 'a', b's*"])


def test_servers_alone_need_no_pytest():
    program = "import sys, lc_history.testing; assert not {'pytest', 'hypothesis'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
