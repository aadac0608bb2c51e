"""Replaces a worker process that a plan's graph occupies for good.

TensorFlow can't interrupt every graph. One that has reached its time limit may be left behind in a thread, where it takes a processor
until its process ends. So a process with such a graph ends itself, and its server starts another one: gunicorn does, and so does the
platform that runs a container. Work that it had under way is delivered again by the queue.
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
_LATEST = 60.0  # seconds after which a process is replaced although requests are under way
_ANSWERED = 1.0  # seconds for the last answer to leave
_EXIT = 10.0  # seconds that the process gets for its requests and its exit


def abandoned_graphs() -> int:
    """Returns how many graphs of this process were left behind and still run. Loads no TensorFlow."""
    calls = sys.modules.get("muster.runtime.calls")
    return 0 if calls is None else int(calls.abandoned_calls())


def _end_process() -> None:
    """Ends this process: as its server does on SIGTERM, and in any case after a while."""
    # Python's exit may wait for the graph. SIGALRM, which has no handler here, does not.
    signal.setitimer(signal.ITIMER_REAL, _EXIT)
    os.kill(os.getpid(), signal.SIGTERM)


class WorkerRecycler:
    """Ends this process once a graph was left behind in it and its requests are answered, or a minute later.

    Args:
      abandoned: Returns how many graphs were left behind.
      end: Ends the process.
      latest: Longest time to wait for requests under way, in seconds.
      answered: Time for the last answer to leave, in seconds.
    """

    def __init__(
        self,
        *,
        abandoned: Callable[[], int] = abandoned_graphs,
        end: Callable[[], None] = _end_process,
        latest: float = _LATEST,
        answered: float = _ANSWERED,
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
        """Counts a request as under way during the block, and looks for graphs left behind at its end."""
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
        if not self._abandoned():  # it has ended after all
            with self._lock:
                self._ending = False
            return
        LOG.warning("A plan's graph ignored its time limit and still runs: this process is replaced")
        self._end()
