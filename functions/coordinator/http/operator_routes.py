"""The routes that operators call."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from werkzeug.wrappers import Response

from coordinator.application import Application
from coordinator.http.client_routes import SAFETENSORS
from coordinator.http.routing import Call, Route, immutable_response, json_response
from coordinator.use_cases.tasks import PAGE
from muster.wire import plan
from muster.wire.messages import CheckpointList, Rollback, RoundList, TaskList, TaskSpec, TaskView
from muster.wire.problems import ProblemError, ProblemType

_LARGEST_PAGE = 1000  # rounds

_CHANGES = (ProblemType.NOT_FOUND, ProblemType.CONFLICT, ProblemType.UNAVAILABLE)


def _changing(change: Callable[[str], TaskView]) -> Callable[[Call], Response]:
    return lambda call: json_response(change(call.path["task"]))


def operator_routes(app: Application) -> list[Route]:
    """Plans, tasks, rounds, results and checkpoints."""
    tasks = app.tasks

    def put_plan(call: Call) -> Response:
        new = app.plans.put(call.path["sha256"], call.body(plan.PLAN_LIMIT))
        return Response("{}", status=HTTPStatus.CREATED if new else HTTPStatus.OK, content_type="application/json")

    def create(call: Call) -> Response:
        return json_response(tasks.create(call.message(TaskSpec)), HTTPStatus.CREATED)

    def rollback(call: Call) -> Response:
        return json_response(tasks.rollback(call.path["task"], version=call.message(Rollback).version))

    def rounds(call: Call) -> Response:
        args = call.request.args
        limit = args.get("limit", str(PAGE))
        if not limit.isdecimal() or not 1 <= int(limit) <= _LARGEST_PAGE:
            raise ProblemError(ProblemType.INVALID_REQUEST, f"limit must be a number from 1 to {_LARGEST_PAGE}")
        return json_response(tasks.rounds(call.path["task"], after=args.get("after"), limit=int(limit)))

    def result(call: Call) -> Response:
        data = tasks.result(call.path["task"], call.path["round"])
        return immutable_response(call, data, etag=f"result-{call.path['round']}", content_type=SAFETENSORS)

    def checkpoint(call: Call) -> Response:
        data = tasks.checkpoint(call.path["task"], call.path["version"])
        return immutable_response(call, data, etag=f"checkpoint-{call.path['version']}", content_type=SAFETENSORS)

    return [
        Route(
            "PUT",
            "/v1/plans/{sha256}",
            "Store a plan, before a task uses it",
            put_plan,
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
            create,
            takes=TaskSpec,
            gives=TaskView,
            status=HTTPStatus.CREATED,
            problems=(ProblemType.INVALID_REQUEST, ProblemType.NOT_FOUND, ProblemType.CONFLICT, ProblemType.TOO_LARGE),
        ),
        Route("GET", "/v1/tasks", "All tasks", lambda _: json_response(tasks.list()), gives=TaskList),
        Route(
            "GET",
            "/v1/tasks/{task}",
            "One task with its current round",
            lambda call: json_response(tasks.get(call.path["task"])),
            gives=TaskView,
            problems=(ProblemType.NOT_FOUND,),
        ),
        *(
            Route(
                "POST",
                f"/v1/tasks/{{task}}:{verb}",
                summary,
                _changing(change),
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
            rollback,
            takes=Rollback,
            gives=TaskView,
            problems=(*_CHANGES, ProblemType.INVALID_REQUEST, ProblemType.TOO_LARGE),
        ),
        Route(
            "GET",
            "/v1/tasks/{task}/rounds",
            "The task's rounds, every attempt of them, with counts and metrics, oldest first",
            rounds,
            gives=RoundList,
            query={"after": "the `next` of the page before", "limit": f"rounds on the page, at most {_LARGEST_PAGE}"},
            problems=(ProblemType.NOT_FOUND, ProblemType.INVALID_REQUEST),
        ),
        Route(
            "GET",
            "/v1/tasks/{task}/rounds/{round}/result",
            "A committed round's result, as safetensors",
            result,
            gives=SAFETENSORS,
            problems=(ProblemType.NOT_FOUND,),
        ),
        Route(
            "GET",
            "/v1/tasks/{task}/checkpoints",
            "All versions of the server state",
            lambda call: json_response(tasks.checkpoints(call.path["task"])),
            gives=CheckpointList,
            problems=(ProblemType.NOT_FOUND,),
        ),
        Route(
            "GET",
            "/v1/tasks/{task}/checkpoints/{version}",
            "One version of the server state, as safetensors",
            checkpoint,
            gives=SAFETENSORS,
            problems=(ProblemType.NOT_FOUND,),
        ),
    ]
