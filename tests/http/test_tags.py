"""Tags of checkpoints, the archive of tasks, and the best round by a metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.harness import TASK, Harness
from support.plans import SumRuntime, Updated, sum_update

from muster.wire.messages import CheckpointList, RoundView, TaskList, TaskStatus, TaskView
from muster.wire.messages.tasks import MAX_TAGS
from muster.wire.problems import ProblemError, ProblemType

LOSS = "loss"
COUNT = "num_examples"


class ScriptedRuntime(SumRuntime):
    """Runtime whose results have these metrics, one round after the other."""

    def __init__(self, *metrics: dict[str, float]) -> None:
        super().__init__()
        self.metrics = list(metrics)

    def update(self, state: Any, aggregate: Any, clear_sums: Any = None, **options: Any) -> Updated:
        updated = super().update(state, aggregate, clear_sums, **options)
        return Updated(updated.state, {name: np.array(value) for name, value in self.metrics.pop(0).items()})


def trained(root: Path, *metrics: dict[str, float], **policy: Any) -> Harness:
    """Returns a coordinator whose task has run a round for each of `metrics`."""
    h = Harness(root, runtime=ScriptedRuntime(*metrics))
    h.begin(**{"rounds": len(metrics), "goal": 1, "shards": 1, "guards": {"no_examples": False}, **policy})
    for client in range(len(metrics)):
        h.upload(h.assigned(client).token, sum_update(client))
        h.deliver_all()
    return h


def tag(h: Harness, name: str, version: int) -> TaskView:
    return TaskView.decode(h.ask("PUT", f"/v1/tasks/{TASK}/tags/{name}", json={"version": version}))


def untag(h: Harness, name: str) -> TaskView:
    return TaskView.decode(h.ask("DELETE", f"/v1/tasks/{TASK}/tags/{name}"))


def tags_by_version(h: Harness) -> dict[int, tuple[str, ...]]:
    listed = CheckpointList.decode(h.ask("GET", f"/v1/tasks/{TASK}/checkpoints")).checkpoints
    return {view.version: view.tags for view in listed}


def problem_of(h: Harness, method: str, path: str, **options: Any) -> ProblemError:
    with pytest.raises(ProblemError) as problem:
        h.ask(method, path, **options)
    return problem.value


def test_tag_names_a_version_until_it_moves_or_is_removed(tmp_path):
    h = trained(tmp_path, *[{LOSS: 1.0}] * 2)
    assert tag(h, "good", 1).tags == {"good": 1}
    assert tag(h, "first", 1).tags == {"good": 1, "first": 1}
    assert tag(h, "good", 1).tags == {"good": 1, "first": 1}
    assert tags_by_version(h) == {0: (), 1: ("first", "good"), 2: ()}
    assert tag(h, "good", 2).tags == {"good": 2, "first": 1}
    assert untag(h, "good").tags == {"first": 1}
    assert untag(h, "good").tags == {"first": 1}, "a repeat changes nothing"
    assert tag(h, "start", 0).tags == {"first": 1, "start": 0}


def test_version_of_a_tag_must_exist(tmp_path):
    h = trained(tmp_path, {LOSS: 1.0})
    path = f"/v1/tasks/{TASK}/tags/good"
    assert problem_of(h, "PUT", path, json={"version": 2}).type is ProblemType.NOT_FOUND
    assert problem_of(h, "PUT", path, json={"version": -1}).type is ProblemType.INVALID_REQUEST
    assert problem_of(h, "PUT", f"/v1/tasks/{TASK}/tags/UPPER", json={"version": 1}).type is ProblemType.NOT_FOUND
    assert h.task().tags == {}


def test_number_of_tags_is_bounded(tmp_path):
    h = trained(tmp_path, {LOSS: 1.0})
    for number in range(MAX_TAGS):
        tag(h, f"t{number}", 1)
    assert problem_of(h, "PUT", f"/v1/tasks/{TASK}/tags/more", json={"version": 1}).type is ProblemType.CONFLICT
    tag(h, "t0", 0)
    untag(h, "t0")
    tag(h, "more", 1)


def test_tag_does_not_disturb_an_opening(tmp_path):
    h = trained(tmp_path, {LOSS: 1.0}, rounds=5)
    h.operate("rollback", version=0)
    tag(h, "good", 1)
    h.deliver_all()
    assert (h.task().status, h.task().tags) == (TaskStatus.ACTIVE, {"good": 1})


def names_of(h: Harness, query: str = "") -> list[str]:
    return [view.spec.name for view in TaskList.decode(h.ask("GET", f"/v1/tasks{query}")).tasks]


def test_archived_task_is_listed_on_request_only(tmp_path):
    h = trained(tmp_path, {LOSS: 1.0})
    h.create_task("other", goal=1)
    for _ in range(2):
        assert TaskView.decode(h.ask("POST", f"/v1/tasks/{TASK}:archive")).archived
    assert names_of(h) == names_of(h, "?archived=false") == ["other"]
    assert names_of(h, "?archived=true") == ["other", TASK]
    assert h.task().archived, "it is still there by its name"
    assert not TaskView.decode(h.ask("POST", f"/v1/tasks/{TASK}:unarchive")).archived
    assert names_of(h) == ["other", TASK]
    assert problem_of(h, "GET", "/v1/tasks?archived=yes").type is ProblemType.INVALID_REQUEST


def test_only_an_ended_task_can_be_archived(tmp_path):
    h = trained(tmp_path, {LOSS: 1.0}, rounds=2)
    assert problem_of(h, "POST", f"/v1/tasks/{TASK}:archive").type is ProblemType.CONFLICT
    h.operate("cancel")
    h.ask("POST", f"/v1/tasks/{TASK}:archive")


def test_archived_task_is_not_reopened(tmp_path):
    h = trained(tmp_path, {LOSS: 1.0})
    h.ask("POST", f"/v1/tasks/{TASK}:archive")
    problem = problem_of(h, "PATCH", f"/v1/tasks/{TASK}", json={"policy": {"rounds": 2}})
    assert problem.type is ProblemType.CONFLICT
    assert "unarchive it first" in problem.detail
    assert h.task().status is TaskStatus.COMPLETED


def best(h: Harness, query: str) -> int:
    return RoundView.decode(h.ask("GET", f"/v1/tasks/{TASK}/best?{query}")).round


def test_best_round_has_the_best_value_and_is_the_earliest_of_equal_ones(tmp_path):
    values = [(0.5, 3), (0.25, 3), (0.25, 2), (0.75, 1), (0.0, 0)]
    h = trained(tmp_path, *({LOSS: loss, COUNT: count} for loss, count in values))
    assert best(h, "metric=loss") == 2, "the last round counts no example"
    assert best(h, "metric=loss&better=lower") == 2
    assert best(h, "metric=loss&better=higher") == 4
    assert best(h, "metric=num_examples&better=higher") == 1


def test_unknown_metric_is_refused_with_the_known_ones(tmp_path):
    h = trained(tmp_path, {LOSS: 1.0, "accuracy": 0.5})
    problem = problem_of(h, "GET", f"/v1/tasks/{TASK}/best?metric=los")
    assert problem.type is ProblemType.NOT_FOUND
    assert "'los': it has accuracy, loss" in problem.detail
    assert problem_of(h, "GET", f"/v1/tasks/{TASK}/best").type is ProblemType.INVALID_REQUEST
    assert problem_of(h, "GET", f"/v1/tasks/{TASK}/best?metric=loss&better=x").type is ProblemType.INVALID_REQUEST
    assert problem_of(h, "GET", "/v1/tasks/no-such-task/best?metric=loss").type is ProblemType.NOT_FOUND
