"""Guards: a bad result is committed, and pauses its task with a note before the next round."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.faults import Crash, Fault, FaultyDocuments, Schedule, When
from support.harness import TASK, Harness
from support.plans import SumRuntime, Updated, sum_update

from muster.wire.messages import Evaluation, Phase, RoundList, RoundView, TaskKind, TaskSpec, TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator import events
from muster_coordinator.domain import names
from muster_coordinator.domain.tasks import Run

LOSS = "client_work/train/loss"
WORSENING = {"worsening": {"metric": LOSS, "rounds": 3}}


class LearningRuntime(SumRuntime):
    """Runtime whose results look like those of TFF's learning algorithms.

    Attributes:
      losses: The loss of each following round; NaN if no client's update is finite. TFF then counts
        no examples and reports a loss of 0.
    """

    def __init__(self, losses: Iterable[float]) -> None:
        super().__init__()
        self.losses = list(losses)

    def update(
        self,
        state: Mapping[str, Any],
        aggregate: Mapping[str, Any],
        clear_sums: Any = None,
        *,
        seconds: float | None = None,
    ) -> Updated:
        updated = super().update(state, aggregate, clear_sums, seconds=seconds)
        loss = self.losses.pop(0)
        is_finite = np.isfinite(loss)
        result = {
            LOSS: np.array(loss if is_finite else 0.0, np.float32),
            "client_work/train/num_examples": np.array(32 if is_finite else 0),
            "client_work/train/num_batches": np.array(4 if is_finite else 0),
            "finalizer/update_non_finite": np.array(0 if is_finite else 1, np.int32),
        }
        return Updated(state=updated.state, result=result)


def begun(root: Path, *losses: float, **policy: Any) -> Harness:
    h = Harness(root, runtime=LearningRuntime(losses))
    h.begin(**{"rounds": 9, "goal": 1, "shards": 1, **policy})
    return h


def run_round(h: Harness, client: int = 0) -> None:
    h.upload(h.assigned(client).token, sum_update(client))
    h.deliver_all()


def views(h: Harness) -> list[RoundView]:
    listed = RoundList.decode(h.ask("GET", f"/v1/tasks/{TASK}/rounds")).rounds
    return [view for view in listed if view.phase is Phase.COMMITTED]


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler, level = logging.StreamHandler(stream), events.LOG.level
    events.LOG.addHandler(handler)
    events.LOG.setLevel(logging.INFO)
    yield stream
    events.LOG.removeHandler(handler)
    events.LOG.setLevel(level)


def tripped_events(stream: io.StringIO) -> list[dict[str, Any]]:
    lines = map(json.loads, stream.getvalue().splitlines())
    return [line for line in lines if line["event"] == "guard_tripped"]


def test_round_of_nan_only_has_no_curve_point_and_pauses_the_task(tmp_path, logged):
    h = begun(tmp_path, 0.5, np.nan, 0.4)
    run_round(h)
    run_round(h)
    task = h.task()
    assert task.status is TaskStatus.PAUSED
    assert task.note.startswith("Round 2 tripped a guard: the result counts no example")
    assert task.checkpoint == 2, "the round is committed"
    first, second = views(h)
    assert first.metrics[LOSS] == 0.5
    assert (second.metrics, second.tripped) == ({}, ("no_examples",))
    assert h.result(2)["finalizer/update_non_finite"] == 1, "the result is stored as it is"
    (event,) = tripped_events(logged)
    assert (event["severity"], event["task"], event["round"]) == ("WARNING", TASK, 2)
    # Nothing continues it but an operator.
    h.settle()
    assert len(h.rounds()) == 2
    assert h.leftovers() == []


def test_resumed_task_continues_and_the_same_round_trips_no_more(tmp_path):
    h = begun(tmp_path, np.nan, 0.4, 0.3)
    run_round(h)
    assert h.task().status is TaskStatus.PAUSED
    resumed = h.operate("resume")
    assert (resumed.status, resumed.note) == (TaskStatus.ACTIVE, "")
    h.settle()
    assert h.task().status is TaskStatus.ACTIVE
    run_round(h, 1)
    run_round(h, 2)
    assert [bool(view.metrics) for view in views(h)] == [False, True, True]
    assert h.task().status is TaskStatus.ACTIVE


def test_three_worsening_rounds_pause_the_task(tmp_path):
    h = begun(tmp_path, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, guards=WORSENING)
    for client in range(4):
        assert h.task().status is TaskStatus.ACTIVE
        run_round(h, client)
    task = h.task()
    assert task.status is TaskStatus.PAUSED
    assert f"{LOSS} got worse 3 rounds in a row" in task.note
    assert [view.tripped for view in views(h)] == [(), (), (), ("worsening",)]
    h.operate("resume")
    h.deliver_all()
    for client in range(2):
        run_round(h, client)
        assert h.task().status is TaskStatus.ACTIVE, "the count starts again"
    run_round(h, 2)
    assert h.task().status is TaskStatus.PAUSED


def test_rollback_continues_the_count_of_its_base(tmp_path):
    # Rounds 2 and 3 are worse. From version 1 the next one is compared with round 1, not round 3.
    h = begun(tmp_path, 1.0, 2.0, 3.0, 1.5, 1.6, 1.7, guards=WORSENING)
    for client in range(3):
        run_round(h, client)
    h.operate("rollback", version=1)
    h.deliver_all()
    for client in range(2):
        run_round(h, client)
    assert [round_.worsened for round_ in h.committed()] == [0, 1, 2, 1, 2]
    run_round(h, 2)
    assert h.task().status is TaskStatus.PAUSED


def test_guarded_task_can_be_rolled_back(tmp_path):
    h = begun(tmp_path, 1.0, np.nan, 0.9)
    run_round(h)
    run_round(h, 1)
    h.operate("rollback", version=1)
    h.deliver_all()
    assert h.task().status is TaskStatus.PAUSED, "a rollback keeps a pause"
    h.operate("resume")
    h.deliver_all()
    run_round(h, 2)
    last = h.committed()[-1]
    assert (last.key.number, last.terms.base.version) == (3, 1)
    assert h.task().status is TaskStatus.ACTIVE


def test_last_round_pauses_and_completes_when_resumed(tmp_path):
    h = begun(tmp_path, np.nan, rounds=1)
    run_round(h)
    assert h.task().status is TaskStatus.PAUSED
    h.operate("resume")
    h.settle()
    assert h.task().status is TaskStatus.COMPLETED


def test_guards_may_be_off_and_the_curve_still_has_no_point(tmp_path):
    h = begun(tmp_path, np.nan, np.nan, guards={"no_examples": False})
    run_round(h)
    run_round(h, 1)
    assert h.task().status is TaskStatus.ACTIVE
    assert [(view.metrics, view.tripped) for view in views(h)] == [({}, ()), ({}, ())]


def test_answer_of_an_analytics_task_is_not_held_back(tmp_path):
    h = Harness(tmp_path, runtime=LearningRuntime([np.nan]))
    h.put_plan()
    spec = TaskSpec.from_dict(
        {
            "name": TASK,
            "population": "phones",
            "plan": h.plan.sha256,
            "kind": "analytics",
            "policy": {"rounds": 1, "goal": 1},
        }
    )
    h.ask("POST", "/v1/tasks", body=spec.encode())
    h.deliver_all()
    run_round(h)
    task = h.task()
    assert task.status is TaskStatus.COMPLETED
    assert "tripped a guard" in task.note


def writes_of_a_guarded_round(root: Path, *faults: Fault) -> tuple[Harness, Schedule]:
    schedule = Schedule(*faults)
    h = Harness(
        root,
        runtime=LearningRuntime([np.nan] * 20),
        wrap=lambda inner: replace(inner, documents=FaultyDocuments(inner.documents, schedule)),
    )
    return h, schedule


def repeat_upload(h: Harness, token: str) -> None:
    """Repeats an upload whose answer was lost; its round may have closed meanwhile."""
    try:
        h.upload(token, sum_update(0))
    except ProblemError as problem:
        if problem.type is not ProblemType.ROUND_CLOSED:
            raise


@pytest.mark.parametrize("when", list(When))
def test_crash_at_any_write_still_pauses_before_another_round(tmp_path, when):
    h, schedule = writes_of_a_guarded_round(tmp_path / "count")
    h.begin(rounds=9, goal=1, shards=1)
    token, before = h.assigned(0).token, len(schedule.writes)
    h.upload(token, sum_update(0))
    h.deliver_all()
    writes = len(schedule.writes)
    assert any(f"documents.replace {names.task_path(TASK)}" in write for write in schedule.writes[before:])
    for number in range(before + 1, writes + 1):
        h, schedule = writes_of_a_guarded_round(tmp_path / f"{number}", Fault(number, when))
        h.begin(rounds=9, goal=1, shards=1)
        token = h.assigned(0).token
        try:
            h.upload(token, sum_update(0))
            h.deliver_all()
        except Crash:
            h.restart()
            h.queue.held.clear()  # all queued work is lost
            repeat_upload(h, token)
        h.settle(minutes=4)
        assert h.task().status is TaskStatus.PAUSED, schedule.writes[number - 1]
        assert h.task().note
        assert [round_.key.number for round_ in h.rounds()] == [1], "no other round has opened"
        h.operate("resume")
        h.settle()
        assert h.task().status is TaskStatus.ACTIVE, schedule.writes[number - 1]


def test_guard_of_an_evaluation_pauses_the_training_task(tmp_path, logged):
    # The evaluation's rounds are those of an ordinary task here; only its verdict matters.
    h = begun(tmp_path, np.nan, 0.5)
    training = TaskSpec.from_dict({**h.record().spec.to_dict(), "name": "training", "population": "others"})
    h.ask("POST", "/v1/tasks", body=training.encode())
    h.deliver_all()
    record = h.inner.tasks.get(names.task_path(TASK))
    spec = record.value.spec.model_copy(
        update={"kind": TaskKind.EVALUATE, "evaluates": Evaluation(task="training", every=1)}
    )
    run = Run("v1", first=1, rounds=1, goal=1, base=record.value.checkpoint)
    h.inner.tasks.replace(record, replace(record.value, spec=spec, run=run, running=True))
    run_round(h)
    paused = h.inner.task("training").value
    assert paused.status is TaskStatus.PAUSED
    assert paused.note.startswith(f"Round 1 of evaluation {TASK}")
    assert [event["paused"] for event in tripped_events(logged)] == ["training"]
    assert h.task().status is not TaskStatus.PAUSED, "the evaluation itself is not paused"
    # A resumed training task is not paused by the same round again, whatever is delivered twice.
    h.ask("POST", "/v1/tasks/training:resume")
    h.settle()
    assert h.inner.task("training").value.status is TaskStatus.ACTIVE
