"""A coordinator behind an address as a load's target: one connection for each thread, kept open."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional
from urllib.parse import urlsplit

from muster.client import TensorBody, Transport
from muster.client.direct_upload import DirectSender
from muster.load.processes import Use, used_by
from muster.load.targets import Answer
from muster.wire.enrolment import PrivateKey
from muster.wire.messages import Assignment, Receipt, Report
from muster.wire.signatures import SigningKey
from muster.wire.tensors import Array

_TIMEOUT = 60.0  # seconds for an answer
_LOOK_HERE, _LOOK_THERE = 0.02, 0.2  # seconds; there each look costs a deployment's instance
_JSON, _OCTETS = "application/json", "application/octet-stream"


@dataclass(frozen=True)
class Access:
    """What a deployment asks for before it lets anybody in.

    Attributes:
      operator_url: The operator API's address; None: the clients'.
      token: An operator's bearer token.
      signing_key: Signs the plan.
      enrolment_key: Enrols the clients.
    """

    operator_url: Optional[str] = None
    token: Optional[str] = None
    signing_key: Optional[SigningKey] = None
    enrolment_key: Optional[PrivateKey] = None


class Served:
    """A coordinator at an address.

    Args:
      url: The client API's address. It is reached without a proxy.
      threads: Requests at once.
      access: How one gets in.
      pids: Its processes by role, where they are of this machine and end with the load.
    """

    def __init__(
        self,
        url: str,
        *,
        threads: int,
        access: Access,
        pids: Optional[Mapping[str, int]] = None,
    ) -> None:
        self.threads = threads
        self.remote = pids is None
        self.same_clock = pids is not None
        self.look = _LOOK_THERE if self.remote else _LOOK_HERE
        self._url = url
        self._access = access
        self._pids = pids or {}
        self._place = urlsplit(url)
        self._local = threading.local()

    def request(self, method: str, path: str, *, body: bytes = b"", token: Optional[str] = None) -> Answer:
        """See `Target.request`."""
        headers = {"Content-Type": _OCTETS if method == "PUT" else _JSON}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        failure = ""
        for _ in range(2):
            connection = self._connection()
            try:
                connection.request(method, self._place.path.rstrip("/") + path, body=body or None, headers=headers)
                answer = connection.getresponse()
                return Answer(answer.status, answer.read())
            except (http.client.HTTPException, OSError) as error:
                # A connection that has idled may be closed by the other side; every request may be repeated.
                connection.close()
                self._local.connection = None
                failure = f"{type(error).__name__}: {error}"
        return Answer(0, failure.encode())

    def to_store(self, assignment: Mapping[str, Any], update: Mapping[str, Array]) -> bool:
        """See `Target.to_store`."""
        transport: Optional[Transport] = getattr(self._local, "transport", None)
        if transport is None:
            transport = self._local.transport = Transport(self._url)
        given = Assignment.from_dict(dict(assignment))
        if not DirectSender(transport, given, TensorBody(update)).send():
            return False
        report = Report(outcome="uploaded")
        transport.call("POST", "/v1/updates:report", message=report, answer=Receipt, token=given.token)
        return True

    def operator(self) -> Transport:
        """See `Target.operator`."""
        return Transport(self._access.operator_url or self._url, token=self._access.token)

    def accumulator(self) -> Optional[dict[str, Array]]:
        """See `Target.accumulator`: it is never released."""
        return None

    def used(self) -> dict[str, Use]:
        """See `Target.used`."""
        return used_by(self._pids)

    def now(self) -> float:
        """See `Target.now`."""
        return time.time()

    def wait_until(self, instant: float) -> None:
        """See `Target.wait_until`."""
        time.sleep(max(0.0, instant - time.time()))

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
