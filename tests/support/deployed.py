"""Serves unpacked bundles with functions-framework in separate processes, as in a deployment."""

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import psutil
import requests

from muster.local.reserved_port import ReservedPort
from muster_coordinator.adapters.system import SystemClock
from support import cloud, direct
from support.cloud_tasks_double import CloudTasksDouble
from support.environments import outside
from support.harness import SECRET
from support.issuer import TokenIssuer

QUEUE = f"projects/{cloud.PROJECT}/locations/{cloud.LOCATION}/queues/{cloud.QUEUE}"
OPERATOR_KEY = "of-tests-alone"
_TIMEOUT = 120.0  # seconds; TensorFlow imports slowly with cold caches
_POLL_INTERVAL = 0.05  # seconds
_TAIL = 3000  # characters of a log in a failure
_MEGABYTE = 1 << 20

T = TypeVar("T")


class NotServingError(AssertionError):
    """Error raised when a function did not start or respond. The message is the end of its log."""


def unpacked(bundle: Path, folder: Path) -> Path:
    """Unpacks a bundle into a folder, and returns the folder."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    return folder


@dataclass(frozen=True)
class FirstRequest:
    """Measurement of a function's first request."""

    seconds: float
    before: float  # megabytes of resident memory before the request
    after: float  # megabytes


class Function:
    """Process of a function, which ends with its children at the end of the `with` block.

    Args:
      target: The function's name.
      folder: The folder of its unpacked bundle, which is the working directory.
      python: The `bin` folder of its virtual environment.
      settings: Its settings, as environment variables.
      port: The port to listen on.
      log: The file for its output.
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
                env=outside(
                    **{"TF_CPP_MIN_LOG_LEVEL": "3", "THREADS": "8", "PYTHONDONTWRITEBYTECODE": "1", **settings}
                ),
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
        """Waits until the process has imported the bundle and listens. Raises `NotServingError`."""
        deadline, pause, port = time.monotonic() + _TIMEOUT, threading.Event(), int(self.url.rpartition(":")[2])
        # The port opens before the worker imports the bundle. The framework answers /robots.txt
        # itself, but only after the import.
        while True:
            with contextlib.suppress(OSError), direct.session() as session:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
                if session.get(f"{self.url}/robots.txt", timeout=_TIMEOUT).status_code < 500:
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NotServingError(self.log()[-_TAIL:])
            pause.wait(_POLL_INTERVAL)

    def serves(self) -> FirstRequest:
        """Waits until the process listens, and measures the first request.

        Raises `NotServingError`.
        """
        self.wait()
        return self.first_request()

    def first_request(self) -> FirstRequest:
        """Measures a health check, for which the function builds its application."""
        before, start = self.megabytes(), time.perf_counter()
        with direct.session() as session:
            response = session.get(f"{self.url}/healthz", timeout=_TIMEOUT)
        seconds = time.perf_counter() - start
        if response.status_code != requests.codes.ok:
            raise NotServingError(f"{response.text}\n{self.log()[-_TAIL:]}")
        return FirstRequest(seconds, before, self.megabytes())

    def megabytes(self) -> float:
        """Returns the resident memory of the largest of its processes, the worker."""
        processes = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        return max(process.memory_info().rss for process in processes) / _MEGABYTE

    def log(self) -> str:
        """Returns the output so far."""
        return self._log.read_text(errors="replace")

    def terminate(self) -> bool:
        """Sends SIGTERM, as a platform does. Returns whether the process was running."""
        running = self._process.poll() is None
        if running:
            self._process.terminate()
        return running

    def stop(self) -> None:
        """Ends the process and its children. Idempotent."""
        if self.terminate():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(8.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def end(functions: Iterable[Function]) -> None:
    """Ends functions concurrently, since each waits some seconds for its open connections."""
    functions = list(functions)
    for function in functions:
        function.terminate()
    for function in functions:
        function.stop()


@dataclass(frozen=True)
class LocalDeployment:
    """Local deployment: the ports of the functions by name, their settings, and their queue."""

    ports: Mapping[str, int]
    settings: Mapping[str, str]
    queue: CloudTasksDouble

    def url(self, function: str) -> str:
        """Returns a function's address."""
        return f"http://127.0.0.1:{self.ports[function]}"


@contextlib.contextmanager
def local_deployment(issuer: TokenIssuer, stores: Mapping[str, str]) -> Iterator[LocalDeployment]:
    """Yields a local deployment, with a running test double of Cloud Tasks.

    `stores` holds the settings of both stores.
    """
    stop = threading.Event()
    with contextlib.ExitStack() as held, CloudTasksDouble(QUEUE, clock=SystemClock(), issuer=issuer) as double:
        names = ("client_api", "operator_api", "aggregator", "committer")
        ports = {name: held.enter_context(ReservedPort()).number for name in names}
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
            yield LocalDeployment(ports, settings, double)
        finally:
            stop.set()
            delivering.join()


class ProtocolCaller:
    """Client and operator that speak the protocol in plain JSON, without code of the bundles."""

    def __init__(self, deployment: LocalDeployment) -> None:
        self._deployment = deployment
        self._session = direct.session()

    def ask(self, function: str, method: str, path: str, **options: Any) -> requests.Response:
        """Sends a request; to the operator API with an operator's key."""
        if function == "operator_api":
            options["headers"] = {"Authorization": f"Bearer {OPERATOR_KEY}", **options.get("headers", {})}
        return self._session.request(method, self._deployment.url(function) + path, timeout=_TIMEOUT, **options)

    def done(self, *request: Any, **options: Any) -> requests.Response:
        """Sends a request that must succeed."""
        response = self.ask(*request, **options)
        assert response.ok, (request, response.status_code, response.text)
        return response

    def make_task(self, name: str, plan: bytes, sha256: str, **policy: Any) -> None:
        """Stores the plan and creates a task of it, whose population has the same name."""
        self.done("operator_api", "PUT", f"/v1/plans/{sha256}", data=plan)
        body = {"name": name, "population": name, "plan": sha256, "policy": policy}
        self.done("operator_api", "POST", "/v1/tasks", json=body)

    def assigned(self, population: str, client: int) -> str:
        """Checks a client in until it gets an assignment, and returns the token."""
        path, body = f"/v1/populations/{population}:checkin", {"client": f"client-{client}"}

        def check_in() -> str | None:
            answer = self.done("client_api", "POST", path, json=body).json()["answer"]
            return str(answer["token"]) if answer["status"] == "assigned" else None

        return self.until(check_in)

    def upload(self, token: str, update: bytes) -> requests.Response:
        """Uploads an update. The response may be a refusal."""
        return self.ask("client_api", "PUT", "/v1/updates", data=update, headers={"Authorization": f"Bearer {token}"})

    def task(self, name: str) -> dict[str, Any]:
        """Returns a task's view."""
        return dict(self.done("operator_api", "GET", f"/v1/tasks/{name}").json())

    def result(self, name: str, number: int) -> bytes:
        """Returns a round's result."""
        return self.done("operator_api", "GET", f"/v1/tasks/{name}/rounds/{number}/result").content

    def committed(self, name: str, number: int) -> None:
        """Waits until the round is committed."""
        self.until(lambda: self.task(name)["checkpoint"] >= number or None)

    @staticmethod
    def until(poll: Callable[[], T | None]) -> T:
        """Polls until the result is not None, and returns it."""
        deadline, pause = time.monotonic() + _TIMEOUT, threading.Event()
        while (result := poll()) is None:
            assert time.monotonic() < deadline, poll
            pause.wait(_POLL_INTERVAL)
        return result
