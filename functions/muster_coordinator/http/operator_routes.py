"""Routes of operators for plans and tasks, their rounds, results and checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Any

from werkzeug.wrappers import Response

from muster.wire import plan
from muster.wire.messages import CheckpointList, Rollback, RoundList, RoundView, TaskList, TaskSpec, TaskView
from muster.wire.problems import ProblemType
from muster.wire.times import from_posix
from muster_coordinator.domain import polling
from muster_coordinator.http import paging
from muster_coordinator.http.operator_access import OperatorApi, OperatorRequest
from muster_coordinator.http.responses import SAFETENSORS, followed_response, immutable_response, json_response
from muster_coordinator.http.routing import route
from muster_coordinator.use_cases.audit_log import task_state
from muster_coordinator.use_cases.task_operations import DEFAULT_PAGE_SIZE

_ROUND_ID = re.compile(r"[0-9]{6,9}-[0-9]{4,9}")
CHANGE_PROBLEMS = (ProblemType.NOT_FOUND, ProblemType.CONFLICT, ProblemType.UNAVAILABLE)


class TaskApi(OperatorApi):
    """Routes of operators for plans and tasks."""

    @route(
        "PUT",
        "/v1/plans/{sha256}",
        summary="Store a plan. A task that uses it can be created afterwards.",
        action="plan.store",
        accepts=plan.CONTENT_TYPE,
        returns="application/json",
        status=HTTPStatus.CREATED,
        repeat_status=HTTPStatus.OK,
        problems=(ProblemType.PLAN_INVALID, ProblemType.INVALID_REQUEST, ProblemType.TOO_LARGE),
    )
    def put_plan(self, call: OperatorRequest) -> Response:
        """Stores the plan under its hash; a repeat is answered with 200."""
        sha256, data = call.path["sha256"], call.body(plan.PLAN_LIMIT)
        created = self.audited(
            call,
            sha256,
            lambda: self.app.plans.put(sha256, data),
            state=lambda: {"stored": self.app.plans.has(sha256)},
            request={"size": len(data)},
        )
        status = HTTPStatus.CREATED if created else HTTPStatus.OK
        return Response("{}", status=status, content_type="application/json")

    @route(
        "POST",
        "/v1/tasks",
        summary="Create a task. A repeat with the same specification returns the existing task.",
        action="task.create",
        accepts=TaskSpec,
        returns=TaskView,
        status=HTTPStatus.CREATED,
        problems=(
            ProblemType.INVALID_REQUEST,
            ProblemType.NOT_FOUND,
            ProblemType.CONFLICT,
            ProblemType.TOO_LARGE,
            ProblemType.NOT_SUPPORTED,
        ),
    )
    def create(self, call: OperatorRequest) -> Response:
        """Creates the task, or returns the existing one."""
        spec = call.message(TaskSpec)
        view = self.audited(
            call,
            spec.name,
            lambda: self.app.task_operations.create(spec),
            state=lambda: task_state(self.app.platform, spec.name),
            request=spec.to_dict(),
        )
        return json_response(view, HTTPStatus.CREATED)

    @route(
        "GET",
        "/v1/tasks",
        summary="List all tasks.",
        returns=TaskList,
        query={"archived": "`true` to include archived tasks. By default they are left out."},
        problems=(ProblemType.INVALID_REQUEST,),
    )
    def list(self, call: OperatorRequest) -> Response:
        """Returns all tasks, or 304."""
        archived = paging.choice(call, "archived", ("false", "true"))
        listed = self.app.task_operations.list(archived=archived == "true")
        return followed_response(call.request, listed, retry_after=polling.of_tasks(listed.tasks, now=self._now()))

    @route(
        "GET",
        "/v1/tasks/{task}",
        summary="Get a task with its current round.",
        returns=TaskView,
        problems=(ProblemType.NOT_FOUND,),
    )
    def get(self, call: OperatorRequest) -> Response:
        """Returns one task, or 304."""
        view = self.app.task_operations.get(call.path["task"])
        return followed_response(call.request, view, retry_after=polling.of_task(view, now=self._now()))

    @route(
        "POST",
        "/v1/tasks/{task}:pause",
        summary="Pause a task: issue no new assignments and open no new rounds. Idempotent.",
        action="task.pause",
        returns=TaskView,
        problems=CHANGE_PROBLEMS,
    )
    def pause(self, call: OperatorRequest) -> Response:
        """Pauses the task."""
        return self._change_task(call, self.app.task_operations.pause)

    @route(
        "POST",
        "/v1/tasks/{task}:resume",
        summary="Resume a paused task.",
        action="task.resume",
        returns=TaskView,
        problems=CHANGE_PROBLEMS,
    )
    def resume(self, call: OperatorRequest) -> Response:
        """Resumes the task."""
        return self._change_task(call, self.app.task_operations.resume)

    @route(
        "POST",
        "/v1/tasks/{task}:cancel",
        summary="Cancel a task for good. Its checkpoints remain. Idempotent.",
        action="task.cancel",
        returns=TaskView,
        problems=CHANGE_PROBLEMS,
    )
    def cancel(self, call: OperatorRequest) -> Response:
        """Cancels the task."""
        return self._change_task(call, self.app.task_operations.cancel)

    @route(
        "POST",
        "/v1/tasks/{task}:rollback",
        summary="Roll a task back to an earlier checkpoint.",
        action="task.rollback",
        accepts=Rollback,
        returns=TaskView,
        problems=(*CHANGE_PROBLEMS, ProblemType.INVALID_REQUEST, ProblemType.TOO_LARGE),
    )
    def rollback(self, call: OperatorRequest) -> Response:
        """Makes the next round start from an earlier checkpoint."""
        version = call.message(Rollback).version
        return self._change_task(
            call, lambda name: self.app.task_operations.rollback(name, version=version), request={"version": version}
        )

    @route(
        "GET",
        "/v1/tasks/{task}/rounds",
        summary="List every attempt of a task's rounds with counts and metrics, oldest first.",
        returns=RoundList,
        query={
            "after": "The `next` of the previous page.",
            "limit": f"Maximum number of rounds on the page, up to {paging.MAX_PAGE}.",
        },
        problems=(ProblemType.NOT_FOUND, ProblemType.INVALID_REQUEST),
    )
    def rounds(self, call: OperatorRequest) -> Response:
        """Returns a page of the task's rounds."""
        after = paging.after(call, pattern=_ROUND_ID)
        limit = paging.limit(call, default=DEFAULT_PAGE_SIZE)
        listed = self.app.task_operations.rounds(call.path["task"], after=after, limit=limit)
        now = self._now()
        wait = min((polling.of_round(view, now=now) for view in listed.rounds), default=1.0)
        return followed_response(call.request, listed, retry_after=wait)

    @route(
        "GET",
        "/v1/tasks/{task}/rounds/{round}",
        summary="Get the newest attempt of a round.",
        returns=RoundView,
        problems=(ProblemType.NOT_FOUND,),
    )
    def round(self, call: OperatorRequest) -> Response:
        """Returns the round's newest attempt, or 304."""
        view = self.app.task_operations.round(call.path["task"], call.path["round"])
        return followed_response(call.request, view, retry_after=polling.of_round(view, now=self._now()))

    @route(
        "GET",
        "/v1/tasks/{task}/rounds/{round}/result",
        summary="Download the result of a committed round, as safetensors.",
        returns=SAFETENSORS,
        problems=(ProblemType.NOT_FOUND,),
    )
    def result(self, call: OperatorRequest) -> Response:
        """Returns the round's result, or 304."""
        number = call.path["round"]
        data = self.app.task_operations.result(call.path["task"], number)
        return immutable_response(call.request, data, etag=f"result-{number}", content_type=SAFETENSORS, private=True)

    @route(
        "GET",
        "/v1/tasks/{task}/checkpoints",
        summary="List the checkpoints of a task.",
        returns=CheckpointList,
        problems=(ProblemType.NOT_FOUND,),
    )
    def checkpoints(self, call: OperatorRequest) -> Response:
        """Returns all versions of the server state."""
        return json_response(self.app.task_operations.checkpoints(call.path["task"]))

    @route(
        "GET",
        "/v1/tasks/{task}/checkpoints/{version}",
        summary="Download a checkpoint, as safetensors.",
        returns=SAFETENSORS,
        problems=(ProblemType.NOT_FOUND,),
    )
    def checkpoint(self, call: OperatorRequest) -> Response:
        """Returns one version of the server state, or 304."""
        version = call.path["version"]
        data = self.app.task_operations.checkpoint(call.path["task"], version)
        return immutable_response(
            call.request, data, etag=f"checkpoint-{version}", content_type=SAFETENSORS, private=True
        )

    def _now(self) -> datetime:
        return from_posix(self.app.platform.clock.now())

    def _change_task(
        self, call: OperatorRequest, change: Callable[[str], TaskView], *, request: dict[str, Any] | None = None
    ) -> Response:
        """Makes an audited change of the task that the path names, and returns the task."""
        name = call.path["task"]
        view = self.audited(
            call, name, lambda: change(name), state=lambda: task_state(self.app.platform, name), request=request
        )
        return json_response(view)
