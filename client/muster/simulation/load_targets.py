"""What a load is put on: the coordinator's application in this process, or one at an address."""

from __future__ import annotations

import hashlib
import http.client
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional, Protocol
from urllib.parse import urlsplit

from muster.client import Transport
from muster.wire.tensors import Array

from .deployment import URL, DeliveryError, find_functions
from .load_times import Times

_RETRY_FLOOR = 0.1  # seconds, as in `muster up`
_CACHE = 0.05  # seconds, likewise
_TIMEOUT = 60.0  # seconds for an answer
_OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    body: bytes


class Target(Protocol):
    """What answers, and whose time it is."""

    threads: int
    accumulators: Optional[list[dict[str, Array]]]  # of each round, as `report` got them; None: not to be seen

    def request(self, method: str, path: str, *, body: bytes = b"", token: str = "") -> Answer:
        """One request."""

    def operator(self) -> Transport:
        """A transport for an operator."""

    def now(self) -> float:
        """POSIX seconds."""

    def wait_until(self, instant: float, woken: threading.Event) -> None:
        """Returns at `instant`, or when `woken` is set."""

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

        def call(*args: Any, **named: Any) -> Any:
            self._times.called(name)
            return inner(*args, **named)

        self.__dict__[method] = call
        return call


class InProcess:
    """The real HTTP application over embedded stores in a folder, called as WSGI, with waits that are skipped. One thread."""

    threads = 1

    def __init__(self, app: Callable[..., Any], *, clock: SkippingClock, pump: Any, queue: Any, session: Any) -> None:
        self.accumulators: Optional[list[dict[str, Array]]] = []
        self._app = app
        self._clock = clock
        self._pump = pump
        self._queue = queue
        self._session = session

    def request(self, method: str, path: str, *, body: bytes = b"", token: str = "") -> Answer:
        """See `Target.request`."""
        place, _, query = path.partition("?")
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": place,
            "QUERY_STRING": query,
            "SCRIPT_NAME": "",
            "SERVER_NAME": "simulation.invalid",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": _OCTETS if method == "PUT" else "application/json",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.version": (1, 0),
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        if token:
            environ["HTTP_AUTHORIZATION"] = f"Bearer {token}"
        status = 0

        def start(line: str, _headers: Any, _error: Any = None) -> None:
            nonlocal status
            status = int(line[:3])

        chunks = self._app(environ, start)
        try:
            return Answer(body=b"".join(chunks), status=status)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()

    def operator(self) -> Transport:
        """See `Target.operator`."""
        return Transport(URL, session=self._session, attempts=1)

    def now(self) -> float:
        """See `Target.now`."""
        return self._clock.now()

    def wait_until(self, instant: float, woken: threading.Event) -> None:
        """See `Target.wait_until`."""
        del woken  # nobody else is there to set it
        self._clock.skip_to(instant)

    def settle(self) -> None:
        """See `Target.settle`."""
        self._pump.drain(self._clock.now())

    def next_due(self) -> Optional[float]:
        """See `Target.next_due`."""
        due: Optional[float] = self._queue.next_due()
        return due


