"""Failing plans: each pauses its own task with the reason, and blocks no other task."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from support.harness import TASK, Harness
from support.plans import SumRuntime, folded_by_graphs, sum_plan, sum_update

from muster.wire.messages import (
    Assignment,
    CheckinRequest,
    CheckinResponse,
    Rollback,
    TaskPolicy,
    TaskSpec,
    TaskStatus,
)
from muster.wire.problems import ProblemError, ProblemType, TimeLimitError
from muster_coordinator.concurrency.memory_budget import MemoryBudget
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Aggregating, Committed
from muster_coordinator.use_cases.update_aggregator import FoldBusyError

STAGES = ("prepare", "accumulate", "merge", "report", "update")
# Errors that TensorFlow, numpy and the runtime raise, or might raise.
FAILURES: dict[str, Callable[[], BaseException]] = {
    "an output that the graph lacks": lambda: ValueError("The name 'plan/x:0' refers to a Tensor which does not exist"),
    "a tensor that is missing": lambda: KeyError("count"),
    "a wrong type": lambda: TypeError("unsupported operand"),
    "an index": lambda: IndexError("list index out of range"),
    "an attribute": lambda: AttributeError("'NoneType' object has no attribute 'shape'"),
    "an error of no kind": lambda: RuntimeError("internal error"),
    "memory": MemoryError,
    "memory that can't be mapped": lambda: OSError(12, "Cannot allocate memory"),
    "a denied operation": lambda: ProblemError(ProblemType.PLAN_INVALID, "The plan's graph holds ReadFile"),
    "a state that does not match": lambda: ProblemError(ProblemType.INVALID_REQUEST, "The state does not match"),
    "a graph that fails": lambda: ProblemError(ProblemType.COMPUTATION_FAILED, "division by zero"),
    "tensors that do not match": lambda: ProblemError(ProblemType.UPDATE_INVALID, "The partial does not match"),
    "a library that is missing": lambda: ProblemError(ProblemType.NOT_SUPPORTED, "deploy aggregator-tensorflow"),
    "a graph that runs too long": lambda: TimeLimitError("stopped"),
}


class FailingRuntime(SumRuntime):
    """Runtime that fails in one stage while `failure` is set, and counts its calls per stage."""

    def __init__(self, stage: str, failure: Callable[[], BaseException] | None) -> None:
        super().__init__()
        self.stage = stage
        self.failure = failure
        self.tried: list[str] = []
        self.seconds: set[float | None] = set()

    def _enter(self, stage: str, seconds: float | None) -> None:
        self.tried.append(stage)
        self.seconds.add(seconds)
        if stage == self.stage and self.failure is not None:
            raise self.failure()

    def prepare(self, state: Any, *, seconds: float | None = None) -> Any:
        self._enter("prepare", seconds)
        return super().prepare(state)

    def report(self, accumulator: Any, *, seconds: float | None = None) -> Any:
        self._enter("report", seconds)
        return super().report(accumulator)

    def update(self, state: Any, aggregate: Any, clear_sums: Any = None, *, seconds: float | None = None) -> Any:
        self._enter("update", seconds)
        return super().update(state, aggregate, clear_sums)

    def accumulate(self, accumulator: Any, update: Any, *, only: Any, seconds: float | None = None) -> Any:
        self._enter("accumulate", seconds)
        return {name: accumulator[name] + update[name] for name in only}

    def merge(self, left: Any, right: Any, *, only: Any, seconds: float | None = None) -> Any:
        self._enter("merge", seconds)
        return {name: left[name] + right[name] for name in only}


def contribute(h: Harness, *clients: int) -> None:
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))


def is_dropped(stage: str, name: str) -> bool:
    """Returns whether an update may cause the failure; such an update is dropped."""
    return stage == "accumulate" and name == "tensors that do not match"


CASES = [(stage, name) for stage in STAGES for name in FAILURES if not is_dropped(stage, name)]


@pytest.mark.parametrize(("stage", "name"), CASES, ids=[f"{stage}-{name}" for stage, name in CASES])
def test_failing_plan_pauses_its_task_with_the_reason(stage, name, tmp_path):
    runtime = FailingRuntime(stage, FAILURES[name])
    h = Harness(tmp_path, plan=folded_by_graphs(sum_plan()), runtime=runtime)
    h.begin(rounds=2, goal=4, minimum=2, chunk=2, shards=1, round_seconds=1000, graph_seconds=7)
    if stage != "prepare":
        contribute(h, 0, 1)
        h.deliver_all()
        if h.task().status is TaskStatus.ACTIVE:
            contribute(h, 2, 3)
    h.deliver_all()
    task = h.task()
    assert task.status is TaskStatus.PAUSED
    assert task.note, "an operator can read the reason"
    assert "Traceback" not in task.note
    if name == "a graph that runs too long":
        assert f"The plan's {stage} ran for more than 7 s" in task.note
    assert runtime.seconds == {7.0}
    assert h.queue.held == [held for held in h.queue.held if held.due > h.clock.now()]
    # Ticks and repeated deliveries succeed, and no graph runs.
    tried = len(runtime.tried)
    key = h.record().current or names.RoundKey(TASK, 1, 0)
    for _ in range(3):
        h.tick()
        h.app.round_closer.close(key)
        h.app.update_aggregator.fold_shard(key, 0)
        h.app.update_aggregator.fold_part(key, "rest-000000")
        h.app.round_committer.commit(key)
        h.app.task_opener.open(TASK)
        h.clock.advance(61)
        h.deliver_all()
    assert len(runtime.tried) == tried
    assert h.task().note == task.note
    # Resumed without the fault, the task continues where it stopped.
    runtime.failure = None
    h.operate("resume")
    h.deliver_all()
    task = h.task()
    assert (task.status, task.note) == (TaskStatus.ACTIVE, "")
    contribute(h, *{"prepare": (0, 1, 2, 3), "accumulate": (2, 3)}.get(stage, ()))
    h.deliver_all()
    (committed,) = h.committed()
    assert int(h.result(1)["ids"]) == 0b1111
    assert committed.tally.folded == 4


@pytest.mark.parametrize("stage", ["accumulate", "merge"])
def test_tick_repairs_other_tasks_despite_a_failing_fold(stage, tmp_path):
    runtime = FailingRuntime(stage, FAILURES["a tensor that is missing"])
    h = Harness(tmp_path, plan=folded_by_graphs(sum_plan()), runtime=runtime)
    h.begin(rounds=2, goal=4, minimum=2, chunk=2, shards=1, round_seconds=1000)
    contribute(h, 0, 1)
    h.queue.held.clear()  # the fold's delivery is lost, and the tick repairs that
    h.tick()
    h.deliver_all()
    if stage == "accumulate":
        assert h.task().status is TaskStatus.PAUSED
    h.tick()


def test_update_that_breaks_the_fold_is_dropped(tmp_path):
    class Picky(FailingRuntime):
        def accumulate(self, accumulator, update, *, only, seconds=None):
            if int(update["ids"]) == 1 << 2:
                raise ProblemError(ProblemType.COMPUTATION_FAILED, "an assertion failed")
            return super().accumulate(accumulator, update, only=only, seconds=seconds)

    h = Harness(tmp_path, plan=folded_by_graphs(sum_plan()), runtime=Picky("none", None))
    h.begin(rounds=1, goal=4, minimum=2, chunk=2, shards=1)
    contribute(h, 0, 1, 2, 3)
    h.deliver_all()
    (committed,) = h.committed()
    assert (int(h.result(1)["ids"]), dict(committed.tally.dropped)) == (0b1011, {"computation_failed": 1})


@pytest.mark.parametrize("contributed", [0, 2])
def test_stored_plan_that_is_no_longer_valid_pauses_its_task(contributed, tmp_path):
    h = Harness(tmp_path)
    bad = h.plan.manifest.model_copy(update={"name": "n" * 5000})
    h.begin(rounds=1, goal=2, minimum=2)
    contribute(h, *range(contributed))
    # As if it had been stored before these checks existed.
    plan = replace(h.plan, manifest=bad)
    record = h.inner.tasks.get(names.task_path(TASK))
    spec = record.value.spec.model_copy(update={"plan": plan.sha256})
    h.inner.tasks.replace(record, replace(record.value, spec=spec))
    record = h.inner.round(h.key())
    h.inner.rounds.replace(record, replace(record.value, terms=replace(record.value.terms, plan=plan.sha256)))
    for for_client in (True, False):
        file = plan.for_client() if for_client else plan
        h.inner.blobs.create(names.plan_name(plan.sha256, for_client=for_client), [file.encode()])
    h.deliver_all()
    h.tick()
    assert h.task().status is TaskStatus.PAUSED
    assert "name: has 5000 characters; at most 200 are allowed" in h.task().note
    assert h.checkin(7).status == "wait"


def test_failure_of_a_rolled_back_round_does_not_pause(tmp_path):
    rolled = []

    def roll_back_and_fail() -> None:
        if not rolled:
            rolled.append(h.operate("rollback", version=0))
            raise ProblemError(ProblemType.COMPUTATION_FAILED, "too late")

    h = Harness(tmp_path, runtime=SumRuntime(before_update=roll_back_and_fail))
    h.begin(rounds=1, goal=2)
    contribute(h, 0, 1)
    h.deliver_all()
    assert (h.task().status, h.task().note) == (TaskStatus.ACTIVE, "")
    contribute(h, 0, 1)
    h.deliver_all()
    assert h.task().status is TaskStatus.COMPLETED


# A slow plan of one task, beside other tasks.


class HangingRuntime(SumRuntime):
    """Runtime that hangs in some stages until released, then reports its time limit."""

    def __init__(self, *hanging: str) -> None:
        super().__init__()
        self.hanging = hanging
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.runs = 0

    def _enter(self, stage: str) -> None:
        if stage in self.hanging:
            self.runs += 1
            self.entered.set()
            assert self.let_go.wait(60)
            raise TimeLimitError("stopped")

    def prepare(self, state: Any, *, seconds: float | None = None) -> Any:  # noqa: ARG002
        self._enter("prepare")
        return super().prepare(state)

    def update(self, state: Any, aggregate: Any, clear_sums: Any = None, *, seconds: float | None = None) -> Any:  # noqa: ARG002
        self._enter("update")
        return super().update(state, aggregate, clear_sums)

    def accumulate(self, accumulator: Any, update: Any, *, only: Any, seconds: float | None = None) -> Any:  # noqa: ARG002
        self._enter("accumulate")
        return {name: accumulator[name] + update[name] for name in only}

    def merge(self, left: Any, right: Any, *, only: Any, seconds: float | None = None) -> Any:  # noqa: ARG002
        return {name: left[name] + right[name] for name in only}


class Deployment:
    """Two tasks in one process: `bad`, whose plan hangs, and `good`, which folds with numpy."""

    def __init__(self, root: Any, hanging: HangingRuntime) -> None:
        self.hanging = hanging
        self.plans = {"bad": folded_by_graphs(sum_plan()), "good": sum_plan()}
        runtimes = {self.plans["bad"].sha256: hanging, self.plans["good"].sha256: SumRuntime()}
        self.h = Harness(root, durable=True, runtime=runtimes)
        self.update_aggregator = replace(self.h.app.update_aggregator, _patience=0.01)
        for name, plan in self.plans.items():
            self.h.ask("PUT", f"/v1/plans/{plan.sha256}", body=plan.encode())
            policy = TaskPolicy(rounds=2, goal=4, minimum=2, chunk=2, shards=1, round_seconds=1000)
            spec = TaskSpec(name=name, population=name, plan=plan.sha256, policy=policy)
            self.h.ask("POST", "/v1/tasks", body=spec.encode())

    def open(self, *tasks: str) -> None:
        for task in tasks:
            self.h.app.task_opener.open(task)

    def upload(self, task: str, *clients: int) -> None:
        for client in clients:
            request = CheckinRequest(client=str(client)).encode()
            answer = self.h.ask("POST", f"/v1/populations/{task}:checkin", body=request)
            assignment = CheckinResponse.decode(answer).answer
            assert isinstance(assignment, Assignment), assignment
            self.h.upload(assignment.token, sum_update(client))

    def key(self, task: str) -> names.RoundKey:
        key = self.h.inner.task(task).value.current
        assert key is not None
        return key

    def status(self, task: str) -> TaskStatus:
        return self.h.inner.task(task).value.status


@contextmanager
def under_way(runtime: HangingRuntime, action: Callable[[], Any]) -> Iterator[None]:
    """Runs `action` in a thread until it hangs in the plan; releases and joins it at the end."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(action)
        try:
            assert runtime.entered.wait(30)
            yield
        finally:
            runtime.let_go.set()
        future.result(timeout=30)


