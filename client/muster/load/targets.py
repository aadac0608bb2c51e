"""Targets of a load, and the nearest one: the coordinator's application in this process."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from types import SimpleNamespace
from typing import Any, Callable, Optional, TypeVar

from muster.client import Transport
from muster.load.loop import LoadLoop
from muster.load.times import Times
from muster.testing import URL, InProcessCoordinator, in_process_coordinator
from muster.wire.tensors import Array

_RETRY_FLOOR = 0.1  # seconds, as in `muster up`
_ROUND_CACHE = 0.05  # seconds, as in `muster up`
JSON, OCTETS = "application/json", "application/octet-stream"
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """A response. Status 0: there was no response, and the body holds the reason."""

    status: int
    body: bytes


@dataclass(frozen=True)
class Use:
    """Resources that a process and its children used.

    Attributes:
      cpu: Seconds of CPU time.
      peak: Bytes of memory that the largest of them held at once.
      processes: Number of processes.
    """

    cpu: float
    peak: int
    processes: int

    def since(self, before: Use) -> Use:
        """Returns the CPU time since `before`; the peak is that of the processes' lifetime."""
        return Use(self.cpu - before.cpu, self.peak, self.processes)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible data."""
        return {"cpu_seconds": self.cpu, "peak_bytes": self.peak, "processes": self.processes}


class Target(ABC):
    """A coordinator under load. `request` and `upload_to_store` block: use `call` for them.

    Attributes:
      lanes: Most requests at once.
      poll_seconds: Pause between polls of the round's state by an operator.
      same_clock: True if the coordinator's timestamps are of the load's clock.
      remote: True if the coordinator outlives the load.
    """

    lanes: int
    poll_seconds: float
    same_clock: bool
    remote: bool

    @abstractmethod
    def request(self, method: str, path: str, *, body: bytes = b"", token: Optional[str] = None) -> Answer:
        """Sends one request of a client."""

    @abstractmethod
    def operator(self) -> Transport:
        """Returns a transport for an operator."""

    @abstractmethod
    async def call(self, function: Callable[[], T]) -> T:
        """Runs a function that sends requests, and returns its result."""

    @abstractmethod
    async def changed(self, seconds: float) -> None:
        """Waits until the round's state may have changed, and for `seconds`."""

    def settle(self) -> None:  # noqa: B027  optional
        """Runs queued work that is due now. Does nothing if the target does so itself."""

    async def work(self) -> None:  # noqa: B027  optional
        """Runs queued work when due, until cancelled. Returns if the target does so itself."""

    def upload_to_store(self, assignment: Mapping[str, Any], update: Mapping[str, Array]) -> bool:
        """Uploads an update directly to the store and reports it. Raises as `Transport` does.

        Returns:
          False if the store takes no direct uploads from here.
        """
        del assignment, update
        return False

    def accumulator(self) -> Optional[dict[str, Array]]:
        """Returns the last accumulator that `report` received; None if it is out of reach."""
        return None

    @property
    def unmeasured(self) -> str:
        """Why `used` is empty although the coordinator's processes run here; else empty."""
        return ""

    def used(self) -> dict[str, Use]:
        """Returns what the coordinator's processes have used so far, by role."""
        return {}


@lru_cache
def _environ_of(method: str, path: str) -> dict[str, Any]:
    """Returns the WSGI environment of a request without its body and token."""
    from werkzeug.test import EnvironBuilder

    content_type = OCTETS if method == "PUT" else JSON
    return EnvironBuilder(path, URL, method=method, content_type=content_type).get_environ()