@contextmanager
def in_process(times: Times) -> Iterator[InProcess]:
    """A coordinator in this process, for the length of a `with` block; its folder is gone afterwards.

    Raises:
      ImportError: the server's dependencies are not installed, or Python is too old for it.
    """
    find_functions()
    import requests
    from werkzeug.wrappers import Request

    from coordinator.adapters.directory import DirectoryBlobs
    from coordinator.adapters.local_queue import LocalQueue, Pump
    from coordinator.adapters.sqlite import SqliteDocuments
    from coordinator.adapters.system import SystemChance
    from coordinator.application import assemble
    from coordinator.bootstrap import runtimes
    from coordinator.http import router
    from coordinator.use_cases.records import Platform

    from .in_process import InProcessAdapter

    clock, chance = SkippingClock(), SystemChance()
    made = runtimes()
    seen: list[dict[str, Array]] = []

    class Watched:
        """A plan's runtime whose reported accumulators are kept."""

        def __init__(self, runtime: Any) -> None:
            self._runtime = runtime

        def __getattr__(self, name: str) -> Any:
            return getattr(self._runtime, name)

        def report(self, accumulator: Mapping[str, Array]) -> Any:
            seen.append({name: value.copy() for name, value in accumulator.items()})
            return self._runtime.report(accumulator)

    def runtime(plan: Any) -> Any:
        return Watched(made(plan))

    def deliver(delivery: Any) -> bool:
        work = delivery.work
        with times.phase(work.kind):
            answer = session.post(f"{URL}/internal/{work.kind}", json=dict(work.payload))
        if not answer.ok:
            raise DeliveryError(f"{work.kind} {dict(work.payload)} failed: {answer.text}")
        return True

    with (
        TemporaryDirectory(prefix="muster-load-") as folder,
        closing(SqliteDocuments(Path(folder) / "state.db")) as documents,
        closing(LocalQueue(Path(folder) / "queue.db", clock=clock)) as queue,
        requests.Session() as session,
    ):
        session.trust_env = False
        counted: list[Any] = [
            Counted(port, name, times)
            for name, port in (
                ("documents", documents),
                ("blobs", DirectoryBlobs(Path(folder) / "blobs")),
                ("queue", queue),
            )
        ]
        app = assemble(
            Platform(counted[0], counted[1], counted[2], clock, chance),
            secret=hashlib.sha256(folder.encode()).digest(),
            runtime=runtime,
            round_cache_seconds=_CACHE,
            retry_floor=_RETRY_FLOOR,
        )
        wsgi = Request.application(router(app))
        session.mount(URL, InProcessAdapter(wsgi))
        target = InProcess(wsgi, clock=clock, pump=Pump(queue, deliver, chance=chance), queue=queue, session=session)
        target.accumulators = seen
        yield target


class Served:
    """A coordinator at an address: one connection for each thread, kept open."""

    accumulators: Optional[list[dict[str, Array]]] = None

    def __init__(self, url: str, *, threads: int) -> None:
        self.threads = threads
        self._url = url
        self._place = urlsplit(url)
        self._local = threading.local()

    def request(self, method: str, path: str, *, body: bytes = b"", token: str = "") -> Answer:
        """See `Target.request`."""
        headers = {"Content-Type": _OCTETS if method == "PUT" else "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        for attempt in (1, 2):
            connection = self._connection()
            try:
                connection.request(method, self._place.path.rstrip("/") + path, body=body or None, headers=headers)
                answer = connection.getresponse()
                return Answer(answer.status, answer.read())
            except (http.client.HTTPException, OSError):
                # A connection that has idled may be closed by the other side; every request may be repeated.
                connection.close()
                self._local.connection = None
                if attempt == 2:  # noqa: PLR2004
                    raise
        raise AssertionError("unreachable")

    def operator(self) -> Transport:
        """See `Target.operator`."""
        return Transport(self._url)

    def now(self) -> float:
        """See `Target.now`."""
        return time.time()

    def wait_until(self, instant: float, woken: threading.Event) -> None:
        """See `Target.wait_until`."""
        woken.wait(max(0.0, instant - time.time()))

    def settle(self) -> None:
        """Has nothing to do: the deployment does its own work."""

    def next_due(self) -> Optional[float]:
        """See `Target.next_due`."""
        return None

    def _connection(self) -> http.client.HTTPConnection:
        found: Optional[http.client.HTTPConnection] = getattr(self._local, "connection", None)
        if found is None:
            kind = http.client.HTTPSConnection if self._place.scheme == "https" else http.client.HTTPConnection
            found = self._local.connection = kind(self._place.netloc, timeout=_TIMEOUT)
        return found
