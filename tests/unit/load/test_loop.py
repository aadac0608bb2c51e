"""The load's event loop: skipped idle time, errors, and work in the background."""

from __future__ import annotations

import asyncio
import time

import pytest

from muster.load.loop import LoadError, LoadLoop, run_beside


async def sleep_for_a_day():
    start = asyncio.get_running_loop().time()
    await asyncio.sleep(86_400.0)
    return asyncio.get_running_loop().time() - start


def test_idle_time_is_skipped():
    start = time.monotonic()
    assert LoadLoop(skip_idle=True).run(sleep_for_a_day()) >= 86_400.0
    assert time.monotonic() - start < 60.0


def test_time_is_posix_seconds():
    loop = LoadLoop(skip_idle=True)
    assert loop.now() == pytest.approx(time.time(), abs=5.0)
    loop.close()


def test_deadlock_is_an_error():
    async def wait_for_ever():
        await asyncio.Event().wait()

    with pytest.raises(LoadError, match="stands still"):
        LoadLoop(skip_idle=True).run(wait_for_ever())


def test_error_in_the_background_ends_the_main_coroutine():
    ended = []

    async def main():
        try:
            await sleep_for_a_day()
        finally:
            ended.append("main")

    async def fail():
        await asyncio.sleep(1.0)
        raise LoadError("no")

    with pytest.raises(LoadError, match="no"):
        LoadLoop(skip_idle=True).run(run_beside(fail(), main()))
    assert ended == ["main"]


def test_background_ends_with_the_main_coroutine():
    ended = []

    async def background():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("background")

    assert LoadLoop(skip_idle=True).run(run_beside(background(), sleep_for_a_day())) >= 86_400.0
    assert ended == ["background"]