class InProcess(Target):
    """The real HTTP application over embedded stores, called as WSGI on the loop's thread."""

    lanes = 1
    poll_seconds = 0.0
    same_clock = True
    remote = False

    def __init__(self, coordinator: InProcessCoordinator, *, times: Times, hooks: _Hooks) -> None:
        self._coordinator = coordinator
        self._times = times
        self._hooks = hooks
        self._due = 0.0  # POSIX seconds when queued work is due next

    def request(self, method: str, path: str, *, body: bytes = b"", token: Optional[str] = None) -> Answer:
        """See `Target.request`."""
        from werkzeug.test import run_wsgi_app

        environ = {**_environ_of(method, path), "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        if token is not None:
            environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        chunks, status, _ = run_wsgi_app(self._coordinator.app, environ, buffered=True)
        return Answer(int(status[:3]), b"".join(chunks))

    def operator(self) -> Transport:
        """See `Target.operator`."""
        return self._coordinator.transport()

    async def call(self, function: Callable[[], T]) -> T:
        """See `Target.call`."""
        return function()

    async def changed(self, seconds: float) -> None:
        """See `Target.changed`: only queued work changes a round."""
        self._hooks.worked.clear()
        await self._hooks.worked.wait()
        if seconds:
            await asyncio.sleep(seconds)

    def settle(self) -> None:
        """See `Target.settle`."""
        if self._hooks.enqueued or self._coordinator.clock.now() >= self._due:
            self._settle()

    async def work(self) -> None:
        """See `Target.work`."""
        loop, wake = asyncio.get_running_loop(), self._hooks.wake
        while True:
            self._settle()
            wake.clear()
            timer = None if self._due == math.inf else loop.call_at(self._due, wake.set)
            await wake.wait()
            if timer is not None:
                timer.cancel()

    def _settle(self) -> None:
        self._hooks.enqueued = False
        with self._times.phase("queue"):
            if self._coordinator.settle():
                self._hooks.worked.set()
            due = self._coordinator.next_due()
        self._due = math.inf if due is None else due

    def accumulator(self) -> Optional[dict[str, Array]]:
        """See `Target.accumulator`."""
        return self._hooks.accumulator


class _Hooks:
    """View of a coordinator in the load's process.

    Attributes:
      enqueued: True if work was enqueued since the queue was last settled.
      wake: Set when work is enqueued, or due.
      worked: Set when work was done.
      accumulator: The last one that was reported.
    """

    def __init__(self, times: Times) -> None:
        self.enqueued = False
        self.wake = asyncio.Event()
        self.worked = asyncio.Event()
        self.accumulator: Optional[dict[str, Array]] = None
        self._times = times

    def port(self, name: str, port: Any) -> Any:
        """Returns a port whose calls are counted."""
        methods = (method for method in dir(type(port)) if not method.startswith("_"))
        return SimpleNamespace(
            **{method: partial(self._call, f"{name}.{method}", getattr(port, method)) for method in methods}
        )

    def runtime(self, runtime: Any) -> Any:
        """Returns a plan's runtime that stores the accumulator of `report`."""
        hooks = self

        class Runtime:
            def __getattr__(self, name: str) -> Any:
                return getattr(runtime, name)

            def report(self, accumulator: Mapping[str, Array], *, seconds: Optional[float] = None) -> Any:
                hooks.accumulator = {name: value.copy() for name, value in accumulator.items()}
                return runtime.report(accumulator, seconds=seconds)

        return Runtime()

    def _call(self, name: str, method: Callable[..., T], /, *arguments: Any, **named: Any) -> T:
        self._times.called(name)
        if name == "queue.enqueue":
            self.enqueued = True
            self.wake.set()
        return method(*arguments, **named)


@contextmanager
def in_process(loop: LoadLoop, times: Times) -> Iterator[InProcess]:
    """Runs a coordinator in this process for a `with` block; its data is removed afterwards.

    Args:
      loop: The loop that the load runs in, which is also the coordinator's clock.
      times: Receives the time of each kind of queued work, and the calls to the ports.

    Raises:
      ImportError: The extra `server` is not installed, or Python is older than 3.11.
    """
    hooks = _Hooks(times)
    with in_process_coordinator(
        seed=None,
        clock=loop,
        durable=True,
        wrap_runtime=hooks.runtime,
        wrap_port=hooks.port,
        around_delivery=times.phase,
        round_cache_seconds=_ROUND_CACHE,
        retry_floor=_RETRY_FLOOR,
    ) as coordinator:
        yield InProcess(coordinator, times=times, hooks=hooks)
