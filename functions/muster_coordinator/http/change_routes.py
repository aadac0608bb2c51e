"""Routes of operators that change a task's policy, tag and archive, and find its best round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

from werkzeug.wrappers import Response

from muster.wire.messages import RoundView, Tag, TaskChange, TaskView
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.http import paging
from muster_coordinator.http.operator_access import OperatorApi, OperatorRequest
from muster_coordinator.http.operator_routes import CHANGE_PROBLEMS
from muster_coordinator.http.responses import json_response
from muster_coordinator.http.routing import route
from muster_coordinator.use_cases.audit_log import task_state
from muster_coordinator.use_cases.best_round import best_round

_BODY_PROBLEMS = (*CHANGE_PROBLEMS, ProblemType.INVALID_REQUEST, ProblemType.TOO_LARGE)


class TaskChangeApi(OperatorApi):
    """Routes of operators that change and mark tasks."""

    @route(
        "PATCH",
        "/v1/tasks/{task}",
        summary="Change a task's policy from its next round or attempt on. With more rounds, a completed one reopens.",
        action="task.update",
        accepts=TaskChange,
        returns=TaskView,
        problems=_BODY_PROBLEMS,
    )
    def change(self, call: OperatorRequest) -> Response:
        """Changes the task's policy."""
        change = call.message(TaskChange)
        return self._audit(call, lambda name: self.app.task_changes.change(name, change), request=change.to_dict())

    @route(
        "PUT",
        "/v1/tasks/{task}/tags/{tag}",
        summary="Tag a checkpoint, which retention then keeps. A tag of this name moves. Idempotent.",
        action="task.tag",
        accepts=Tag,
        returns=TaskView,
        problems=_BODY_PROBLEMS,
    )
    def tag(self, call: OperatorRequest) -> Response:
        """Tags a checkpoint."""
        tag, version = call.path["tag"], call.message(Tag).version
        return self._audit(
            call,
            lambda name: self.app.task_marks.tag(name, tag, version=version),
            request={"tag": tag, "version": version},
        )

    @route(
        "DELETE",
        "/v1/tasks/{task}/tags/{tag}",
        summary="Remove a tag. The checkpoint remains, unless retention removes it. Idempotent.",
        action="task.untag",
        returns=TaskView,
        problems=CHANGE_PROBLEMS,
    )
    def untag(self, call: OperatorRequest) -> Response:
        """Removes a tag."""
        tag = call.path["tag"]
        return self._audit(call, lambda name: self.app.task_marks.untag(name, tag), request={"tag": tag})

    @route(
        "POST",
        "/v1/tasks/{task}:archive",
        summary="Leave an ended task out of the list of tasks. Idempotent.",
        action="task.archive",
        returns=TaskView,
        problems=CHANGE_PROBLEMS,
    )
    def archive(self, call: OperatorRequest) -> Response:
        """Archives the task."""
        return self._audit(call, self.app.task_marks.archive)

    @route(
        "POST",
        "/v1/tasks/{task}:unarchive",
        summary="List an archived task again. Idempotent.",
        action="task.unarchive",
        returns=TaskView,
        problems=CHANGE_PROBLEMS,
    )
    def unarchive(self, call: OperatorRequest) -> Response:
        """Unarchives the task."""
        return self._audit(call, self.app.task_marks.unarchive)

    @route(
        "GET",
        "/v1/tasks/{task}/best",
        summary="Get the committed round with the best value of a metric, the earliest of equal ones.",
        returns=RoundView,
        query={
            "metric": "Path of the metric in the result, such as `client_work/train/loss`.",
            "better": "`lower`, the default, or `higher`.",
        },
        problems=(ProblemType.NOT_FOUND, ProblemType.INVALID_REQUEST),
    )
    def best(self, call: OperatorRequest) -> Response:
        """Returns the best round by a metric."""
        metric = call.request.args.get("metric")
        if not metric:
            raise ProblemError(
                ProblemType.INVALID_REQUEST, "metric is missing: give the path of a metric, as a round lists it"
            )
        better = cast("Literal['lower', 'higher']", paging.choice(call, "better", ("lower", "higher")))
        round_ = best_round(self.app.platform, call.path["task"], metric=metric, better=better)
        return json_response(self.app.task_operations.round_view(round_))

    def _audit(
        self, call: OperatorRequest, change: Callable[[str], TaskView], *, request: dict[str, Any] | None = None
    ) -> Response:
        """Makes an audited change of the task that the path names, and returns the task."""
        name = call.path["task"]
        view = self.audited(call, name, lambda: change(name), state=lambda: self._state(name), request=request)
        return json_response(view)

    def _state(self, name: str) -> dict[str, Any]:
        """Returns the task's state for the audit log, with all that these routes change."""
        stored = self.app.platform.tasks.get(names.task_path(name))
        if stored is None:
            return {}
        task = stored.value
        marks = {"tags": dict(task.tags), "archived": task.archived}
        return {**task_state(self.app.platform, name), "policy": task.spec.policy.to_dict(), **marks}
