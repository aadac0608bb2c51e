"""A coordinator in this process: its own router and use cases, over stores that last as long as the simulation."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import requests

from muster.client import Transport

if TYPE_CHECKING:
    from coordinator.adapters.local_queue import Delivery, LocalQueue, Pump
    from coordinator.adapters.system import ManualClock

URL = "http://simulation.invalid"  # a name that is never looked up (RFC 6761)
_START = 946_684_800.0  # POSIX seconds: a fixed day, since tokens and times should repeat themselves too
_RETRY_FLOOR = 1.0  # seconds of simulated time


class DeliveryError(RuntimeError):
    """The coordinator failed at work of its own; the text says at which, and how."""


@dataclass(frozen=True)
class Deployment:
    """A coordinator that answers `session` at `URL`, and what drives it."""

    session: requests.Session
    clock: ManualClock
    _queue: LocalQueue
    _pump: Pump

    def settle(self) -> None:
        """Has all work done that is due now. Raises `DeliveryError`."""
        self._pump.drain(self.clock.now())

    def next_due(self) -> float | None:
        """When work is due next, in POSIX seconds; None if there is none."""
        return self._queue.next_due()


@contextmanager
def deployment(*, seed: int) -> Iterator[Deployment]:
    """A coordinator, for the length of a `with` block.

    Args:
      seed: Of all its chance: slots, pauses, names, the plan's random operations, and the key of pseudonyms, whose order is the
        order of the fold.

    Raises:
      ImportError: the server's dependencies are not installed, or Python is too old for it.
    """
    find_functions()
    from werkzeug.wrappers import Request

    from coordinator.adapters.directory import DirectoryBlobs
    from coordinator.adapters.local_queue import LocalQueue, Pump
    from coordinator.adapters.sqlite import SqliteDocuments
    from coordinator.adapters.system import ManualClock, SeededChance
    from coordinator.application import assemble
    from coordinator.bootstrap import runtimes
    from coordinator.http import router
    from coordinator.use_cases.records import Platform

    from .in_process import InProcessAdapter

    clock = ManualClock(_START)
    chance = SeededChance(seed)
    session = requests.Session()
    session.trust_env = False

    def deliver(delivery: Delivery) -> bool:
        work = delivery.work
        answer = session.post(f"{URL}/internal/{work.kind}", json=dict(work.payload))
        if not answer.ok:
            raise DeliveryError(f"{work.kind} {dict(work.payload)} failed: {answer.text}")
        return True

    with (
        TemporaryDirectory(prefix="muster-simulation-") as folder,
        closing(SqliteDocuments.in_memory()) as documents,
        closing(LocalQueue.in_memory(clock=clock)) as queue,
        session,
    ):
        platform = Platform(documents, DirectoryBlobs(Path(folder)), queue, clock, chance)
        app = assemble(
            platform,
            secret=hashlib.sha256(f"muster simulation {seed}".encode()).digest(),
            runtime=runtimes(seed=seed),
            round_cache_seconds=0.0,
            retry_floor=_RETRY_FLOOR,
        )
        session.mount(URL, InProcessAdapter(Request.application(router(app))))
        yield Deployment(session, clock, queue, Pump(queue, deliver, chance=SeededChance(seed)))


def transport(deployed: Deployment) -> Transport:
    """A transport to a deployment, which tries everything once: what fails here fails again."""
    return Transport(URL, session=deployed.session, attempts=1)


def find_functions() -> None:
    """Makes the coordinator's code importable here.

    Raises:
      ImportError: Python is older than the coordinator needs.
    """
    if sys.version_info < (3, 11):
        raise ImportError("A simulation runs the coordinator in this process, which needs Python 3.11 or newer")
    from muster.serving import functions_folder

    folder = str(functions_folder())
    if folder not in sys.path:
        sys.path.append(folder)
