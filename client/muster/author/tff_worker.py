"""Starts and ends TFF's worker process, so that it does not outlive this process.

TFF runs computations in a child process (`worker_binary`). Left alone, it outlives its parent and
holds the parent's stdout and stderr open, so that `python … | tee log` never ends. `start` launches
it without them; `shutdown`, which also runs at exit, ends it by its process id.
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
    """State of this module.

    Attributes:
      is_started: Whether `start` has run since the last `shutdown`.
      ends_at_exit: Whether `shutdown` is registered to run at exit.
    """

    is_started = False
    ends_at_exit = False


def start() -> None:
    """Makes TFF's local C++ runtime the default context and launches its worker. Idempotent.

    Call it before anything else uses TFF's runtime; importing a user's module may already do so.
    """
    if _WorkerState.is_started:
        return
    # TFF's test backend is the native runtime, and it also runs secure sums (in the clear), which
    # the native backend does not.
    tff.backends.test.set_sync_test_cpp_execution_context()
    constant = tff.tensorflow.computation(lambda: 0)
    # TFF passes `sys.stdout` and `sys.stderr` to the worker when the first computation runs.
    with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        constant()
    _WorkerState.is_started = True
    if not _WorkerState.ends_at_exit:
        _WorkerState.ends_at_exit = True
        atexit.register(shutdown)


def seed_keras(seed: int) -> None:
    """Seeds Python's, numpy's and TensorFlow's generators, from which Keras draws weights.

    Imports Keras.
    """
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)


def shutdown() -> None:
    """Ends every worker that TFF has launched for this process, and waits for its end.

    TFF launches another worker when its runtime is used again. It ends when the process exits.
    """
    _WorkerState.is_started = False
    for worker in worker_pids():
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(worker, signal.SIGKILL)
            # WNOWAIT leaves it for TFF to reap. TFF's clean-up signals this id, which therefore
            # must not be reused by another process.
            os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Provides TFF's runtime during a `with` block. A runtime that runs already is not ended."""
    is_owner = not _WorkerState.is_started
    start()
    try:
        yield
    finally:
        if is_owner:
            shutdown()


def worker_pids() -> set[int]:
    """Returns the ids of this process's running `worker_binary` children.

    Reads /proc, which always exists since TFF's wheel is for Linux only.
    """
    pids = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (name) state parent …; the name may contain spaces and brackets: proc_pid_stat(5).
            head, _, tail = stat.read_text().rpartition(")")
            fields = tail.split()
            if head.endswith("(worker_binary") and int(fields[_PARENT]) == os.getpid() and fields[_STATE] != "Z":
                pids.add(int(stat.parent.name))
    return pids
