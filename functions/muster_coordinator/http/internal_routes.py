"""The routes that the queue and the scheduler call. They answer 204: all that matters is in the stores."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated

from pydantic import Field
from werkzeug.wrappers import Response

from muster.wire.base import Message
from muster.wire.messages import Name
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.application import Application
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.http.routing import Route, RouteCall
from muster_coordinator.ports import UntrustedTokenError
from muster_coordinator.queued_work import AGGREGATOR, COMMITTER

Count = Annotated[int, Field(ge=0, le=999_999_999)]


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
        """The round."""
        return RoundKey(self.task, self.round, self.epoch)


class TaskWork(Message):
    """Work on one task."""

    task: Name = Field(description="Name of the task.")


def _done() -> Response:
    return Response(status=HTTPStatus.NO_CONTENT)


def aggregator_routes(app: Application) -> list[Route]:
    """Fold, close, sweep and tick."""
    guard = _guard(app, AGGREGATOR)

    def fold(call: RouteCall) -> Response:
        work = call.message(RoundWork)
        if work.part is not None:
            app.folding.fold_part(work.key, work.part)
        else:
            app.folding.fold_shard(work.key, work.shard or 0)
        return _done()

    def close(call: RouteCall) -> Response:
        app.closing(call.message(RoundWork).key)
        return _done()

    def sweep(call: RouteCall) -> Response:
        app.sweeping.sweep(call.message(RoundWork).key)
        return _done()

    def tick(_: RouteCall) -> Response:
        app.sweeping.tick()
        return _done()

    return [
        _internal(guard, "fold", "Fold a shard's full chunks, or one part of a closed round", fold, RoundWork),
        _internal(guard, "close", "Judge a round; if it closes, freeze and fold what it counts", close, RoundWork),
        _internal(guard, "sweep", "Remove what an ended round leaves behind", sweep, RoundWork),
        _internal(guard, "tick", "Repair what got lost", tick, None),
    ]


def committer_routes(app: Application) -> list[Route]:
    """Commit and open."""
    guard = _guard(app, COMMITTER)

    def commit(call: RouteCall) -> Response:
        app.committing.commit(call.message(RoundWork).key)
        return _done()

    def open_task(call: RouteCall) -> Response:
        app.committing.open(call.message(TaskWork).task)
        return _done()

    return [
        _internal(guard, "commit", "Compute a round's next state from its partials", commit, RoundWork),
        _internal(guard, "open", "Compute a task's first broadcast", open_task, TaskWork),
    ]


def _guard(app: Application, function: str) -> Callable[[RouteCall], None]:
    """What lets a call to `function` pass, or raises `ProblemError`."""

    def guard(call: RouteCall) -> None:
        if app.invoker is not None:
            try:
                app.invoker.verify(call.bearer(), function=function)
            except UntrustedTokenError as error:
                raise ProblemError(ProblemType.UNAUTHENTICATED, str(error)) from error

    return guard


def _internal(
    guard: Callable[[RouteCall], None],
    kind: str,
    summary: str,
    handler: Callable[[RouteCall], Response],
    takes: type[Message] | None,
) -> Route:
    def guarded(call: RouteCall) -> Response:
        guard(call)
        return handler(call)

    return Route(
        "POST",
        f"/internal/{kind}",
        summary,
        guarded,
        takes=takes,
        status=HTTPStatus.NO_CONTENT,
        problems=(ProblemType.INVALID_REQUEST, ProblemType.NOT_FOUND, ProblemType.UNAVAILABLE),
    )
