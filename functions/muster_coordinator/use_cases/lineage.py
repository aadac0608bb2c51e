"""Views of lineage: the state that each round started from, and the parent of each checkpoint.

A parent is an own checkpoint, a checkpoint of another task, or a stored state. The chain of parents
of every checkpoint reaches version 0 of a task, or a stored state.
"""

from __future__ import annotations

from collections import defaultdict

from muster.wire.messages import BaseView, CheckpointList, CheckpointView, TaskSpec
from muster.wire.times import from_posix
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Checkpoint, Committed, Origin, Terms
from muster_coordinator.domain.tasks import Task
from muster_coordinator.state.checkpoints import first_checkpoint
from muster_coordinator.state.platform import Platform


def base_view(task: str, base: Checkpoint, origin: Origin | None) -> BaseView:
    """Returns the view of the state that a round of a task starts from."""
    if origin is None:
        return BaseView(task=task, version=base.version)
    return BaseView(task=origin.task, version=origin.version, state=origin.state, leaves=origin.leaves)


def round_base_view(key: RoundKey, terms: Terms) -> BaseView:
    """Returns the view of the state that a round started from."""
    return base_view(key.task, terms.base, terms.origin)


def start_view(spec: TaskSpec) -> BaseView | None:
    """Returns the view of a task's start, or None for the plan's initial state."""
    start = spec.start
    if start is None:
        return None
    return BaseView(task=start.task, version=start.version, state=start.state, leaves=start.leaves)


def list_checkpoints(platform: Platform, task: Task) -> CheckpointList:
    """Returns the versions of a task's state, oldest first, except those of unreadable rounds.

    Versions of every branch are listed; the parents tell the branches apart.
    """
    name = task.name
    tags = defaultdict(list)
    for tag, version in sorted(task.tags.items()):
        tags[version].append(tag)

    def view(
        checkpoint: Checkpoint, *, parent: BaseView | None, request: str = "", stored: bool = True
    ) -> CheckpointView:
        return CheckpointView(
            version=checkpoint.version,
            sha256=checkpoint.blob.sha256,
            size=checkpoint.blob.size,
            created_at=from_posix(checkpoint.created_at),
            url=f"/v1/tasks/{name}/checkpoints/{checkpoint.version}",
            parent=parent,
            request=request,
            line=checkpoint.rounds_on_line,
            tags=tuple(tags[checkpoint.version]),
            stored=stored,
        )

    views: dict[int, CheckpointView] = {}
    if task.checkpoint is not None:
        views[0] = view(first_checkpoint(platform, name), parent=start_view(task.spec))
    page = platform.rounds.page(names.rounds_path(name))
    for record in page.records:
        round_ = record.value
        base = round_.terms.base
        if round_.terms.origin is None and base.version not in views:  # its round is unreadable
            views[base.version] = view(base, parent=None)
        if isinstance(round_, Committed):
            parent = round_base_view(round_.key, round_.terms)
            views[round_.key.number] = view(
                round_.checkpoint, parent=parent, request=round_.terms.request, stored=round_.stored
            )
    return CheckpointList(checkpoints=tuple(views[version] for version in sorted(views)), unreadable=page.unreadable)
