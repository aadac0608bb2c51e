"""Work queue on Google Cloud Tasks.

The service POSTs each work item to its function, with an OpenID Connect token of the account that
may invoke the functions.
"""

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

from muster_coordinator.adapters.google_calls import PATIENCE, if_idempotent, translated
from muster_coordinator.adapters.loopback import exclude_loopback_from_proxies
from muster_coordinator.ports import Clock, QueueNotFoundError, StoreError, WorkItem

_DISPATCH_DEADLINE = 1800  # seconds of a delivery, the service's maximum
_MAX_DELAY = 29 * 86400.0  # seconds; the service refuses more than 30 days
_MAX_NAME = 400  # characters; the service allows 500
_NOT_IN_TASK_ID = re.compile(r"[^A-Za-z0-9_-]")


class CloudTasksQueue:
    """`WorkQueue` on Cloud Tasks.

    Delivery is at least once, in any order. A name stays reserved for up to a day after its work is
    done. Calls are retried with back-off for `patience` seconds, then raise `UnavailableError`;
    other failures raise `StoreError`.

    The service slows a queue down as a whole if deliveries are answered 429 or 503. A function that
    runs out of instances would therefore delay the work of every other function, unless its work
    has its own queue (`queues`). Ids of tasks do not depend on the queue.
    """

    def __init__(
        self,
        project: str,
        location: str,
        queue: str,
        *,
        targets: Mapping[str, str],
        account: str,
        clock: Clock,
        queues: Mapping[str, str] | None = None,
        endpoint: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Creates a queue with the environment's credentials; it connects with the first call.

        Args:
          project: Google Cloud project.
          location: Region of the queue.
          queue: Name of the queue, which must exist. It receives the work for all functions that
            are not in `queues`.
          targets: Base URL of each function, such as
            `{"committer": "https://committer-….run.app"}`; also the audience of its tokens.
          account: Service account whose token deliveries carry. The functions' account must be
            allowed to act as it.
          clock: Source of the current time, for delayed deliveries.
          queues: Names of the functions' own queues, in the same location, by function.
          endpoint: `host:port` of an emulator, which is called without TLS and credentials.
          patience: Seconds that a call may take, retries included.

        Raises:
          StoreError: There are no credentials.
        """
        exclude_loopback_from_proxies()
        prefix = f"projects/{project}/locations/{location}/queues/"
        self._parent = prefix + queue
        self._parents = {function: prefix + name for function, name in (queues or {}).items()}
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
        """See `WorkQueue.enqueue`.

        Delays are capped at 29 days; work that arrives early detects it.

        Raises:
          QueueNotFoundError: The service answers `NOT_FOUND`. After 30 days without calls and
            deliveries a queue may do so for some minutes, while it becomes active again
            (reference of the service, `Queue.state`).
        """
        parent = self._parents.get(work.function, self._parent)
        task = tasks_v2.Task(
            name=f"{parent}/tasks/{_task_id(name)}",
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
            due.FromNanoseconds(int((self._clock.now() + min(delay, _MAX_DELAY)) * 1e9))
            task.schedule_time = due
        with translated(f"{parent}: {name}"):
            try:
                self._client.create_task(
                    parent=parent, task=task, retry=if_idempotent(self._patience), timeout=self._patience
                )
            except exceptions.AlreadyExists:
                return  # a repeat, or a retry of this call after a lost response
            except exceptions.NotFound as error:
                raise QueueNotFoundError(
                    f"{parent}: {name}: {error}: the queue becomes active again after 30 days without use, which takes "
                    "a few minutes, or it does not exist"
                ) from error

    def close(self) -> None:
        """Closes the connection."""
        self._client.transport.close()

    def _target(self, work: WorkItem) -> str:
        try:
            return self._targets[work.function]
        except KeyError:
            raise StoreError(f"{work.kind} is for {work.function!r}, which has no address here") from None


def _task_id(name: str) -> str:
    """Returns a task's id: a hash, since Cloud Tasks is slow with sequential ids, and the name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{digest[:16]}-{_NOT_IN_TASK_ID.sub('-', name)[:_MAX_NAME]}"
