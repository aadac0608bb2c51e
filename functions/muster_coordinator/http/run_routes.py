"""Routes of operators for driven tasks, which run rounds on request."""

from __future__ import annotations

from werkzeug.wrappers import Response

from muster.wire.messages import RunRequest, RunView, TaskView
from muster.wire.problems import ProblemType
from muster_coordinator.http.operator_access import OperatorApi, OperatorRequest
from muster_coordinator.http.responses import json_response
from muster_coordinator.http.routing import route
from muster_coordinator.use_cases.audit_log import task_state


class RunApi(OperatorApi):
    """Routes of operators for driven tasks."""

    @route(
        "POST",
        "/v1/tasks/{task}:run",
        summary="Run rounds of a driven task. A repeat with the same request returns the same run.",
        action="task.run",
        accepts=RunRequest,
        returns=RunView,
        problems=(
            ProblemType.INVALID_REQUEST,
            ProblemType.NOT_FOUND,
            ProblemType.CONFLICT,
            ProblemType.UNAVAILABLE,
            ProblemType.TOO_LARGE,
        ),
    )
    def run(self, call: OperatorRequest) -> Response:
        """Starts the run, or returns the existing one."""
        name, request = call.path["task"], call.message(RunRequest)
        view = self.audited(
            call,
            name,
            lambda: self.app.task_runs.run(name, request),
            state=lambda: task_state(self.app.platform, name),
            request=request.to_dict(),
        )
        return json_response(view)

    @route(
        "GET",
        "/v1/tasks/{task}/runs/{request}",
        summary="Get a run of a driven task by its request.",
        returns=RunView,
        problems=(ProblemType.NOT_FOUND,),
    )
    def get(self, call: OperatorRequest) -> Response:
        """Returns the run that the request started."""
        return json_response(self.app.task_runs.get(call.path["task"], call.path["request"]))

    @route(
        "POST",
        "/v1/tasks/{task}:complete",
        summary="Complete an idle driven task. Idempotent.",
        action="task.complete",
        returns=TaskView,
        problems=(ProblemType.NOT_FOUND, ProblemType.CONFLICT, ProblemType.UNAVAILABLE),
    )
    def complete(self, call: OperatorRequest) -> Response:
        """Completes the task."""
        name = call.path["task"]
        view = self.audited(
            call,
            name,
            lambda: self.app.task_runs.complete(name),
            state=lambda: task_state(self.app.platform, name),
        )
        return json_response(view)
