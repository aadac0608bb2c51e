"""End of a command on a signal, in separate processes without TensorFlow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent in another way there")

HEAD = """
import ctypes, os, signal, sys, threading, time
from muster.cli.interrupts import interruptible

def say(text):
    print(text, flush=True)

libc = ctypes.CDLL(None)
"""
BLOCKS = {
    "python": 'with interruptible():\n    say("ready")\n    time.sleep(600)',
    "native code in the main thread": 'with interruptible():\n    say("ready")\n    libc.sleep(600); libc.sleep(600)',
    "a block that swallows the interrupt": """
with interruptible():
    say("ready")
    while True:
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            pass  # as code of a library may do
""",
    "a thread that is not a daemon": """
with interruptible():
    threading.Thread(target=libc.sleep, args=(600,)).start()
    say("ready")
    time.sleep(600)
""",
    "a thread that is stuck": """
with interruptible(stuck=lambda: True):
    threading.Thread(target=libc.sleep, args=(600,)).start()
    say("ready")
    time.sleep(600)
""",
}


@contextmanager
def started(code: str, **more: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HEAD + code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **more)  # type: ignore[call-overload]  # noqa: S603  our own code
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("block", BLOCKS)
def test_signal_ends_a_blocked_process(block: str, number: signal.Signals) -> None:
    with started(BLOCKS[block]) as process:
        process.send_signal(number)
        # Without the handlers, Python would end with 130 too, or by the signal.
        assert process.wait(60) in (130, 1, -signal.SIGINT)


def test_second_signal_ends_a_process_at_once() -> None:
    code = """
with interruptible():
    try:
        say("ready")
        time.sleep(600)
    except KeyboardInterrupt:
        say("first")
        libc.sleep(600)
"""
    with started(code) as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_ignored_sigint_stays_ignored_and_handlers_are_restored() -> None:
    code = """
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
assert before[0] is signal.SIG_IGN
with interruptible():
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is not before[1]
assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
assert signal.set_wakeup_fd(-1) == -1
say("ready")
sys.stdin.read()
"""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    with started(code, preexec_fn=ignore, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.slow
def test_forked_child_has_the_previous_handlers() -> None:
    code = """
with interruptible():
    child = os.fork()
    if child == 0:
        time.sleep(600)
    say("ready")
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM, status
    threading.Event().wait(1.2)  # longer than the grace period of a first signal
"""
    with started(code) as process:
        assert process.wait(60) == 0


def test_no_handler_is_installed_outside_the_main_thread() -> None:
    code = """
def run():
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is before
        say("ready")
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    with started(code) as process:
        assert process.wait(60) == 0
    assert os.getpid()  # the handlers of this process are gone
