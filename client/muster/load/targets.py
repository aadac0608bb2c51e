"""What a load is put on, and the nearest one: the coordinator's application in this process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional, Protocol

from muster.client import Transport
from muster.load.processes import Use
from muster.load.times import Times
from muster.testing.coordinator import URL, Assembled, assembled_over, require_server_python, transport
from muster.testing.wsgi import call
from muster.wire.tensors import Array

_RETRY_FLOOR = 0.1  # seconds, as in `muster up`
_CACHE = 0.05  # seconds, likewise
_LOOK = 0.02  # seconds
_JSON, _OCTETS = "application/json", "application/octet-stream"


@dataclass(frozen=True)
class Answer:
    """A response. Status 0: there was none, and the body says why."""

    status: int
    body: bytes


class Target(Protocol):
    """What answers, and whose time it is.

    Attributes:
      threads: How many requests may be under way at once.
      look: Seconds between looks at something that is awaited.
      same_clock: Whether the coordinator's times are of the clock that `now` reads.
      remote: Whether the coordinator goes on when the load is over.
    """

    threads: int
    look: float
    same_clock: bool
    remote: bool

    def request(self, method: str, path: str, *, body: bytes = b"", token: Optional[str] = None) -> Answer:
        """One request."""

    def to_store(self, assignment: Mapping[str, Any], update: Mapping[str, Array]) -> bool:
        """Brings an update straight to the store and reports it; False: the store does not take it. Raises as a transport does."""

    def operator(self) -> Transport:
        """A transport for an operator."""

    def accumulator(self) -> Optional[dict[str, Array]]:
        """The last round's, as `report` got it; None: it can't be seen there."""

    def used(self) -> dict[str, Use]:
        """What the coordinator's processes have used so far, by role; none where they can't be seen, or are this one."""

    def now(self) -> float:
        """POSIX seconds."""

    def wait_until(self, instant: float) -> None:
        """Returns at `instant`."""

    def settle(self) -> None:
        """Has work done that is due, if nobody else does it."""

    def next_due(self) -> Optional[float]:
        """When work is due next, as far as this process knows."""


class SkippingClock:
    """The machine's clock, which can be put forward, so that nobody waits for what takes no work."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        """POSIX seconds."""
        return time.time() + self._ahead

    def skip_to(self, instant: float) -> None:
        """Goes on to `instant`; never back."""
        self._ahead += max(0.0, instant - self.now())


class Counted:
    """A port whose calls are counted."""

    def __init__(self, port: Any, name: str, times: Times) -> None:
        self._port = port
        self._name = name
        self._times = times

    def __getattr__(self, method: str) -> Any:
        inner = getattr(self._port, method)
        name = f"{self._name}.{method}"

        def called(*args: Any, **named: Any) -> Any:
            self._times.called(name)
            return inner(*args, **named)

        self.__dict__[method] = called
        return called


class Watched:
    """Plans' runtimes of which the accumulator that was reported last is kept."""

    def __init__(self) -> None:
        self.last: Optional[dict[str, Array]] = None

    def of(self, runtime: Any) -> Any:
        """The runtime, watched."""
        watched = self

        class Runtime:
            def __getattr__(self, name: str) -> Any:
                return getattr(runtime, name)

            def report(self, accumulator: Mapping[str, Array], *, seconds: Optional[float] = None) -> Any:
                watched.last = {name: value.copy() for name, value in accumulator.items()}
                return runtime.report(accumulator, seconds=seconds)

        return Runtime()


class InProcess:
    """The real HTTP application over embedded stores in a folder, called as WSGI, with waits that are skipped. One thread."""

    threads = 1
    look = _LOOK
    same_clock = True
    remote = False

    def __init__(self, assembled: Assembled, *, clock: SkippingClock, times: Times, watched: Watched) -> None:
        self._assembled = assembled
        self._clock = clock
        self._times = times
        self._watched = watched

    def request(self, method: str, path: str, *, body: bytes = b"", token: Optional[str] = None) -> Answer:
        """See `Target.request`."""
        headers = {"Content-Type": _OCTETS if method == "PUT" else _JSON}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        answer = call(self._assembled.app, method, URL + path, headers=headers, body=body)
        return Answer(answer.code, answer.body)

    def to_store(self, assignment: Mapping[str, Any], update: Mapping[str, Array]) -> bool:
        """See `Target.to_store`: a folder is not within clients' reach."""
        del assignment, update
        return False

    def operator(self) -> Transport:
        """See `Target.operator`."""
        return transport(self._assembled)

    def accumulator(self) -> Optional[dict[str, Array]]:
        """See `Target.accumulator`."""
        return self._watched.last

    def used(self) -> dict[str, Use]:
        """See `Target.used`."""
        return {}

    def now(self) -> float:
        """See `Target.now`."""
        return self._clock.now()

    def wait_until(self, instant: float) -> None:
        """See `Target.wait_until`."""
        self._clock.skip_to(instant)

    def settle(self) -> None:
        """See `Target.settle`."""
        with self._times.phase("queue"):
            self._assembled.settle()

    def next_due(self) -> Optional[float]:
        """See `Target.next_due`."""
        return self._assembled.next_due()


@contextmanager
def in_process(times: Times) -> Iterator[InProcess]:
    """A coordinator in this process, for the length of a `with` block; its folder is gone afterwards.

    Raises:
      ImportError: the server's dependencies are not installed, or Python is too old for it.
    """
    require_server_python()
    import requests

    from muster_coordinator.adapters.directory import DirectoryBlobs
    from muster_coordinator.adapters.local_queue import LocalQueue, Pump
    from muster_coordinator.adapters.sqlite import SqliteDocuments
    from muster_coordinator.adapters.system import SystemRandomness
    from muster_coordinator.bootstrap import runtimes
    from muster_coordinator.state.platform import Platform

    clock, randomness, watched, made = SkippingClock(), SystemRandomness(), Watched(), runtimes()
    with (
        TemporaryDirectory(prefix="muster-load-") as folder,
        closing(SqliteDocuments(Path(folder) / "state.db")) as documents,
        closing(LocalQueue(Path(folder) / "queue.db", clock=clock)) as queue,
        requests.Session() as session,
    ):
        counted: list[Any] = [
            Counted(port, name, times)
            for name, port in (
                ("documents", documents),
                ("blobs", DirectoryBlobs(Path(folder) / "blobs")),
                ("queue", queue),
            )
        ]
        assembled = assembled_over(
            Platform(counted[0], counted[1], counted[2], clock, randomness),
            queue=queue,
            pump=lambda deliver: Pump(queue, deliver, randomness=randomness),
            session=session,
            delivering=times.phase,
            secret=hashlib.sha256(folder.encode()).digest(),
            runtime=lambda plan: watched.of(made(plan)),
            round_cache_seconds=_CACHE,
            retry_floor=_RETRY_FLOOR,
        )
        yield InProcess(assembled, clock=clock, times=times, watched=watched)