def test_hanging_commit_does_not_block_other_tasks(tmp_path):
    both = Deployment(tmp_path, HangingRuntime("update"))
    both.open("bad", "good")
    for task in ("bad", "good"):
        both.upload(task, 0, 1, 2, 3)
    bad, good = both.key("bad"), both.key("good")
    both.h.app.round_closer.close(bad)
    with under_way(both.hanging, lambda: both.h.app.round_committer.commit(bad)):
        for _ in range(6):  # as the queue does without a response
            both.h.app.round_committer.commit(bad)
        assert both.hanging.runs == 1
        both.h.app.round_closer.close(good)
        both.h.app.round_committer.commit(good)
        assert isinstance(both.h.round(good), Committed)
        assert isinstance(both.h.round(bad), Aggregating)
    assert both.status("bad") is TaskStatus.PAUSED
    assert "The plan's update ran for more than 600 s" in both.h.inner.task("bad").value.note


def test_hanging_open_does_not_block_other_tasks(tmp_path):
    both = Deployment(tmp_path, HangingRuntime("prepare"))
    with under_way(both.hanging, lambda: both.open("bad")):
        for _ in range(6):
            both.open("bad")
        both.open("good")
        assert both.status("good") is TaskStatus.ACTIVE
        assert (both.status("bad"), both.hanging.runs) == (TaskStatus.OPENING, 1)
    assert both.status("bad") is TaskStatus.PAUSED


