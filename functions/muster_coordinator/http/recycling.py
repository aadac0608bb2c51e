"""Replaces a worker process that a plan's graph occupies permanently.

TensorFlow can't interrupt every graph. One that has reached its time limit may be abandoned in a
thread, where it occupies a processor until its process ends. A process with such a graph therefore
ends itself, and gunicorn, or the platform that runs the container, starts a new one. The queue
redelivers work that was in progress.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOG = logging.getLogger(__name__)
_MAX_WAIT = 60.0  # seconds after which a process is replaced although requests are under way
_ANSWER_GRACE = 1.0  # seconds for sending the last answer
_EXIT_TIMEOUT = 10.0  # seconds for the process to finish its requests and exit


def abandoned_graphs() -> int:
    """Returns the number of abandoned graphs that still run in this process.

    Does not load TensorFlow.
    """
    calls = sys.modules.get("muster.runtime.calls")
    return 0 if calls is None else int(calls.abandoned_calls())


def _end_process() -> None:
    """Ends this process by SIGTERM, and after a timeout in any case."""
    # Python's exit may wait for the graph. SIGALRM, which has no handler here, does not.
    signal.setitimer(signal.ITIMER_REAL, _EXIT_TIMEOUT)
    os.kill(os.getpid(), signal.SIGTERM)


class WorkerRecycler:
    """Ends this process once it has an abandoned graph and no open requests, or a minute later.

    Args:
      abandoned: Returns the number of abandoned graphs.
      end: Ends the process.
      latest: Longest time to wait for open requests, in seconds.
      answered: Time for sending the last answer, in seconds.
    """

    def __init__(
        self,
        *,
        abandoned: Callable[[], int] = abandoned_graphs,
        end: Callable[[], None] = _end_process,
        latest: float = _MAX_WAIT,
        answered: float = _ANSWER_GRACE,
    ) -> None:
        self._abandoned = abandoned
        self._end = end
        self._latest = latest
        self._answered = answered
        self._lock = threading.Lock()
        self._requests = 0
        self._idle = threading.Event()
        self._ending = False

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request as open during the block, and checks for abandoned graphs at its end."""
        with self._lock:
            self._requests += 1
            self._idle.clear()
        try:
            yield
        finally:
            with self._lock:
                self._requests -= 1
                if not self._requests:
                    self._idle.set()
                start = not self._ending and self._abandoned() > 0
                self._ending = self._ending or start
            if start:
                threading.Thread(target=self._recycle, name="recycle", daemon=True).start()

    def _recycle(self) -> None:
        self._idle.wait(self._latest)
        threading.Event().wait(self._answered)
        if not self._abandoned():  # the graph has ended after all
            with self._lock:
                self._ending = False
            return
        LOG.warning("A plan's graph ignored its time limit and still runs: this process is replaced")
        self._end()
