"""TFF's own execution, without the process that it leaves behind.

TFF runs computations in a child process (`worker_binary`) that outlives its parent and keeps the parent's stdout and stderr
open, so that `python … | tee log` never ends. `start` launches it with neither; `shutdown`, also at exit, ends it by its id.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import tensorflow_federated as tff

_STATE, _PARENT = 0, 1  # positions after the name in /proc/PID/stat


class _WorkerState:
    """Whether `start` was called, and whether the end at exit is arranged: once is enough."""

    now = False
    ends_at_exit = False


def start() -> None:
    """Makes TFF's local C++ runtime the default context and launches its worker. A second call does nothing.

    Call it before anything else runs natively: importing a user's module may already do that.
    """
    if _WorkerState.now:
        return
    # TFF's test backend is the same runtime, and it also runs secure sums, in the clear, which the native one can't.
    tff.backends.test.set_sync_test_cpp_execution_context()
    nothing = tff.tensorflow.computation(lambda: 0)
    # TFF hands `sys.stdout` and `sys.stderr` to the worker when the first computation runs.
    with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        nothing()
    _WorkerState.now = True
    if not _WorkerState.ends_at_exit:
        _WorkerState.ends_at_exit = True
        atexit.register(shutdown)


def seed_keras(seed: int) -> None:
    """Seeds the generators that building a model draws from: Python's, numpy's and TensorFlow's. Imports Keras."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)


def shutdown() -> None:
    """Ends every worker that TFF has launched for this process, and waits for its end.

    What runs natively afterwards makes TFF launch another, which ends when the process exits.
    """
    _WorkerState.now = False
    for worker in worker_pids():
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(worker, signal.SIGKILL)
            # Left for TFF to reap, whose own clean-up signals this id and must not hit a stranger.
            os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """TFF's runtime for the length of a `with` block; one that runs already is left running."""
    mine = not _WorkerState.now
    start()
    try:
        yield
    finally:
        if mine:
            shutdown()


def worker_pids() -> set[int]:
    """The ids of this process's own `worker_binary` children that live. TFF's wheel is for Linux alone, so /proc is there."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state parent …; the name may hold spaces and brackets: proc_pid_stat(5).
            head, _, tail = stat.read_text().rpartition(")")
            fields = tail.split()
            if head.endswith("(worker_binary") and int(fields[_PARENT]) == os.getpid() and fields[_STATE] != "Z":
                found.add(int(stat.parent.name))
    return found
