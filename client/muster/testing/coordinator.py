"""Coordinator in this process, with an embedded store and a work queue that runs on request."""

from __future__ import annotations

import hashlib
import secrets
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Callable, Optional

import requests

from muster.client import Transport
from muster.testing.wsgi import InProcessAdapter, Wsgi

if TYPE_CHECKING:
    from muster_coordinator.adapters.local_queue import Delivery, LocalQueue, Pump

URL = "http://simulation.invalid"  # a name that is never resolved (RFC 6761)
_START = 946_684_800.0  # POSIX seconds, fixed so that a seed also repeats tokens and times
_RETRY_FLOOR = 1.0  # seconds of the coordinator's clock


class DeliveryError(RuntimeError):
    """Error raised when queued work fails; the text names the work and the reason."""


@dataclass(frozen=True)
class InProcessCoordinator:
    """A coordinator in this process.

    Attributes:
      app: The HTTP application of both APIs.
      session: A session that reaches `app` at `URL`.
      clock: The coordinator's clock: a `ManualClock`, unless another one was passed.
    """

    app: Wsgi
    session: requests.Session
    clock: Any
    _queue: LocalQueue
    _pump: Pump

    def transport(self) -> Transport:
        """Returns a transport for `Operator` or `MusterClient`. It makes no retries."""
        return Transport(URL, session=self.session, attempts=1)

    def settle(self) -> int:
        """Runs all queued work that is due now.

        Returns:
          How many pieces of work were run.

        Raises:
          DeliveryError: A piece of work failed; it is due again later.
        """
        return self._pump.drain(self.clock.now())

    def next_due(self) -> float | None:
        """Returns when queued work is due next, in POSIX seconds; None if the queue is empty."""
        return self._queue.next_due()


@contextmanager
def in_process_coordinator(
    *,
    seed: Optional[int] = 0,
    clock: Any = None,
    durable: bool = False,
    wrap_runtime: Callable[[Any], Any] = lambda runtime: runtime,
    wrap_port: Callable[[str, Any], Any] = lambda _name, port: port,
    around_delivery: Callable[[str], AbstractContextManager[None]] = lambda _kind: nullcontext(),
    round_cache_seconds: float = 0.0,
    retry_floor: float = _RETRY_FLOOR,
) -> Iterator[InProcessCoordinator]:
    """Runs a coordinator for the length of a `with` block; its data is removed afterwards.

    Args:
      seed: Seed of all randomness: slots, pauses, names, the plan's random operations, and the key
        of pseudonyms, whose order is the order of the fold. None: the operating system's
        randomness.
      clock: An object whose `now()` returns POSIX seconds. None: a `ManualClock` at a fixed day.
      durable: True to write documents and queue to files, as `muster up` does; else they are in
        memory.
      wrap_runtime: Wraps the runtime of a plan; to watch its stages.
      wrap_port: Wraps the ports `documents`, `blobs` and `queue`, by name; to count or fail calls.
      around_delivery: Returns a context in which a piece of work of a kind is run.
      round_cache_seconds: Seconds for which the coordinator may serve a cached round.
      retry_floor: Shortest wait of a client, in seconds.

    Raises:
      ImportError: The extra `server` is not installed, or Python is older than 3.11.
    """
    _require_server_python()
    from werkzeug.wrappers import Request

    from muster_coordinator.adapters.directory import DirectoryBlobs
    from muster_coordinator.adapters.local_queue import LocalQueue, Pump
    from muster_coordinator.adapters.sqlite import SqliteDocuments
    from muster_coordinator.adapters.system import ManualClock, SeededRandomness, SystemRandomness
    from muster_coordinator.application import CoordinatorConfig, assemble
    from muster_coordinator.bootstrap import runtimes
    from muster_coordinator.http import router
    from muster_coordinator.state.platform import Platform

    clock = ManualClock(_START) if clock is None else clock
    runtime_of = runtimes(seed=seed)
    randomness, pump_randomness = (SystemRandomness() if seed is None else SeededRandomness(seed) for _ in range(2))
    secret_text = secrets.token_hex() if seed is None else f"muster simulation {seed}"
    with (
        TemporaryDirectory(prefix="muster-in-process-") as name,
        closing(SqliteDocuments(Path(name) / "state.db") if durable else SqliteDocuments.in_memory()) as documents,
        closing(LocalQueue(Path(name) / "queue.db" if durable else None, clock=clock)) as queue,
        requests.Session() as session,
    ):
        platform = Platform(
            wrap_port("documents", documents),
            wrap_port("blobs", DirectoryBlobs(Path(name) / "blobs")),
            wrap_port("queue", queue),
            clock,
            randomness,
        )
        config = CoordinatorConfig(
            secret=hashlib.sha256(secret_text.encode()).digest(),
            runtime=lambda plan: wrap_runtime(runtime_of(plan)),
            round_cache_seconds=round_cache_seconds,
            retry_floor=retry_floor,
        )
        application = assemble(platform, config)
        app = Request.application(router(application))
        session.trust_env = False  # no proxy of the environment
        session.mount(URL, InProcessAdapter(app))

        def deliver(delivery: Delivery) -> bool:
            work = delivery.work
            with around_delivery(work.kind):
                answer = session.post(f"{URL}/internal/{work.kind}", json=dict(work.payload))
            if not answer.ok:
                raise DeliveryError(f"{work.kind} {dict(work.payload)} failed: {answer.text}")
            return True

        yield InProcessCoordinator(app, session, clock, queue, Pump(queue, deliver, randomness=pump_randomness))


def _require_server_python() -> None:
    if sys.version_info < (3, 11):
        raise ImportError("A coordinator in this process needs Python 3.11 or newer")
