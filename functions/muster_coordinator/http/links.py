"""Links from each response to the calls that may follow it (OpenAPI 3.1, Link Object).

They serve readers, and tools that explore an API by its links, as the tests do. A bearer token is
not a parameter of an operation in OpenAPI, so links name the `Authorization` header instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_TASK = "/v1/tasks/{task}"
_NEXT = "$response.body#/next"


@dataclass(frozen=True, slots=True)
class Link:
    """Link to the route `method` `path`.

    The values of `parameters` and `body` are runtime expressions over the call and its response.
    """

    name: str
    method: str
    path: str
    parameters: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None


def _with_token(name: str, method: str, path: str) -> Link:
    return Link(name, method, path, {"header.Authorization": "Bearer {$response.body#/answer/token}"})


def _task_links(name: str) -> tuple[Link, ...]:
    """Returns the links to a task's routes; the runtime expression `name` yields its name."""
    task = {"path.task": name}
    return (
        Link("task", "GET", _TASK, task),
        *(Link(verb, "POST", f"{_TASK}:{verb}", task) for verb in ("pause", "resume", "cancel")),
        Link("rollback", "POST", f"{_TASK}:rollback", task, {"version": 0}),
        Link("rounds", "GET", f"{_TASK}/rounds", task),
        Link("checkpoints", "GET", f"{_TASK}/checkpoints", task),
    )


_VIEW_LINKS = (
    *_task_links("$response.body#/spec/name"),
    Link(
        "checkin",
        "POST",
        "/v1/populations/{population}:checkin",
        {"path.population": "$response.body#/spec/population"},
    ),
    Link(
        "checkpoint",
        "GET",
        f"{_TASK}/checkpoints/{{version}}",
        {"path.task": "$response.body#/spec/name", "path.version": "$response.body#/checkpoint"},
    ),
    Link(
        "result",
        "GET",
        f"{_TASK}/rounds/{{round}}/result",
        {"path.task": "$response.body#/spec/name", "path.round": "$response.body#/checkpoint"},
    ),
)

# Links of the successful response of each route, by method and path.
LINKS: dict[tuple[str, str], tuple[Link, ...]] = {
    ("POST", "/v1/populations/{population}:checkin"): (
        Link("plan", "GET", "/v1/plans/{sha256}", {"path.sha256": "$response.body#/answer/plan/sha256"}),
        Link(
            "broadcast",
            "GET",
            f"{_TASK}/rounds/{{round}}/broadcast",
            {
                "path.task": "$response.body#/answer/task",
                "path.round": "$response.body#/answer/round",
                "query.sha256": "$response.body#/answer/broadcast/sha256",
            },
        ),
        _with_token("upload", "PUT", "/v1/updates"),
        _with_token("start", "POST", "/v1/updates:start"),
        _with_token("report", "POST", "/v1/updates:report"),
        Link(
            "again",
            "POST",
            "/v1/populations/{population}:checkin",
            {"path.population": "$request.path.population"},
            {"cookie": "$response.body#/answer/cookie"},
        ),
    ),
    ("PUT", "/v1/plans/{sha256}"): (
        Link("plan", "GET", "/v1/plans/{sha256}", {"path.sha256": "$request.path.sha256"}),
        Link("create", "POST", "/v1/tasks", {}, {"plan": "$request.path.sha256"}),
    ),
    ("POST", "/v1/tasks"): _VIEW_LINKS,
    ("GET", _TASK): _VIEW_LINKS,
    **{("POST", f"{_TASK}:{verb}"): _VIEW_LINKS for verb in ("pause", "resume", "cancel", "rollback")},
    ("GET", "/v1/tasks"): _task_links("$response.body#/tasks/0/spec/name"),
    ("GET", f"{_TASK}/rounds"): (
        Link("next", "GET", f"{_TASK}/rounds", {"path.task": "$request.path.task", "query.after": _NEXT}),
        Link(
            "result",
            "GET",
            f"{_TASK}/rounds/{{round}}/result",
            {"path.task": "$request.path.task", "path.round": "$response.body#/rounds/0/round"},
        ),
    ),
    ("GET", f"{_TASK}/checkpoints"): (
        Link(
            "checkpoint",
            "GET",
            f"{_TASK}/checkpoints/{{version}}",
            {"path.task": "$request.path.task", "path.version": "$response.body#/checkpoints/0/version"},
        ),
    ),
    ("POST", "/v1/revocations"): (Link("revocations", "GET", "/v1/revocations"),),
    ("GET", "/v1/audit"): (Link("next", "GET", "/v1/audit", {"query.after": _NEXT}),),
}
