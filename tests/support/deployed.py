"""Functions as they are deployed: a bundle, unpacked alone, served by functions-framework in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import requests

from muster.local.held_port import HeldPort
from muster_coordinator.adapters.system import SystemClock
from support import cloud
from support.cloud_tasks_double import CloudTasksDouble
from support.environments import outside
from support.harness import SECRET
from support.issuer import TokenIssuer

QUEUE = f"projects/{cloud.PROJECT}/locations/{cloud.LOCATION}/queues/{cloud.QUEUE}"
OPERATOR_KEY = "of-tests-alone"
_PATIENCE = 120.0  # seconds; a cold TensorFlow takes its time
_LOOK = 0.05  # seconds between looks
_TAIL = 3000  # characters of a log that a failure shows
_MEGABYTE = 1 << 20


class NotServingError(AssertionError):
    """A function did not start, or did not answer; the text is the end of its log."""


def unpacked(bundle: Path, folder: Path) -> Path:
    """The bundle's files, alone in a folder."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


@dataclass(frozen=True)
class Answered:
    """What a function's first request took: seconds, and the megabytes that its process holds before and after."""

    seconds: float
    before: float
    after: float


class Function:
    """A process that serves a function until the end of the block, in a session of its own, with all that it starts.

    Args:
      target: The function's name.
      folder: Where its bundle is unpacked; the process works there, and is told of no other place.
      python: The environment's `bin` folder.
      settings: Its environment variables, beside what a system sets.
      port: Where it listens.
      log: The file for what it writes.
    """

    def __init__(
        self, target: str, *, folder: Path, python: Path, settings: Mapping[str, str], port: int, log: Path
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(  # noqa: S603
                [
                    *(str(python / "functions-framework"), "--target", target, "--source", "main.py"),
                    *("--host", "127.0.0.1", "--port", str(port)),
                ],
                cwd=folder,
                env=outside(**{"TF_CPP_MIN_LOG_LEVEL": "3", "THREADS": "8", "PYTHONDONTWRITEBYTECODE": "1"} | settings),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self) -> None:
        """Returns when its process has imported the bundle and listens; raises `NotServingError` when that will not be."""
        deadline, pause, port = time.monotonic() + _PATIENCE, threading.Event(), int(self.url.rpartition(":")[2])
        # The port is open before the worker has imported anything. What it answers to a path of the framework's own says it has.
        while True:
            with contextlib.suppress(OSError), _session() as session:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                if session.get(f"{self.url}/robots.txt", timeout=_PATIENCE).status_code < 500:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NotServingError(self.log()[-_TAIL:])
            pause.wait(_LOOK)

    def serves(self) -> Answered:
        """What the first request took, once it listens. Raises `NotServingError`."""
        self.wait()
        return self.first_request()

    def first_request(self) -> Answered:
        """Asks whether it is healthy, for which it makes its application, with all that its settings name."""
        before, start = self.megabytes(), time.perf_counter()
        with _session() as session:
            answer = session.get(f"{self.url}/healthz", timeout=_PATIENCE)
        seconds = time.perf_counter() - start
        if answer.status_code != requests.codes.ok:
            raise NotServingError(f"{answer.text}\n{self.log()[-_TAIL:]}")
        return Answered(seconds, before, self.megabytes())

    def megabytes(self) -> float:
        """Resident memory of the largest of its processes: the worker."""
        processes = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        return max(process.memory_info().rss for process in processes) / _MEGABYTE

    def log(self) -> str:
        """All that it wrote."""
        return self._log.read_text(errors="replace")

    def terminate(self) -> bool:
        """Asks it to end, as a platform does, with SIGTERM; whether there was anything to ask."""
        running = self._process.poll() is None
        if running:
            self._process.terminate()
        return running

    def stop(self) -> None:
        """Ends it, and sees to it that nothing is left. Once more is harmless."""
        if self.terminate():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(8.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def end(functions: Iterable[Function]) -> None:
    """Ends them, all at once: each waits for some seconds for the connections that are kept open to it."""
    functions = list(functions)
    for function in functions:
        function.terminate()
    for function in functions:
        function.stop()


@dataclass(frozen=True)
class Place:
    """Where the functions of a deployment meet: their ports by name, their settings, and the queue between them."""

    ports: Mapping[str, int]
    settings: Mapping[str, str]
    queue: CloudTasksDouble

    def url(self, function: str) -> str:
        """A function's address."""
        return f"http://127.0.0.1:{self.ports[function]}"


@contextlib.contextmanager
def place(issuer: TokenIssuer, stores: Mapping[str, str]) -> Iterator[Place]:
    """Free ports, and a running stand-in for Cloud Tasks that delivers to them with tokens; `stores`: the settings of both stores."""
    stop = threading.Event()
    with contextlib.ExitStack() as held, CloudTasksDouble(QUEUE, clock=SystemClock(), issuer=issuer) as double:
        names = ("client_api", "operator_api", "aggregator", "committer")
        ports = {name: held.enter_context(HeldPort()).number for name in names}
        settings = {
            "MUSTER_QUEUE": f"cloudtasks://{cloud.PROJECT}/{cloud.LOCATION}/{cloud.QUEUE}?endpoint={double.address}",
            "MUSTER_SECRET": SECRET.hex(),
            "MUSTER_ROUND_CACHE_SECONDS": "0.2",
            "MUSTER_RETRY_FLOOR": "0.1",
            "MUSTER_AGGREGATOR_URL": f"http://127.0.0.1:{ports['aggregator']}",
            "MUSTER_COMMITTER_URL": f"http://127.0.0.1:{ports['committer']}",
            "MUSTER_INVOKER": cloud.ACCOUNT,
            "MUSTER_TOKEN_ISSUER": issuer.url,
            "MUSTER_OPERATORS": f"keys:tests:operator:{hashlib.sha256(OPERATOR_KEY.encode()).hexdigest()}",
            "no_proxy": "127.0.0.1",
            **stores,
        }
        delivering = threading.Thread(target=double.run, args=(stop,))
        delivering.start()
        try:
            yield Place(ports, settings, double)
        finally:
            stop.set()
            delivering.join()


class Caller:
    """Speaks the protocol as any client and operator would: in plain JSON, and with no code of the bundles'."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._session = _session()

    def ask(self, function: str, method: str, path: str, **more: Any) -> requests.Response:
        """One request; to the operator API with an operator's key."""
        if function == "operator_api":
            more["headers"] = {"Authorization": f"Bearer {OPERATOR_KEY}", **more.get("headers", {})}
        return self._session.request(method, self._place.url(function) + path, timeout=_PATIENCE, **more)

    def done(self, *request: Any, **more: Any) -> requests.Response:
        """One request that must succeed."""
        answer = self.ask(*request, **more)
        assert answer.ok, (request, answer.status_code, answer.text)
        return answer

    def make_task(self, name: str, plan: bytes, sha256: str, **policy: Any) -> None:
        """Stores the plan and makes a task of it, whose population is called like it."""
        self.done("operator_api", "PUT", f"/v1/plans/{sha256}", data=plan)
        body = {"name": name, "population": name, "plan": sha256, "policy": policy}
        self.done("operator_api", "POST", "/v1/tasks", json=body)

    def assigned(self, population: str, client: int) -> str:
        """A client's token, as soon as there is work for it."""
        path, body = f"/v1/populations/{population}:checkin", {"client": f"client-{client}"}

        def look() -> str | None:
            answer = self.done("client_api", "POST", path, json=body).json()["answer"]
            return answer["token"] if answer["status"] == "assigned" else None

        return self.until(look)

    def upload(self, token: str, update: bytes) -> requests.Response:
        """An update; the answer may be a refusal."""
        return self.ask("client_api", "PUT", "/v1/updates", data=update, headers={"Authorization": f"Bearer {token}"})

    def task(self, name: str) -> dict[str, Any]:
        """A task, as an operator sees it."""
        return dict(self.done("operator_api", "GET", f"/v1/tasks/{name}").json())

    def result(self, name: str, number: int) -> bytes:
        """A round's result."""
        return self.done("operator_api", "GET", f"/v1/tasks/{name}/rounds/{number}/result").content

    def committed(self, name: str, number: int) -> None:
        """Returns when the round is committed."""
        self.until(lambda: self.task(name)["checkpoint"] >= number or None)

    @staticmethod
    def until(look: Any) -> Any:
        """What `look` gives, as soon as it is not None."""
        deadline, pause = time.monotonic() + _PATIENCE, threading.Event()
        while (found := look()) is None:
            assert time.monotonic() < deadline, look
            pause.wait(_LOOK)
        return found


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    return session