def test_hanging_fold_does_not_block_other_tasks(tmp_path):
    both = Deployment(tmp_path, HangingRuntime("accumulate"))
    both.open("bad", "good")
    for task in ("bad", "good"):
        both.upload(task, 0, 1)
    bad, good = both.key("bad"), both.key("good")
    with under_way(both.hanging, lambda: both.update_aggregator.fold_shard(bad, 0)):
        with pytest.raises(FoldBusyError):
            both.update_aggregator.fold_shard(bad, 0)
        both.update_aggregator.fold_shard(good, 0)
        assert not [name for name in both.h.blobs("updates/") if "/good/" in name]
        # A tick checks every task, and starts no fold that runs graphs.
        both.h.tick()
        assert both.hanging.runs == 1
    # A time limit is the plan's fault: no update is dropped or lost.
    assert both.status("bad") is TaskStatus.PAUSED
    assert both.hanging.runs == 1
    assert len([name for name in both.h.blobs("updates/") if "/bad/" in name]) == 2
    both.hanging.hanging = ()
    both.h.ask("POST", "/v1/tasks/bad:resume")
    both.upload("bad", 2, 3)
    both.h.deliver_all()
    rounds = [record.value for record in both.h.inner.rounds.list(names.rounds_path("bad"))]
    assert [(type(round_), round_.tally.folded) for round_ in rounds[:1]] == [(Committed, 4)]


