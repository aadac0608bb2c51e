"""Route of operators that deletes a task."""

from __future__ import annotations

from http import HTTPStatus

from werkzeug.wrappers import Response

from muster.wire.messages import TaskView
from muster.wire.problems import ProblemType
from muster_coordinator.http.operator_access import OperatorApi, OperatorRequest
from muster_coordinator.http.responses import json_response
from muster_coordinator.http.routing import route


class DeletionApi(OperatorApi):
    """Route of operators that deletes a task."""

    @route(
        "DELETE",
        "/v1/tasks/{task}",
        summary="Delete an ended task with its rounds, checkpoints and results. A repeat is answered alike until the "
        "task is gone.",
        action="task.delete",
        returns=TaskView,
        status=HTTPStatus.ACCEPTED,
        problems=(ProblemType.NOT_FOUND, ProblemType.CONFLICT, ProblemType.UNAVAILABLE),
    )
    def delete(self, call: OperatorRequest) -> Response:
        """Marks the task for deletion, and returns it with the status `deleting`."""
        name, deletion = call.path["task"], self.app.task_deletion
        view = self.audited(call, name, lambda: deletion.delete(name), state=lambda: deletion.audited_state(name))
        return json_response(view, HTTPStatus.ACCEPTED)
