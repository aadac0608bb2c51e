"""Scripted coordinator for client tests, over real HTTP, with faults for chosen requests."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from typing import Any

from werkzeug.wrappers import Request, Response

from muster.wire.messages import (
    Assignment,
    CheckinRequest,
    CheckinResponse,
    Download,
    Receipt,
    Report,
    Wait,
    WaitReason,
)
from muster.wire.plan import Plan
from muster.wire.problems import CONTENT_TYPE, ProblemError, ProblemType
from muster.wire.tensors import Array, decode, encode
from support.plans import sum_plan, sum_update

Fault = Callable[[Request, Callable[[], Response]], Response]


def problem(kind: ProblemType, **more: Any) -> Fault:
    """Answers with a problem, without handling the request."""
    error = ProblemError(kind, f"as the test wants: {kind.value}", **more)
    body = error.to_problem().model_dump_json()
    return lambda request, _: _drained(request, Response(body, status=error.status, content_type=CONTENT_TYPE))


def plain(status: int, body: str = "oops", **headers: str) -> Fault:
    """Answers like another server, with a plain body."""
    return lambda request, _: _drained(request, Response(body, status=status, headers=headers))


def _drained(request: Request, response: Response) -> Response:
    request.get_data()
    return response


def drop_before(request: Request, _: Callable[[], Response]) -> Response:
    """Breaks the connection without handling the request."""
    return _drop(request)


def drop_after(request: Request, handle: Callable[[], Response]) -> Response:
    """Handles the request and breaks the connection before the answer."""
    handle()
    return _drop(request)


def _drop(request: Request) -> Response:
    request.get_data()
    request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError


@dataclass
class Double:
    """Coordinator with one task, whose open round accepts any number of clients.

    Attributes:
      plan: The task's plan.
      url: The address, set by the test.
      round: The open round.
      waits: Answers of the next check-ins, before assignments.
      faults: Faults of the next requests, by route (`POST /path`).
      assignment: Fields of the assignments that differ from the default.
      plan_file: The plan, as served.
      broadcast_file: The broadcast, as served.
      checkins: Received check-ins.
      uploads: Received updates, by token.
      reports: Received reports.
      requests: Number of requests, by route.
    """

    plan: Plan = field(default_factory=sum_plan)
    url: str = ""
    round: int = 1
    waits: list[Wait] = field(default_factory=list)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    assignment: dict[str, Any] = field(default_factory=dict)
    plan_file: bytes = b""
    broadcast_file: bytes = b""
    checkins: list[CheckinRequest] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    reports: list[Report] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.broadcast = encode(self.plan.initial_state())
        self.plan_file = self.plan.for_client().encode()
        self.broadcast_file = self.broadcast

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        request = Request(environ)
        route = f"{request.method} {request.path}"
        self.requests[route] += 1
        faults = self.faults.get(route, [])
        response = faults.pop(0)(request, lambda: self._serve(request)) if faults else self._serve(request)
        return response(environ, start_response)

    def _serve(self, request: Request) -> Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        method, path = request.method, request.path.removeprefix("/v1/")
        if (method, path) == ("POST", "populations/devices:checkin"):
            self.checkins.append(CheckinRequest.decode(request.get_data()))
            answer = self.waits.pop(0) if self.waits else self._assign()
            return _json(CheckinResponse(answer=answer))
        if method == "GET" and path.startswith("plans/"):
            return Response(self.plan_file)
        if method == "GET" and path.startswith("tasks/"):
            return Response(self.broadcast_file)
        if (method, path) == ("PUT", "updates"):
            body = request.get_data()
            assert request.content_length == len(body)
            self.uploads.setdefault(token, body)
            return self._receipt("accepted")
        if (method, path) == ("POST", "updates:report"):
            self.reports.append(Report.decode(request.get_data()))
            return self._receipt("reported")
        return Response(status=404)

    def _assign(self) -> Assignment:
        fields = {
            "task": "sum",
            "round": self.round,
            "token": f"token-{len(self.checkins)}",
            "expires_at": datetime.now(timezone.utc) + timedelta(minutes=5),
            "plan": Download(url=f"/v1/plans/{self.plan.sha256}", sha256=self.plan.sha256, size=len(self.plan_file)),
            "broadcast": Download(
                url="/v1/tasks/sum/rounds/1/broadcast?sha256=x",
                sha256=sha256(self.broadcast).hexdigest(),
                size=len(self.broadcast),
            ),
            "max_update_bytes": 10_000,
        }
        return Assignment(**{**fields, **self.assignment})

    def _receipt(self, status: Any) -> Response:
        return _json(Receipt(status=status, task="sum", round=self.round, retry_after=0.0, cookie="a cookie"))

    @property
    def counted(self) -> list[dict[str, Array]]:
        """Returns the accepted updates."""
        return [decode(body) for body in self.uploads.values()]


def _json(message: Any) -> Response:
    return Response(message.encode(), content_type="application/json")


def wait(seconds: float = 3600.0) -> Wait:
    return Wait(reason=WaitReason.BETWEEN_ROUNDS, retry_after=seconds)


class Worker:
    """Substitute of the runtime whose update is made from the data."""

    def __init__(self) -> None:
        self.calls = 0

    def work(self, data: Any, broadcast: dict[str, Array]) -> dict[str, Array]:
        assert list(broadcast) == ["total", "rounds"]
        self.calls += 1
        return dict(sum_update(data["id"], data.get("value", 0.0)))
