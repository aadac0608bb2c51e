"""Routes that the work queue and the scheduler call.

They answer 204: each step's result is in the stores. A repeated delivery is harmless.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, ClassVar

from pydantic import Field
from werkzeug.wrappers import Response

from muster.wire.base import Message
from muster.wire.messages import Name
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.http.routing import Api, RoutedRequest, route
from muster_coordinator.ports import UntrustedTokenError
from muster_coordinator.queued_work import AGGREGATOR, COMMITTER

Count = Annotated[int, Field(ge=0, le=999_999_999)]

# Fields of `Route` that all routes here share.
_INTERNAL: dict[str, Any] = {
    "status": HTTPStatus.NO_CONTENT,
    "problems": (ProblemType.INVALID_REQUEST, ProblemType.NOT_FOUND, ProblemType.UNAVAILABLE),
}


class RoundWork(Message):
    """Work on one round; `fold` names a shard or a part."""

    task: Name = Field(description="Name of the task.")
    round: Count = Field(description="Number of the round, from 1.")
    epoch: Count = Field(description="Number of the attempt at the round, from 0.")
    shard: Count | None = Field(default=None, description="Shard to fold. Only for `fold`.")
    part: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] | None = Field(
        default=None, description="Name of the closed round's partial to compute. Only for `fold`."
    )

    @property
    def key(self) -> RoundKey:
        """Key of the round."""
        return RoundKey(self.task, self.round, self.epoch)


class TaskWork(Message):
    """Work on one task."""

    task: Name = Field(description="Name of the task.")


class InternalApi(Api):
    """Base of the routes of one function that only the queue's account may call."""

    function: ClassVar[str]

    def admit(self, call: RoutedRequest) -> RoutedRequest:
        """Verifies the token of the invoker. Raises `ProblemError` (`unauthenticated`)."""
        if self.app.invoker is not None:
            try:
                self.app.invoker.verify(call.bearer(), function=self.function)
            except UntrustedTokenError as error:
                raise ProblemError(ProblemType.UNAUTHENTICATED, str(error)) from error
        return call


class AggregatorApi(InternalApi):
    """Routes of the function `aggregator`."""

    function = AGGREGATOR

    @route(
        "POST",
        "/internal/fold",
        summary="Fold the full chunks of a shard, or one part of a closed round.",
        accepts=RoundWork,
        **_INTERNAL,
    )
    def fold(self, call: RoutedRequest) -> Response:
        """Folds what the message names."""
        work = call.message(RoundWork)
        if work.part is not None:
            self.app.update_aggregator.fold_part(work.key, work.part)
        else:
            self.app.update_aggregator.fold_shard(work.key, work.shard or 0)
        return _no_content()

    @route(
        "POST",
        "/internal/close",
        summary="Close a round if it is due: freeze and fold the updates that it counts.",
        accepts=RoundWork,
        **_INTERNAL,
    )
    def close(self, call: RoutedRequest) -> Response:
        """Closes the round if it has reached its goal or its deadline."""
        self.app.round_closer.close(call.message(RoundWork).key)
        return _no_content()

    @route(
        "POST",
        "/internal/sweep",
        summary="Delete the data of an ended round that only an open round needs.",
        accepts=RoundWork,
        **_INTERNAL,
    )
    def sweep(self, call: RoutedRequest) -> Response:
        """Sweeps the round."""
        self.app.maintenance.sweep(call.message(RoundWork).key)
        return _no_content()

    @route(
        "POST",
        "/internal/delete",
        summary="Delete documents and blobs of a task that an operator has marked for deletion.",
        accepts=TaskWork,
        **_INTERNAL,
    )
    def delete(self, call: RoutedRequest) -> Response:
        """Deletes a bounded part of the task, and enqueues the next part."""
        self.app.task_purge.run(call.message(TaskWork).task)
        return _no_content()

    @route("POST", "/internal/tick", summary="Advance every round whose queued work was lost.", **_INTERNAL)
    def tick(self, _: RoutedRequest) -> Response:
        """Repairs all tasks."""
        self.app.maintenance.tick()
        return _no_content()


class CommitterApi(InternalApi):
    """Routes of the function `committer`."""

    function = COMMITTER

    @route(
        "POST",
        "/internal/commit",
        summary="Compute the next state of a round from its partials.",
        accepts=RoundWork,
        **_INTERNAL,
    )
    def commit(self, call: RoutedRequest) -> Response:
        """Commits the round."""
        self.app.round_committer.commit(call.message(RoundWork).key)
        return _no_content()

    @route(
        "POST",
        "/internal/open",
        summary="Compute the first broadcast of a task.",
        accepts=TaskWork,
        **_INTERNAL,
    )
    def open(self, call: RoutedRequest) -> Response:
        """Opens the task's first round."""
        self.app.task_opener.open(call.message(TaskWork).task)
        return _no_content()


def _no_content() -> Response:
    return Response(status=HTTPStatus.NO_CONTENT)
