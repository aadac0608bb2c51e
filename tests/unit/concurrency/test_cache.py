"""Tests of the cache: its bound, its TTL, and its behavior under concurrent loads and evictions."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import pytest

from muster_coordinator.adapters.system import ManualClock
from muster_coordinator.concurrency.cache import Cache, Entry

SECONDS = 20.0  # longest wait for another thread
TTL = 10.0


@pytest.fixture
def clock():
    return ManualClock(1000.0)


@pytest.fixture
def cache(clock):
    return Cache(max_entries=3, ttl=TTL, clock=clock.now)


class Loader:
    """Loads increasing numbers, and counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.calls


def test_value_is_loaded_once():
    cache, load = Cache(max_entries=1), Loader()
    assert [cache.get_or_load("a", load) for _ in range(3)] == [1, 1, 1]
    assert cache.get("a") == 1
    assert "a" in cache
    assert len(cache) == 1


def test_missing_key_is_none():
    cache = Cache(max_entries=1)
    assert cache.get("a") is None
    assert "a" not in cache


def test_none_is_a_cached_value():
    cache, loads = Cache(max_entries=1), []
    for _ in range(2):
        assert cache.get_or_load("a", lambda: loads.append(1)) is None
    assert loads == [1]


def test_error_of_a_load_is_not_cached():
    cache = Cache(max_entries=1)
    with pytest.raises(ZeroDivisionError):
        cache.get_or_load("a", lambda: 1 // 0)
    assert cache.get_or_load("a", lambda: 2) == 2


def test_put_replaces_the_value():
    cache = Cache(max_entries=1)
    cache.put("a", 1)
    cache.put("a", 2)
    assert cache.get("a") == 2


def test_discard_and_clear_remove_entries():
    cache = Cache(max_entries=3)
    for key in "abc":
        cache.put(key, key)
    cache.discard("a")
    cache.discard("a")
    assert list(cache.entries()) == ["b", "c"]
    cache.clear()
    assert len(cache) == 0


def test_oldest_entry_is_evicted_first():
    cache = Cache(max_entries=3)
    for key in "abc":
        cache.get_or_load(key, lambda: 1)
    cache.get("a")  # a read does not renew an entry
    cache.put("d", 1)
    assert list(cache.entries()) == ["b", "c", "d"]


def test_stored_again_is_the_newest():
    cache = Cache(max_entries=3)
    for key in "abcad":
        cache.put(key, 1)
    assert list(cache.entries()) == ["c", "a", "d"]


def test_entry_expires_after_its_ttl(cache, clock):
    load = Loader()
    assert cache.get_or_load("a", load) == 1
    clock.advance(TTL - 0.001)
    assert cache.get_or_load("a", load) == 1
    clock.advance(0.001)
    assert cache.get("a") is None
    assert cache.get_or_load("a", load) == 2


def test_entry_is_as_old_as_the_begin_of_its_load(cache, clock):
    cache.get_or_load("a", lambda: clock.advance(TTL - 1))
    assert "a" in cache
    clock.advance(1)
    assert "a" not in cache


def test_clock_set_back_invalidates_an_entry(cache, clock):
    load = Loader()
    cache.get_or_load("a", load)
    clock.advance(-1)
    assert cache.get("a") is None
    assert cache.get_or_load("a", load) == 2
    clock.advance(TTL - 1)
    assert cache.get("a") == 2, "it was stored by the clock that was set back"
    clock.advance(1)
    assert cache.get("a") is None


def test_expired_entries_are_dropped_at_an_access_to_any_key(cache, clock):
    cache.put("a", 1)
    clock.advance(TTL / 2)
    cache.put("b", 2)
    clock.advance(TTL / 2)
    cache.get("c")
    assert cache.entries() == {"b": Entry(2, 1000.0 + TTL / 2)}


def test_ttl_of_zero_disables_the_cache(clock):
    cache, load = Cache(max_entries=3, ttl=0.0, clock=clock.now), Loader()
    assert [cache.get_or_load("a", load) for _ in range(2)] == [1, 2]
    cache.put("a", 1)
    assert len(cache) == 0


def test_ttl_needs_a_clock():
    with pytest.raises(ValueError, match="clock"):
        Cache(max_entries=1, ttl=1.0)


def test_bound_must_be_positive():
    with pytest.raises(ValueError, match="max_entries"):
        Cache(max_entries=0)


def test_two_threads_that_miss_both_load_and_share_one_value():
    cache: Cache[str, object] = Cache(max_entries=1)
    both_load = threading.Barrier(2)

    def load() -> object:
        both_load.wait(SECONDS)
        return object()

    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(cache.get_or_load, "a", load) for _ in range(2))
        assert first.result(SECONDS) is second.result(SECONDS)


def test_slow_load_does_not_block_other_keys():
    cache: Cache[str, int] = Cache(max_entries=2)
    with ThreadPoolExecutor(1) as pool:

        def load() -> int:
            return pool.submit(cache.get_or_load, "b", lambda: 2).result(SECONDS)

        assert cache.get_or_load("a", load) == 2


# Forced interleavings: another caller evicts the key between two bytecodes of a lookup.


class CheckThenSubscript:
    """Cache with the race that `Cache` must not have: it tests a key, and then subscripts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # not taken
        self._values: dict[str, int] = {}

    def put(self, key: str, value: int) -> None:
        self._values.clear()
        self._values[key] = value

    def get_or_load(self, key: str, load: Callable[[], int]) -> int:
        if key not in self._values:
            self._values[key] = load()
        return self._values[key]


@contextmanager
def interrupted(
    codes: set[CodeType], lock: threading.Lock, *, at: int, interrupt: Callable[[], None]
) -> Iterator[None]:
    """Calls `interrupt` before the `at`-th bytecode of `codes` that runs while `lock` is free.

    While the lock is held, another thread could not get in between either.
    """
    passed = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal passed
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not lock.locked():
            if passed == at:
                interrupt()
            passed += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
    if passed <= at:
        raise IndexError(f"only {passed} bytecodes ran without the lock")


def failures_by_interleaving(make: Callable[[], Any]) -> tuple[int, list[int]]:
    """Evicts the key before each bytecode in turn.

    Returns the number of bytecodes, and the indices of those at which a lookup failed.
    """
    failed, at = [], 0
    while True:
        cache = make()
        codes = {method.__code__ for method in vars(type(cache)).values() if hasattr(method, "__code__")}
        cache.put("a", 1)
        try:
            with interrupted(codes, cache._lock, at=at, interrupt=lambda: cache.put("b", 2)):  # noqa: B023
                assert cache.get_or_load("a", lambda: 1) == 1
        except KeyError:
            failed.append(at)
        except IndexError:
            return at, failed
        at += 1


def test_eviction_between_any_two_bytecodes_of_a_lookup_is_harmless():
    bytecodes, failed = failures_by_interleaving(lambda: Cache(max_entries=1))
    assert bytecodes >= 8
    assert failed == []


def test_interleavings_find_the_race_of_check_then_subscript():
    bytecodes, failed = failures_by_interleaving(CheckThenSubscript)
    assert bytecodes >= 8
    assert failed
