"""Google's services for tests: adapters over emulators and over a test double of Cloud Tasks.

Each test gets a separate project or bucket.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from muster.local.emulators import Emulator, StorageEmulator
from muster_coordinator.adapters.cloud_tasks import CloudTasksQueue
from muster_coordinator.adapters.firestore import FirestoreDocuments
from muster_coordinator.adapters.gcs import GcsBlobs
from muster_coordinator.adapters.invoker_authenticator import OidcInvokerAuthenticator
from muster_coordinator.adapters.system import ManualClock
from muster_coordinator.ports import WorkItem
from support.cloud_tasks_double import CloudTasksDouble
from support.issuer import TokenIssuer

# One worker runs all these tests, and starts each emulator once
EMULATORS = pytest.mark.xdist_group("emulators")
ACCOUNT = "queue@muster-test.iam.gserviceaccount.com"
PROJECT, LOCATION, QUEUE = "muster-test", "europe-west1", "work"
_NUMBERS = itertools.count(1)


def started(emulator: Emulator) -> Emulator:
    """Starts and returns an emulator, after `check_installed`."""
    check_installed(emulator)
    return emulator.start()


def check_installed(*emulators: Emulator) -> None:
    """Skips the test if an emulator is missing, or fails it with MUSTER_REQUIRE_EMULATORS=1."""
    missing = " ".join(filter(None, (emulator.missing() for emulator in emulators)))
    if missing and os.environ.get("MUSTER_REQUIRE_EMULATORS") == "1":
        pytest.fail(f"{missing} (MUSTER_REQUIRE_EMULATORS=1 forbids skipping this test)", pytrace=False)
    if missing:
        pytest.skip(missing)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Sets environment variables inside the block.

    Google's clients read them when they are created.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextmanager
def firestore(address: str, project: str | None = None, **options: Any) -> Iterator[FirestoreDocuments]:
    """Yields documents at an emulator or a proxy of it, empty unless `project` was used before."""
    with environment(FIRESTORE_EMULATOR_HOST=address):
        documents = FirestoreDocuments(project or f"project-{next(_NUMBERS)}", **options)
    yield documents
    documents.close()


@contextmanager
def gcs(
    emulator: StorageEmulator, url: str | None = None, bucket: str | None = None, **options: Any
) -> Iterator[GcsBlobs]:
    """Yields blobs at an emulator, or at a proxy of it with the address `url`.

    They are empty unless `bucket` is given, which must exist.
    """
    if bucket is None:
        bucket = f"bucket-{next(_NUMBERS)}"
        emulator.make_bucket(bucket)
    with environment(STORAGE_EMULATOR_HOST=url or f"http://{emulator.address}"):
        blobs = GcsBlobs(bucket, **options)
    yield blobs
    blobs.close()


@dataclass
class CloudTasksHome:
    """Queue over a test double, which delivers to an HTTP server that checks each token.

    Attributes:
      queue: The adapter under test.
      double: The test double.
      clock: The double's clock.
      handler: Handles the deliveries.
      errors: The exceptions of the handler that `deliver` has not raised yet.
      headers: The headers of each delivery.
    """

    queue: CloudTasksQueue
    double: CloudTasksDouble
    clock: ManualClock
    handler: Callable[[WorkItem], bool] | None = None
    errors: list[Exception] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def deliver(self, handler: Callable[[WorkItem], bool]) -> int:
        """Delivers all due work to `handler` and returns the number of attempts.

        Raises the handler's error, if any.
        """
        self.handler = handler
        attempts = self.double.drain()
        if self.errors:
            raise self.errors.pop()
        return attempts

    def wait(self, seconds: float) -> None:
        """Advances the clock."""
        self.clock.advance(seconds)

    def take(self, path: str, headers: dict[str, str], body: bytes, invoker: OidcInvokerAuthenticator) -> int:
        """Handles a delivery and returns the status of the response."""
        function, _, kind = path[1:].split("/")
        self.headers.append(headers)
        try:
            invoker.verify(headers["Authorization"].removeprefix("Bearer "), function=function)
            assert self.handler is not None
            return 204 if self.handler(WorkItem(function, kind, json.loads(body))) else 503
        except Exception as error:  # noqa: BLE001  `deliver` raises it again
            self.errors.append(error)
            return 500


@contextmanager
def cloud_tasks(issuer: TokenIssuer) -> Iterator[CloudTasksHome]:
    """Yields a queue whose adapter calls a double's gRPC API."""
    clock = ManualClock(1_000_000.0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(home.take(self.path, dict(self.headers), body, invoker))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    targets = {"aggregator": f"{base}/aggregator", "committer": f"{base}/committer"}
    invoker = OidcInvokerAuthenticator(issuer=issuer.url, account=ACCOUNT, audiences=targets)
    name = f"projects/{PROJECT}/locations/{LOCATION}/queues/{QUEUE}"
    with CloudTasksDouble(name, clock=clock, issuer=issuer) as double:
        queue = CloudTasksQueue(
            PROJECT, LOCATION, QUEUE, targets=targets, account=ACCOUNT, clock=clock, endpoint=double.address
        )
        home = CloudTasksHome(queue, double, clock)
        yield home
        queue.close()
    server.shutdown()
    server.server_close()
