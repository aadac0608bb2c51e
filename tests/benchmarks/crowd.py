"""Clients by the hundred that train nothing: threads with a session each, fifty per process.

One process for all of them would limit a round of a thousand, as its threads share an interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.counted_session import CountedSession
from muster.client import Assigned, Contributed, MusterClient
from muster.wire.plan import Plan

_TOGETHER = 50  # threads of one interpreter; with five hundred a round of a thousand takes half as long again
_FILLED = 0.05  # of a sparse update
SPAWN = multiprocessing.get_context("spawn")


def processes_of(clients: int) -> int:
    """Returns the number of processes for the clients: at least one per core."""
    return min(clients, max(os.cpu_count() or 1, clients // _TOGETHER))


@dataclass(frozen=True)
class Contribution:
    """One client's contribution to a round.

    Attributes:
      round: Number of the round.
      assigned: POSIX seconds of the assignment.
      done: POSIX seconds of the response to the upload.
      wait_seconds: Seconds that the answer asked the client to wait.
      down: Bytes of bodies received since its last contribution, check-ins included.
      up: Bytes of bodies sent since its last contribution, check-ins included.
    """

    round: int
    assigned: float
    done: float
    wait_seconds: float
    down: int
    up: int


class Values(StrEnum):
    """Values of updates, and so of broadcasts, which are the updates' means."""

    NOISE = "noise"  # random bits, so that nothing on the way could make them fewer
    WEIGHTS = "weights"  # normally distributed, as those of trained weights are
    SPARSE = "sparse"  # one in twenty of these, and zeros


class Echo:
    """Worker that responds to every broadcast with an update of its size. Shared by a process."""

    def __init__(self, plan: Plan, *, values: Values) -> None:
        randomness = np.random.default_rng(0)
        self._update: dict[str, Any] = {}
        for spec in plan.manifest.update:
            shape = [size or 0 for size in spec.shape or ()]
            if not shape:  # the counts, by one of which the sum is divided
                self._update[spec.path] = np.ones(shape, spec.dtype.numpy)
            elif values is Values.NOISE:
                exponents = randomness.integers(64, 190, size=shape, dtype=np.uint32) << 23
                fractions = randomness.integers(0, 1 << 23, size=shape, dtype=np.uint32)
                self._update[spec.path] = (exponents | fractions).view(np.float32)
            else:
                values = randomness.normal(scale=1e-3, size=shape).astype(spec.dtype.numpy)
                if values is Values.SPARSE:
                    values[randomness.random(shape) >= _FILLED] = 0
                self._update[spec.path] = values

    def work(self, _data: Any, _broadcast: dict[str, Any]) -> dict[str, Any]:
        """Returns the update."""
        return self._update


class Crowd:
    """The clients `0` to `clients - 1` of the population `bench`, at work in a `with` block.

    Args:
      url: URL of the coordinator.
      clients: Number of clients.
      plan: File of the plan whose updates they send.
      values: Values of the updates.
    """

    def __init__(self, url: str, clients: int, plan: Path, *, values: Values) -> None:
        self._stop = SPAWN.Event()
        self._out: Any = SPAWN.SimpleQueue()
        processes = processes_of(clients)
        self._processes = [
            SPAWN.Process(
                target=_members,
                kwargs={
                    "url": url,
                    "numbers": range(first, clients, processes),
                    "plan": plan,
                    "values": values,
                    "stop": self._stop,
                    "out": self._out,
                },
                daemon=True,
            )
            for first in range(processes)
        ]

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def check(self) -> None:
        """Ends the benchmark if a process of clients has ended."""
        if any(process.exitcode is not None for process in self._processes):
            raise SystemExit("A client ended before its time")

    def end(self) -> list[Contribution]:
        """Stops all clients and returns their contributions."""
        self._stop.set()
        contributions: list[Contribution] = []
        for _ in self._processes:
            contributions += self._out.get()
        return contributions


def _members(*, url: str, numbers: range, plan: Path, values: Values, stop: Any, out: Any) -> None:
    echo = Echo(Plan.load(plan), values=values)
    contributed: list[Contribution] = []
    ended = threading.Event()
    with ThreadPoolExecutor(len(numbers) + 1) as pool:
        running = [pool.submit(_member, url, str(number), echo, ended, contributed) for number in numbers]
        stopped = pool.submit(stop.wait)
        wait([stopped, *running], return_when=FIRST_COMPLETED)
        if not stopped.done():
            for each in running:
                if each.done() and (error := each.exception()) is not None:
                    traceback.print_exception(error)
            sys.stderr.flush()
            os._exit(1)  # past the other threads: nothing of this run is worth keeping
        ended.set()
    out.put(contributed)


def _member(url: str, name: str, echo: Echo, stop: threading.Event, contributed: list[Contribution]) -> None:
    assigned = 0.0
    session = CountedSession()

    def tell(event: Any) -> None:
        nonlocal assigned
        if isinstance(event, Assigned):
            assigned = time.time()
        elif isinstance(event, Contributed):
            done = time.time()
            contributed.append(Contribution(event.round, assigned, done, event.retry_after, *session.taken()))

    with MusterClient(
        url,
        "bench",
        lambda: 0.0,
        client_id=name,
        session=session,
        on_event=tell,
        runtime_factory=lambda _: echo,
    ) as client:
        client.run(stop=stop)
