"""A coordinator in this process: its own router and use cases, over stores that last as long as the simulation."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Callable

import requests

from muster.client import Transport
from muster.testing.wsgi import InProcessAdapter, Wsgi

if TYPE_CHECKING:
    from muster_coordinator.adapters.local_queue import Delivery, LocalQueue, Pump
    from muster_coordinator.adapters.system import ManualClock
    from muster_coordinator.state.platform import Platform

URL = "http://simulation.invalid"  # a name that is never looked up (RFC 6761)
_START = 946_684_800.0  # POSIX seconds: a fixed day, since tokens and times should repeat themselves too
_RETRY_FLOOR = 1.0  # seconds of simulated time


class DeliveryError(RuntimeError):
    """The coordinator failed at work of its own; the text says at which, and how."""


@dataclass(frozen=True)
class Assembled:
    """A coordinator's application, which `session` reaches at `URL`, and its queue, which is worked off when somebody says so."""

    app: Wsgi
    session: requests.Session
    _platform: Platform
    _queue: LocalQueue
    _pump: Pump

    def settle(self) -> None:
        """Has all work done that is due now. Raises `DeliveryError`."""
        self._pump.drain(self._platform.clock.now())

    def next_due(self) -> float | None:
        """When work is due next, in POSIX seconds; None if there is none."""
        return self._queue.next_due()


@dataclass(frozen=True)
class Deployment:
    """A coordinator that answers `session` at `URL`, and what drives it."""

    session: requests.Session
    clock: ManualClock
    _assembled: Assembled

    def settle(self) -> None:
        """See `Assembled.settle`."""
        self._assembled.settle()

    def next_due(self) -> float | None:
        """See `Assembled.next_due`."""
        return self._assembled.next_due()


@contextmanager
def deployment(*, seed: int) -> Iterator[Deployment]:
    """A coordinator, for the length of a `with` block.

    Args:
      seed: Of all its chance: slots, pauses, names, the plan's random operations, and the key of pseudonyms, whose order is the
        order of the fold.

    Raises:
      ImportError: the server's dependencies are not installed, or Python is too old for it.
    """
    require_server_python()
    from muster_coordinator.adapters.directory import DirectoryBlobs
    from muster_coordinator.adapters.local_queue import LocalQueue, Pump
    from muster_coordinator.adapters.sqlite import SqliteDocuments
    from muster_coordinator.adapters.system import ManualClock, SeededRandomness
    from muster_coordinator.bootstrap import runtimes
    from muster_coordinator.state.platform import Platform

    clock = ManualClock(_START)
    with (
        TemporaryDirectory(prefix="muster-simulation-") as folder,
        closing(SqliteDocuments.in_memory()) as documents,
        closing(LocalQueue.in_memory(clock=clock)) as queue,
        requests.Session() as session,
    ):
        assembled = assembled_over(
            Platform(documents, DirectoryBlobs(Path(folder)), queue, clock, SeededRandomness(seed)),
            queue=queue,
            pump=lambda deliver: Pump(queue, deliver, randomness=SeededRandomness(seed)),
            session=session,
            secret=hashlib.sha256(f"muster simulation {seed}".encode()).digest(),
            runtime=runtimes(seed=seed),
            round_cache_seconds=0.0,
            retry_floor=_RETRY_FLOOR,
        )
        yield Deployment(session, clock, assembled)


def assembled_over(
    platform: Platform,
    *,
    queue: LocalQueue,
    pump: Callable[[Callable[[Delivery], bool]], Pump],
    session: requests.Session,
    delivering: Callable[[str], AbstractContextManager[None]] = lambda _kind: nullcontext(),
    **settings: Any,
) -> Assembled:
    """Puts a coordinator together whose queue delivers to itself.

    Args:
      platform: Its ports.
      queue: The one that is behind the platform's.
      pump: Makes what delivers.
      session: Is taught to reach the application at `URL`, and keeps out of the environment's proxies.
      delivering: What every delivery is done in, by its kind.
      **settings: The fields of `muster_coordinator.application.CoordinatorConfig`.
    """
    from werkzeug.wrappers import Request

    from muster_coordinator.application import CoordinatorConfig, assemble
    from muster_coordinator.http import router

    def deliver(delivery: Delivery) -> bool:
        work = delivery.work
        with delivering(work.kind):
            answer = session.post(f"{URL}/internal/{work.kind}", json=dict(work.payload))
        if not answer.ok:
            raise DeliveryError(f"{work.kind} {dict(work.payload)} failed: {answer.text}")
        return True

    app = Request.application(router(assemble(platform, CoordinatorConfig(**settings))))
    session.trust_env = False
    session.mount(URL, InProcessAdapter(app))
    return Assembled(app, session, platform, queue, pump(deliver))


def transport(deployed: Deployment | Assembled) -> Transport:
    """A transport to a deployment, which tries everything once: what fails here fails again."""
    return Transport(URL, session=deployed.session, attempts=1)


def require_server_python() -> None:
    """Raises `ImportError` if this Python is older than the coordinator needs."""
    if sys.version_info < (3, 11):
        raise ImportError("A simulation runs the coordinator in this process, which needs Python 3.11 or newer")
