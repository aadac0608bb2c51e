"""Work in a Cloud Tasks queue, which POSTs it to the functions with an OIDC token of the account that may call them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import grpc
from google.api_core import exceptions
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from muster_coordinator.adapters.google_calls import PATIENCE, harmless, translated
from muster_coordinator.adapters.loopback import exclude_loopback_from_proxies
from muster_coordinator.ports import Clock, StoreError, WorkItem

# Seconds that a delivery may take: the most there is; a function that dies is noticed at once.
_DISPATCH_DEADLINE = 1800
_LONGEST_DELAY = 29 * 86400.0  # seconds; the service refuses more than 30 days
_LONGEST_NAME = 400  # characters, of the service's 500
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")


class CloudTasksQueue:
    """`WorkQueue` in Cloud Tasks. A name stays blocked for up to a day after its work has been done."""

    def __init__(
        self,
        project: str,
        location: str,
        queue: str,
        *,
        targets: Mapping[str, str],
        account: str,
        clock: Clock,
        endpoint: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Connects with the first call, under the credentials of the environment.

        Args:
          project: The Google Cloud project.
          location: The queue's region.
          queue: The queue's name; it must be there.
          targets: Function name to base URL, such as `{"committer": "https://committer-….run.app"}`; also the audience of the
            tokens.
          account: The service account whose token deliveries carry; the functions' account must be allowed to act as it.
          clock: Tells when a delayed delivery is due.
          endpoint: `host:port` of a stand-in for the service, spoken to without TLS and credentials.
          patience: Seconds that a call may take, its repeats included.

        Raises:
          StoreError: there are no credentials.
        """
        exclude_loopback_from_proxies()
        self._parent = f"projects/{project}/locations/{location}/queues/{queue}"
        self._targets = {function: url.rstrip("/") for function, url in targets.items()}
        self._account = account
        self._clock = clock
        self._patience = patience
        with translated(self._parent):
            if endpoint is None:
                self._client = tasks_v2.CloudTasksClient()
            else:
                transport = CloudTasksGrpcTransport(channel=grpc.insecure_channel(endpoint))
                self._client = tasks_v2.CloudTasksClient(transport=transport)

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        """See `WorkQueue.enqueue`. Delays are cut at 29 days: what comes early sees that it does."""
        task = tasks_v2.Task(
            name=f"{self._parent}/tasks/{_task_id(name)}",
            http_request=tasks_v2.HttpRequest(
                http_method=tasks_v2.HttpMethod.POST,
                url=f"{self._target(work)}/internal/{work.kind}",
                headers={"Content-Type": "application/json"},
                body=json.dumps(dict(work.payload)).encode(),
                oidc_token=tasks_v2.OidcToken(service_account_email=self._account, audience=self._target(work)),
            ),
            dispatch_deadline=Duration(seconds=_DISPATCH_DEADLINE),
        )
        if delay > 0:
            due = Timestamp()
            due.FromNanoseconds(int((self._clock.now() + min(delay, _LONGEST_DELAY)) * 1e9))
            task.schedule_time = due
        with translated(f"{self._parent}: {name}"):
            try:
                self._client.create_task(
                    parent=self._parent, task=task, retry=harmless(self._patience), timeout=self._patience
                )
            except exceptions.AlreadyExists:
                return  # a repeat, or our own work whose answer was lost

    def close(self) -> None:
        """Closes the connection."""
        self._client.transport.close()

    def _target(self, work: WorkItem) -> str:
        try:
            return self._targets[work.function]
        except KeyError:
            raise StoreError(f"{work.kind} is for {work.function!r}, which has no address here") from None


def _task_id(name: str) -> str:
    """The task's id. It starts with a hash: Cloud Tasks is slow with ids that follow one another."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{digest[:16]}-{_NOT_IN_NAMES.sub('-', name)[:_LONGEST_NAME]}"