def test_rollback_does_not_wait_for_a_hanging_open(tmp_path):
    hanging = HangingRuntime()
    both = Deployment(tmp_path, hanging)
    both.open("bad")
    both.upload("bad", 0, 1, 2, 3)
    both.h.deliver_all()
    both.h.ask("POST", "/v1/tasks/bad:rollback", body=Rollback(version=0).encode())
    hanging.hanging = ("prepare",)
    with under_way(hanging, lambda: both.open("bad")):
        hanging.hanging = ()
        both.h.ask("POST", "/v1/tasks/bad:rollback", body=Rollback(version=1).encode())
        both.open("bad")
        assert both.status("bad") is TaskStatus.ACTIVE
    assert both.status("bad") is TaskStatus.ACTIVE
    assert both.h.round(both.key("bad")).terms.base.version == 1


def test_large_runs_are_serialized_unless_one_is_slow():
    budget = MemoryBudget(budget=100, patience=0.05)
    with budget.take(40), budget.take(40):
        started = threading.Event()

        def third() -> None:
            with budget.take(40):
                started.set()

        thread = threading.Thread(target=third)
        thread.start()
        assert started.wait(30), "a run that is slow keeps the next one waiting for a moment"
        thread.join()
    with budget.take(1000):
        pass
    patient = MemoryBudget(budget=100, patience=1e6)
    order = []
    with patient.take(1000):
        waiting = threading.Thread(target=lambda: [order.append("next") for _ in [0] if _run(patient)])
        waiting.start()
        order.append("first")
    waiting.join(timeout=30)
    assert order == ["first", "next"]


def _run(budget: MemoryBudget) -> bool:
    with budget.take(1000):
        return True


# A rollback does not end a pause.


@pytest.mark.parametrize("failed", [False, True])
def test_rollback_of_a_paused_task_stays_paused(failed, tmp_path):
    runtime = FailingRuntime("update", None)
    h = Harness(tmp_path, runtime=runtime)
    h.begin(rounds=3, goal=2)
    contribute(h, 0, 1)
    h.deliver_all()
    if failed:
        runtime.failure = FAILURES["a graph that fails"]
        contribute(h, 2, 3)
        h.deliver_all()
        runtime.failure = None
    else:
        h.operate("pause")
    assert h.operate("rollback", version=1).status is TaskStatus.OPENING
    h.deliver_all()
    h.settle()
    assert (h.task().status, h.task().note) == (TaskStatus.PAUSED, "")
    assert h.checkin(9).status == "wait"
    assert h.operate("resume").status is TaskStatus.ACTIVE
    contribute(h, 4, 5)
    h.deliver_all()
    assert int(h.result(2)["ids"]) == 0b110000


def test_resume_during_the_rollback_of_a_paused_task_applies(tmp_path):
    h = Harness(tmp_path)
    h.begin(rounds=3, goal=2)
    h.operate("pause")
    h.operate("rollback", version=0)
    assert h.operate("resume").status is TaskStatus.OPENING
    h.deliver_all()
    assert h.task().status is TaskStatus.ACTIVE


def test_rollback_of_a_running_task_resumes_automatically(tmp_path):
    h = Harness(tmp_path)
    h.begin(rounds=3, goal=2)
    h.operate("rollback", version=0)
    h.deliver_all()
    assert h.task().status is TaskStatus.ACTIVE
