"""A coordinator at a URL as a load's target: blocking requests in threads, on open connections."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar
from urllib.parse import urlsplit

from muster.client import TensorBody, Transport
from muster.client.direct_upload import DirectUploader
from muster.load.targets import JSON, OCTETS, Answer, Target, Use
from muster.wire.enrolment import PrivateKey
from muster.wire.messages import Assignment, Receipt, Report
from muster.wire.signatures import SigningKey
from muster.wire.tensors import Array

_TIMEOUT = 60.0  # seconds for a response
_POLL_HERE, _POLL_THERE = 0.02, 0.2  # seconds; a poll of a deployment costs it a request
_INSTALL_PSUTIL = "To see what the coordinator's processes use: pip install 'muster-fl[load]'"
T = TypeVar("T")


@dataclass(frozen=True)
class Access:
    """Credentials that a deployment requires of an operator and of clients.

    Attributes:
      operator_url: URL of the operator API; None: that of the client API.
      token: An operator's bearer token.
      signing_key: Signs the plan.
      enrolment_key: Enrols the clients.
    """

    operator_url: Optional[str] = None
    token: Optional[str] = None
    signing_key: Optional[SigningKey] = None
    enrolment_key: Optional[PrivateKey] = None


class Served(Target):
    """A coordinator at a URL.

    Args:
      url: URL of the client API. It is reached without a proxy.
      lanes: Most requests at once.
      access: What the deployment requires.
      pids: Process ids by role, if the coordinator runs on this machine and ends with the load.
    """

    def __init__(self, url: str, *, lanes: int, access: Access, pids: Optional[Mapping[str, int]] = None) -> None:
        self.lanes = lanes
        self.remote = pids is None
        self.same_clock = pids is not None
        self.poll_seconds = _POLL_THERE if self.remote else _POLL_HERE
        self._url = url
        self._access = access
        self._pids = pids or {}
        self._parts = urlsplit(url)
        self._local = threading.local()  # a transport per thread, since sessions are not thread-safe
        self._threads = ThreadPoolExecutor(lanes + 1, "load")  # one for an operator's polls
        self._closed = False
        self._idle: list[http.client.HTTPConnection] = []
        self._connections: set[http.client.HTTPConnection] = set()

    def close(self) -> None:
        """Closes all connections; requests under way fail, so that no thread outlives the load."""
        self._closed = True
        self._threads.shutdown(wait=False)
        for connection in list(self._connections):
            if connection.sock is not None:
                with contextlib.suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def request(self, method: str, path: str, *, body: bytes = b"", token: Optional[str] = None) -> Answer:
        """See `Target.request`."""
        failure, headers = "closed", {"Content-Type": OCTETS if method == "PUT" else JSON}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        for reuse in (True, False):
            if self._closed:
                break
            connection = self._connection(reuse=reuse)
            try:
                connection.request(method, self._parts.path.rstrip("/") + path, body=body or None, headers=headers)
                response = connection.getresponse()
                answer = Answer(response.status, response.read())
            except (http.client.HTTPException, OSError) as error:
                # The server may close idle connections; every request may be repeated.
                connection.close()
                self._connections.discard(connection)
                failure = f"{type(error).__name__}: {error}"
            else:
                self._idle.append(connection)
                return answer
        return Answer(0, failure.encode())

    def upload_to_store(self, assignment: Mapping[str, Any], update: Mapping[str, Array]) -> bool:
        """See `Target.upload_to_store`."""
        if not hasattr(self._local, "transport"):
            self._local.transport = Transport(self._url)
        transport: Transport = self._local.transport
        message = Assignment.from_dict(dict(assignment))
        if not DirectUploader(transport, message, TensorBody(update)).send():
            return False
        report = Report(outcome="uploaded")
        transport.call("POST", "/v1/updates:report", message=report, answer=Receipt, token=message.token)
        return True

    def operator(self) -> Transport:
        """See `Target.operator`."""
        return Transport(self._access.operator_url or self._url, token=self._access.token)

    async def call(self, function: Callable[[], T]) -> T:
        """See `Target.call`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def changed(self, seconds: float) -> None:
        """See `Target.changed`."""
        await asyncio.sleep(seconds)

    def used(self) -> dict[str, Use]:
        """See `Target.used`."""
        return used_by(self._pids)

    @property
    def unmeasured(self) -> str:
        """See `Target.unmeasured`."""
        return _INSTALL_PSUTIL if self._pids and find_spec("psutil") is None else ""

    def _connection(self, *, reuse: bool) -> http.client.HTTPConnection:
        with contextlib.suppress(IndexError):
            if reuse:
                return self._idle.pop()
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.netloc, timeout=_TIMEOUT)
        self._connections.add(connection)
        return connection


def used_by(roots: Mapping[str, int]) -> dict[str, Use]:
    """Returns what processes and their children have used so far.

    Args:
      roots: Process ids by role.

    Returns:
      Usage by role, without processes that have ended; empty if psutil is not installed.
    """
    try:
        import psutil
    except ImportError:
        return {}
    usage: dict[str, Use] = {}
    for role, pid in roots.items():
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            cpu, peaks = 0.0, []
            for process in (root, *root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    cpu += sum(process.cpu_times()[:4])  # user and system, then those of ended children
                    peaks.append(_peak(process))
            usage[role] = Use(cpu, max(peaks), len(peaks))
    return usage


def _peak(process: Any) -> int:
    """Returns the peak memory of a process in bytes, or the current one if there is no record."""
    with contextlib.suppress(OSError):  # psutil has no peak on Linux
        match = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
        if match:
            return int(match[1]) << 10
    memory = process.memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))
