"""The routes that operators call."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Any

from werkzeug.wrappers import Response

from muster.wire import plan
from muster.wire.messages import AuditList, CheckpointList, Rollback, RoundList, TaskList, TaskSpec, TaskView
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.application import Application
from muster_coordinator.http.client_routes import SAFETENSORS
from muster_coordinator.http.enrolment_routes import enrolment_routes
from muster_coordinator.http.operator_access import AuditedChange, OperatorAccess
from muster_coordinator.http.routing import Route, RouteCall, immutable_response, json_response
from muster_coordinator.use_cases.audit_log import task_state
from muster_coordinator.use_cases.task_operations import PAGE

_LARGEST_PAGE = 1000  # rounds, or entries of the audit log
_DIGITS = 4  # of a page's limit
_FIRST_YEAR = 1970
_ENTRY = re.compile(r"[0-9]{16,17}-[0-9a-f]{16}(\.outcome)?")
_ROUND = re.compile(r"[0-9]{6,9}-[0-9]{4,9}")
Begin = Callable[[str], AuditedChange]

_CHANGES = (ProblemType.NOT_FOUND, ProblemType.CONFLICT, ProblemType.UNAVAILABLE)


def operator_routes(app: Application) -> list[Route]:
    """Plans, tasks, rounds, results, checkpoints, and the audit log."""
    tasks, access = app.tasks, OperatorAccess(app)

    def view_of(name: str) -> Callable[[], dict[str, Any]]:
        return lambda: task_state(app.platform, name)

    def put_plan(call: RouteCall, begin: Begin) -> Response:
        sha256, data = call.path["sha256"], call.body(plan.PLAN_LIMIT)
        new = begin(sha256).record(
            lambda: app.plans.put(sha256, data),
            look=lambda: {"stored": app.plans.has(sha256)},
            request={"size": len(data)},
        )
        return Response("{}", status=HTTPStatus.CREATED if new else HTTPStatus.OK, content_type="application/json")

    def create(call: RouteCall, begin: Begin) -> Response:
        spec = call.message(TaskSpec)
        view = begin(spec.name).record(lambda: tasks.create(spec), look=view_of(spec.name), request=spec.to_dict())
        return json_response(view, HTTPStatus.CREATED)

    def changing(change: Callable[[str], TaskView]) -> Callable[[RouteCall, Begin], Response]:
        def handler(call: RouteCall, begin: Begin) -> Response:
            name = call.path["task"]
            return json_response(begin(name).record(lambda: change(name), look=view_of(name)))

        return handler

    def rollback(call: RouteCall, begin: Begin) -> Response:
        name, version = call.path["task"], call.message(Rollback).version
        view = begin(name).record(
            lambda: tasks.rollback(name, version=version), look=view_of(name), request={"version": version}
        )
        return json_response(view)

    def rounds(call: RouteCall) -> Response:
        after, limit = _after(call, _ROUND), _limit(call, PAGE)
        return json_response(tasks.rounds(call.path["task"], after=after, limit=limit))

    def result(call: RouteCall) -> Response:
        data = tasks.result(call.path["task"], call.path["round"])
        return immutable_response(
            call, data, etag=f"result-{call.path['round']}", content_type=SAFETENSORS, private=True
        )

    def checkpoint(call: RouteCall) -> Response:
        data = tasks.checkpoint(call.path["task"], call.path["version"])
        return immutable_response(
            call, data, etag=f"checkpoint-{call.path['version']}", content_type=SAFETENSORS, private=True
        )

    routes = [
        Route(
            "PUT",
            "/v1/plans/{sha256}",
            "Store a plan, before a task uses it",
            access.changing("plan.store", put_plan),
            takes=plan.CONTENT_TYPE,
            gives="application/json",
            status=HTTPStatus.CREATED,
            repeat_status=HTTPStatus.OK,
            problems=(ProblemType.PLAN_INVALID, ProblemType.INVALID_REQUEST, ProblemType.TOO_LARGE),
        ),
        Route(
            "POST",
            "/v1/tasks",
            "Make a task; a repeat gets the one that is there",
            access.changing("task.create", create),
            takes=TaskSpec,
            gives=TaskView,
            status=HTTPStatus.CREATED,
            problems=(
                ProblemType.INVALID_REQUEST,
                ProblemType.NOT_FOUND,
                ProblemType.CONFLICT,
                ProblemType.TOO_LARGE,
                ProblemType.NOT_SUPPORTED,
            ),
        ),
        Route("GET", "/v1/tasks", "All tasks", access.viewing(lambda _: json_response(tasks.list())), gives=TaskList),
        Route(
            "GET",
            "/v1/tasks/{task}",
            "One task with its current round",
            access.viewing(lambda call: json_response(tasks.get(call.path["task"]))),
            gives=TaskView,
            problems=(ProblemType.NOT_FOUND,),
        ),
        *(
            Route(
                "POST",
                f"/v1/tasks/{{task}}:{verb}",
                summary,
                access.changing(f"task.{verb}", changing(change)),
                gives=TaskView,
                problems=_CHANGES,
            )
            for verb, summary, change in (
                ("pause", "Give no new assignments and open no new rounds", tasks.pause),
                ("resume", "Go on after a pause", tasks.resume),
                ("cancel", "End the task; its checkpoints stay", tasks.cancel),
            )
        ),
        Route(
            "POST",
            "/v1/tasks/{task}:rollback",
            "Go back to an earlier checkpoint",
            access.changing("task.rollback", rollback),
            takes=Rollback,
            gives=TaskView,
            problems=(*_CHANGES, ProblemType.INVALID_REQUEST, ProblemType.TOO_LARGE),
        ),
        Route(
            "GET",
            "/v1/tasks/{task}/rounds",
            "The task's rounds, every attempt of them, with counts and metrics, oldest first",
            access.viewing(rounds),
            gives=RoundList,
            query={"after": "the `next` of the page before", "limit": f"rounds on the page, at most {_LARGEST_PAGE}"},
            problems=(ProblemType.NOT_FOUND, ProblemType.INVALID_REQUEST),
        ),
        Route(
            "GET",
            "/v1/tasks/{task}/rounds/{round}/result",
            "A committed round's result, as safetensors",
            access.viewing(result),
            gives=SAFETENSORS,
            problems=(ProblemType.NOT_FOUND,),
        ),
        Route(
            "GET",
            "/v1/tasks/{task}/checkpoints",
            "All versions of the server state",
            access.viewing(lambda call: json_response(tasks.checkpoints(call.path["task"]))),
            gives=CheckpointList,
            problems=(ProblemType.NOT_FOUND,),
        ),
        Route(
            "GET",
            "/v1/tasks/{task}/checkpoints/{version}",
            "One version of the server state, as safetensors",
            access.viewing(checkpoint),
            gives=SAFETENSORS,
            problems=(ProblemType.NOT_FOUND,),
        ),
        *enrolment_routes(app, access),
        _audit(app, access),
    ]
    return [
        replace(
            route,
            operator=True,
            problems=(
                *route.problems,
                ProblemType.UNAUTHENTICATED,
                *(() if route.method == "GET" else (ProblemType.FORBIDDEN,)),
            ),
        )
        for route in routes
    ]


def _audit(app: Application, access: OperatorAccess) -> Route:
    def audit(call: RouteCall) -> Response:
        after = _after(call, _ENTRY)
        return json_response(app.audit.entries(after=after, limit=_limit(call, PAGE), start=_since(call)))

    return Route(
        "GET",
        "/v1/audit",
        "The audit log: who changed what, when, from what to what, oldest first",
        access.viewing(audit),
        gives=AuditList,
        query={
            "since": "nothing older: a time of RFC 3339; not with `after`",
            "after": "the `next` of the page before",
            "limit": f"entries on the page, at most {_LARGEST_PAGE}",
        },
        problems=(ProblemType.INVALID_REQUEST,),
    )


def _after(call: RouteCall, form: re.Pattern[str]) -> str | None:
    """Returns the query's `after`, which must have the form of an id."""
    after = call.request.args.get("after")
    if after is not None and not form.fullmatch(after):
        raise ProblemError(ProblemType.INVALID_REQUEST, "after must be the `next` of the page before")
    return after


def _limit(call: RouteCall, default: int) -> int:
    limit = call.request.args.get("limit", str(default))
    if not limit.isdecimal() or not limit.isascii() or len(limit) > _DIGITS or not 1 <= int(limit) <= _LARGEST_PAGE:
        raise ProblemError(ProblemType.INVALID_REQUEST, f"limit must be a number from 1 to {_LARGEST_PAGE}")
    return int(limit)


def _since(call: RouteCall) -> float | None:
    """The query's `since`, in POSIX seconds."""
    text = call.request.args.get("since")
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or found.year < _FIRST_YEAR:
        raise ProblemError(
            ProblemType.INVALID_REQUEST,
            "since must be a time with its offset, such as 2026-03-01T12:00:00Z (a `+` as %2B)",
        )
    return found.timestamp()
