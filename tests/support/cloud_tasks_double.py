"""Test double of Cloud Tasks: the gRPC API (CreateTask) of one queue, and signed HTTP deliveries.

Deliveries carry OpenID Connect tokens. The double behaves as Google documents: a name stays blocked
after its task is done, failed deliveries are retried with exponential back-off, and a task may be
delivered twice or late. A test that moves the clock calls `drain`; `run` follows the real time.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, NoReturn, Self, cast

import grpc
import requests
from google.cloud import tasks_v2

from muster_coordinator.ports import Clock, Randomness
from support.issuer import TokenIssuer

_SERVICE = "google.cloud.tasks.v2.CloudTasks"
_NAME_BLOCKED = 24 * 3600.0  # seconds that a name stays blocked after its task
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3600.0  # seconds; the service's defaults
_MAX_AHEAD = 30 * 86400.0  # seconds from now to the schedule time
_MAX_TASK_SIZE = 1_000_000  # bytes, approximately
_ID = re.compile(r"[A-Za-z0-9_-]{1,500}\Z")
_POLL_INTERVAL = 1.0  # seconds


@dataclass
class Disorder:
    """Disorder of deliveries.

    Attributes:
      twice: Fraction of the deliveries that is repeated.
      late: Fraction that is delivered up to `most_delay` seconds late.
    """

    randomness: Randomness
    twice: float = 0.0
    late: float = 0.0
    most_delay: float = 0.0


@dataclass
class _Held:
    task: tasks_v2.Task
    due: float  # POSIX seconds
    order: int
    attempts: int = 0


class CloudTasksDouble:
    """Server of one queue, which listens at `address` inside its `with` block."""

    def __init__(self, queue: str, *, clock: Clock, issuer: TokenIssuer, disorder: Disorder | None = None) -> None:
        """Creates the queue with this full name: `projects/…/locations/…/queues/…`."""
        self.queue = queue
        self.delivered = 0  # attempts
        self._clock = clock
        self._issuer = issuer
        self._disorder = disorder
        self._held: list[_Held] = []
        self._names: dict[str, float | None] = {}  # time at which the task was done; None: it is not done
        self._open: dict[str, int] = {}  # number of copies of a task that are not done
        self._orders = 0
        self._changed = threading.Condition()
        self._local = threading.local()
        self._server = grpc.server(ThreadPoolExecutor(8, "cloud-tasks"))
        create = grpc.unary_unary_rpc_method_handler(
            self._create,
            request_deserializer=tasks_v2.CreateTaskRequest.deserialize,
            response_serializer=tasks_v2.Task.serialize,
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"CreateTask": create}),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()

    def __len__(self) -> int:
        """Returns the number of tasks that are not done."""
        with self._changed:
            return len(self._open)

    def next_due(self) -> float | None:
        """Returns the time at which the next task is due, in POSIX seconds, or None."""
        with self._changed:
            return min((held.due for held in self._held), default=None)

    def drain(self) -> int:
        """Delivers all due tasks in turn, new ones included. Returns the number of attempts."""
        attempts = 0
        while (held := self._take()) is not None:
            self._settle(held)
            attempts += 1
        return attempts

    def run(self, stop: threading.Event, *, threads: int = 8) -> None:
        """Delivers due tasks, up to `threads` at once, until `stop` is set. Checks each second."""
        with ThreadPoolExecutor(threads, "deliver") as pool:
            idle = threading.Semaphore(threads)

            def settle(held: _Held) -> None:
                try:
                    self._settle(held)
                finally:
                    idle.release()

            while not stop.is_set():
                if not idle.acquire(timeout=_POLL_INTERVAL):
                    continue
                held = self._take()
                if held is not None:
                    pool.submit(settle, held)
                    continue
                idle.release()
                with self._changed:
                    due = min((held.due for held in self._held), default=None)
                    pause = _POLL_INTERVAL if due is None else min(max(due - self._clock.now(), 0.0), _POLL_INTERVAL)
                    self._changed.wait(pause)

    def _create(self, request: tasks_v2.CreateTaskRequest, context: grpc.ServicerContext) -> tasks_v2.Task:
        task, now = request.task, self._clock.now()
        due = self._check(request, context.abort, now)
        with self._changed:
            done_at = self._names.get(task.name, -_NAME_BLOCKED)
            if done_at is None or done_at > now - _NAME_BLOCKED:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, "Requested entity already exists")
            copies = 1
            if self._disorder is not None:
                randomness = self._disorder.randomness
                copies += randomness.uniform() < self._disorder.twice
                if randomness.uniform() < self._disorder.late:
                    due += randomness.uniform() * self._disorder.most_delay
            self._names[task.name] = None
            self._open[task.name] = copies
            for _ in range(copies):
                self._orders += 1
                self._held.append(_Held(task, due, self._orders))
            self._changed.notify_all()
        return task

    def _check(self, request: tasks_v2.CreateTaskRequest, abort: Callable[..., NoReturn], now: float) -> float:
        """Checks a request like the service, and returns the time at which the task is due."""
        task, http = request.task, request.task.http_request
        if request.parent != self.queue:
            abort(grpc.StatusCode.NOT_FOUND, "Requested entity was not found.")
        parent, _, identifier = task.name.rpartition("/tasks/")
        if parent != self.queue or not _ID.match(identifier):
            abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"Task name {task.name!r} must be formatted as {self.queue}/tasks/ID"
            )
        if not http.url.startswith(("http://", "https://")):
            abort(
                grpc.StatusCode.INVALID_ARGUMENT, "HttpRequest.url is required and must start with http:// or https://"
            )
        if len(http.body) > _MAX_TASK_SIZE:
            abort(grpc.StatusCode.INVALID_ARGUMENT, "The task is too large")
        deadline: timedelta | None = cast("Any", task).dispatch_deadline
        if deadline is not None and not 15 <= deadline.total_seconds() <= 1800:
            abort(grpc.StatusCode.INVALID_ARGUMENT, "Task.dispatchDeadline must be between [15s, 30m].")
        scheduled: datetime | None = cast("Any", task).schedule_time
        due = scheduled.timestamp() if scheduled is not None else now
        if due > now + _MAX_AHEAD:
            abort(grpc.StatusCode.INVALID_ARGUMENT, "Task.scheduleTime is too far in the future")
        return max(due, now)

    def _take(self) -> _Held | None:
        with self._changed:
            due = [held for held in self._held if held.due <= self._clock.now()]
            if not due:
                return None
            held = min(due, key=lambda held: (held.due, held.order))
            self._held.remove(held)
            return held

    def _settle(self, held: _Held) -> None:
        held.attempts += 1
        arrived = self._deliver(held)
        with self._changed:
            self.delivered += 1
            if arrived:
                self._open[held.task.name] -= 1
                if not self._open[held.task.name]:
                    del self._open[held.task.name]
                    self._names[held.task.name] = self._clock.now()
            else:
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(held.attempts - 1, 16))
                held.due = self._clock.now() + pause
                self._held.append(held)
            self._changed.notify_all()

    def _deliver(self, held: _Held) -> bool:
        http = held.task.http_request
        headers = {
            **http.headers,
            "User-Agent": "Google-Cloud-Tasks",
            "X-CloudTasks-QueueName": self.queue.rpartition("/")[2],
            "X-CloudTasks-TaskName": held.task.name.rpartition("/")[2],
            "X-CloudTasks-TaskRetryCount": str(held.attempts - 1),
        }
        if http.oidc_token.service_account_email:
            token = self._issuer.token(
                account=http.oidc_token.service_account_email, audience=http.oidc_token.audience or http.url
            )
            headers["Authorization"] = f"Bearer {token}"
        deadline: timedelta = cast("Any", held.task).dispatch_deadline
        try:
            response = self._session().post(http.url, data=http.body, headers=headers, timeout=deadline.total_seconds())
        except requests.RequestException:
            return False
        return response.ok

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False
        return session
