"""Google's services for tests: adapters over the emulators, each test in a project or bucket of its own, and a queue at a double."""

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

EMULATORS = pytest.mark.xdist_group("emulators")  # all in one worker, which starts each emulator once
ACCOUNT = "queue@muster-test.iam.gserviceaccount.com"
PROJECT, LOCATION, QUEUE = "muster-test", "europe-west1", "work"
_NUMBERS = itertools.count(1)


def started(emulator: Emulator) -> Emulator:
    """Starts it, or skips the test where it is not installed; with MUSTER_REQUIRE_EMULATORS=1 that is a failure."""
    check_installed(emulator)
    return emulator.start()


def check_installed(*emulators: Emulator) -> None:
    """Skips the test where one of them is not installed; with MUSTER_REQUIRE_EMULATORS=1 that is a failure."""
    missing = " ".join(filter(None, (emulator.missing() for emulator in emulators)))
    if missing and os.environ.get("MUSTER_REQUIRE_EMULATORS") == "1":
        pytest.fail(f"{missing} (MUSTER_REQUIRE_EMULATORS=1 forbids to skip it)", pytrace=False)
    if missing:
        pytest.skip(missing)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Sets environment variables; Google's clients read them when they are made."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextmanager
def firestore(address: str, project: str | None = None, **options: Any) -> Iterator[FirestoreDocuments]:
    """Documents at an emulator, or at a proxy before it; empty, unless `project` has been used before."""
    with environment(FIRESTORE_EMULATOR_HOST=address):
        documents = FirestoreDocuments(project or f"project-{next(_NUMBERS)}", **options)
    yield documents
    documents.close()


@contextmanager
def gcs(
    emulator: StorageEmulator, url: str | None = None, bucket: str | None = None, **options: Any
) -> Iterator[GcsBlobs]:
    """Blobs at an emulator, or at a proxy before it with `url`; empty, unless `bucket` is given, which must be there."""
    if bucket is None:
        bucket = f"bucket-{next(_NUMBERS)}"
        emulator.make_bucket(bucket)
    with environment(STORAGE_EMULATOR_HOST=url or f"http://{emulator.address}"):
        blobs = GcsBlobs(bucket, **options)
    yield blobs
    blobs.close()


@dataclass
class CloudTasksHome:
    """A queue at a double, which delivers to an HTTP server here that checks each token."""

    queue: CloudTasksQueue
    double: CloudTasksDouble
    clock: ManualClock
    handler: Callable[[WorkItem], bool] | None = None
    errors: list[Exception] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def deliver(self, handler: Callable[[WorkItem], bool]) -> int:
        """Has all that is due delivered to `handler`; raises what it raised."""
        self.handler = handler
        tried = self.double.drain()
        if self.errors:
            raise self.errors.pop()
        return tried

    def wait(self, seconds: float) -> None:
        """Lets time pass."""
        self.clock.advance(seconds)

    def take(self, path: str, headers: dict[str, str], body: bytes, invoker: OidcInvokerAuthenticator) -> int:
        """Answers a delivery with a status."""
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
    """A home for the adapter's own client code and a double's gRPC API."""
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
