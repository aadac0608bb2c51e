"""Attacks on a device that has a policy, and their success on one without.

The attackers are operators, coordinators and plan authors.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from support.harness import POPULATION, TASK
from support.plans import every_dtype_plan, folded_by_graphs, make_plan, sum_plan, sum_update
from support.secured_harness import ENROLLER, SIGNER, SecuredHarness, enrolment
from support.served import served
from werkzeug.wrappers import Request

from muster.client import BudgetError, BudgetRules, ClientPolicy, Contributed, Failed, Ineligible, MusterClient
from muster.wire.dtypes import DType
from muster.wire.manifest import FoldKind, FoldRule, Release, TensorBinding, TensorSpec, TensorType
from muster.wire.messages import FailureReason
from muster.wire.plan import Plan, part_of
from muster.wire.signatures import SigningKey
from muster_coordinator.http import router

ROOT = Path(__file__).parents[2]
BOARD = SigningKey.generate()
OPEN = {"round_seconds": 1000, "assignment_seconds": 1000}
BOUND = 3  # the minimum of the policies here


def bound_plan(minimum=BOUND):
    """Returns the summing plan with a signed minimum."""
    return changed(sum_plan(), release=Release(minimum=minimum))


def changed(plan, **update):
    return Plan(plan.manifest.model_copy(update=update), plan.parts)


class ObservedCoordinator:
    """Coordinator over real HTTP that records requests and reports."""

    def __init__(self, h, *, before=lambda _: None):
        self.h = h
        self.app = router(h.app)
        self.requests, self.reports = [], []
        self._before = before

    def __call__(self, request):
        self._before(request)
        self.requests.append(f"{request.method} {request.path}")
        if request.path.endswith(":report"):
            body = request.get_data()
            self.reports.append(json.loads(body))
            request = Request({**request.environ, "wsgi.input": BytesIO(body)})
        return self.app(request)

    @property
    def checkins(self):
        return sum(path.endswith(":checkin") for path in self.requests)

    @property
    def downloads(self):
        return sum(path.startswith("GET ") for path in self.requests)


@contextmanager
def observe(h, **more):
    coordinator = ObservedCoordinator(h, **more)
    with served(Request.application(coordinator)) as url:
        coordinator.url = url
        yield coordinator


class RuntimeProbe:
    """Stand-in for a plan's runtime that counts how often a graph is loaded."""

    def __init__(self, number):
        self.number = number
        self.loads = 0

    def __call__(self, plan):
        del plan
        self.loads += 1
        return self

    def work(self, data, broadcast, **more):
        del data, broadcast, more
        return sum_update(self.number)


def device(coordinator, number, policy=None, *, runtime=None, data=lambda: [np.int64(3)], **more):
    token = ENROLLER.issue(enrolment(number, issued_at=coordinator.h.clock.now()))
    made = runtime or RuntimeProbe(number)
    return MusterClient(coordinator.url, POPULATION, data, token=token, runtime_factory=made, policy=policy, **more)


def run_once(coordinator, number, policy=None, **more):
    with device(coordinator, number, policy, **more) as client:
        return client.run_once()


def refused(h, policy, rule, *, number=0, **more):
    """Checks that the device refuses by `rule` before it loads the graph.

    The coordinator learns only the rule's name.
    """
    runtime = RuntimeProbe(number)
    with observe(h) as coordinator:
        outcome = run_once(coordinator, number, policy, runtime=runtime, **more)
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason is FailureReason.PLAN_REFUSED
    assert [(report["reason"], report["detail"]) for report in coordinator.reports] == [("plan_refused", rule)]
    assert runtime.loads == 0
    assert not updates(h)
    return coordinator


def updates(h):
    return [name for name in h.blobs("updates/") if h.inner.blobs.stat(name).size]


def begin_round(root, issuer, plan, **policy):
    h = SecuredHarness(root, issuer, plan=plan)
    h.begin(**{"goal": 3, "minimum": 3, **OPEN, **policy})
    return h


def test_task_with_a_minimum_of_1_gets_no_update(tmp_path, issuer):
    """Without a policy, the round's result is the update itself."""
    h = begin_round(tmp_path / "bare", issuer, sum_plan(), goal=1, minimum=1, rounds=1)
    with observe(h) as coordinator:
        assert isinstance(run_once(coordinator, 5), Contributed)
    h.settle(minutes=1)
    assert h.result(1)["ids"] == 1 << 5
    h = begin_round(tmp_path / "held", issuer, sum_plan(), goal=1, minimum=1)
    refused(h, ClientPolicy(minimum=BOUND), "policy.minimum")


def test_plan_with_a_lower_signed_minimum_gets_no_update(tmp_path, issuer):
    h = begin_round(tmp_path, issuer, bound_plan(2))
    refused(h, ClientPolicy(minimum=BOUND), "policy.minimum")


def test_announced_minimum_without_signature_is_ignored(tmp_path, issuer):
    """A coordinator can announce any minimum; only the plan's author can sign one."""
    h = begin_round(tmp_path, issuer, sum_plan())
    inner = router(h.app)

    def lie(request):
        response = inner(request)
        if request.path.endswith(":checkin"):
            document = json.loads(response.get_data())
            document["answer"].update(minimum=1000, goal=1000)
            response.set_data(json.dumps(document))
        return response

    token = ENROLLER.issue(enrolment(0, issued_at=h.clock.now()))
    with (
        served(Request.application(lie)) as url,
        MusterClient(
            url, POPULATION, lambda: 3, token=token, policy=ClientPolicy(minimum=BOUND), runtime_factory=RuntimeProbe(0)
        ) as client,
    ):
        outcome = client.run_once()
    assert isinstance(outcome, Failed)
    assert "policy.minimum" in outcome.detail
    assert not updates(h)


def budget_of(folder, number, **rules):
    """Returns a device's policy with a separate budget file.

    The devices of a test share one machine.
    """
    rules = rules or {"separation_hours": 1}
    return ClientPolicy(minimum=BOUND, budget=BudgetRules(file=str(folder / f"budget-{number}"), **rules))


def run_two_tasks(h, folder, **rules):
    """Runs a task over four devices and one over any three of them, at the same time.

    Every device checks in four times. Returns the tasks that committed a round.
    """
    h.begin(goal=4, minimum=4, rounds=1, **OPEN)
    h.create_task("other", goal=3, minimum=3, rounds=1, **OPEN)
    h.deliver_all()
    with observe(h) as coordinator:
        for number in range(4):
            with device(coordinator, number, budget_of(folder, number, **rules) if rules else None) as client:
                for _ in range(4):
                    client.run_once()
    h.settle()
    committed = {name: len([1 for path in h.blobs(f"results/{name}/")]) for name in (TASK, "other")}
    return [name for name, count in committed.items() if count]


def result_of(h, name):
    from muster.wire.tensors import decode

    return int(decode(h.ask("GET", f"/v1/tasks/{name}/rounds/1/result"))["ids"])


def test_two_tasks_that_differ_by_one_device_do_not_both_commit(tmp_path, issuer):
    """Without a budget, the difference of the two results is one device's update."""
    h = SecuredHarness(tmp_path / "bare", issuer, plan=bound_plan())
    assert run_two_tasks(h, tmp_path) == [TASK, "other"]
    difference = result_of(h, TASK) - result_of(h, "other")
    assert difference in [1 << number for number in range(4)]
    for name, rules in {
        "broadcast": {"per_broadcast": 1},
        "separation": {"separation_hours": 12},
        "day": {"per_day": 1},
    }.items():
        folder = tmp_path / name
        h = SecuredHarness(folder, issuer, plan=bound_plan())
        assert len(run_two_tasks(h, folder, **rules)) < 2, name


def run_rollback(h, folder, **rules):
    """Runs a round, a rollback to the start, and the round again, with three devices.

    Returns the number of updates of each round, and the reports.
    """
    h.begin(goal=3, minimum=3, rounds=5, **OPEN)
    counts = []
    with observe(h) as coordinator:
        for attempt in range(2):
            if attempt:
                h.operate("rollback", version=0)
                h.deliver_all()
            outcomes = [
                run_once(coordinator, number, budget_of(folder, number, **rules) if rules else None)
                for number in range(3)
            ]
            counts.append(sum(isinstance(outcome, Contributed) for outcome in outcomes))
            h.settle(minutes=1)
    return counts, [report["detail"] for report in coordinator.reports]


def test_rollback_that_repeats_a_broadcast_gets_no_second_update(tmp_path, issuer):
    """Repeating the same clients on the same model averages noise away."""
    h = SecuredHarness(tmp_path / "bare", issuer, plan=bound_plan())
    assert run_rollback(h, tmp_path) == ([3, 3], [])
    h = SecuredHarness(tmp_path / "held", issuer, plan=bound_plan())
    assert run_rollback(h, tmp_path, per_broadcast=1) == ([3, 0], ["policy.budget.per_broadcast"] * 3)


def test_device_without_budget_takes_no_slot(tmp_path, issuer):
    h = begin_round(tmp_path, issuer, bound_plan(), goal=3, rounds=5)
    with observe(h) as coordinator:
        policy = budget_of(tmp_path, 0, per_day=1)
        assert isinstance(run_once(coordinator, 0, policy), Contributed)
        assert isinstance(run_once(coordinator, 0, policy), Ineligible)
    assert coordinator.checkins == 1


def test_plan_that_the_policy_does_not_list_is_not_fetched(tmp_path, issuer):
    h = begin_round(tmp_path, issuer, bound_plan())
    coordinator = refused(h, ClientPolicy(plans=[bound_plan(4).sha256]), "policy.plans")
    assert coordinator.downloads == 0


def test_plan_with_one_of_two_required_signers_is_refused(tmp_path, issuer):
    h = begin_round(tmp_path / "one", issuer, bound_plan())
    policy = ClientPolicy(signers=[SIGNER.signer, BOARD.signer], signers_required=2)
    refused(h, policy, "policy.signers")
    h = begin_round(tmp_path / "two", issuer, bound_plan().signed(BOARD))
    with observe(h) as coordinator:
        assert isinstance(run_once(coordinator, 0, policy), Contributed)


@pytest.mark.parametrize("kind", ["maximum", "tensorflow"])
def test_fold_that_reveals_the_values_of_one_device_is_refused(tmp_path, issuer, kind):
    """A maximum is one client's own value; a fold by graphs may reveal anything."""
    plan = folded_by_graphs(bound_plan())
    if kind == "maximum":
        folds = tuple(FoldRule(path=rule.path, kind=FoldKind.MAXIMUM, update=rule.path) for rule in plan.manifest.folds)
        plan = changed(plan, folds=folds)
    h = begin_round(tmp_path, issuer, plan)
    refused(h, ClientPolicy(folds=[FoldKind.SUM]), "policy.folds")


@pytest.mark.parametrize("rule", ["string_tensors", "clear_secure_sums"])
def test_policy_refuses_text_and_clear_secure_sums(tmp_path, issuer, rule):
    h = begin_round(tmp_path, issuer, every_dtype_plan())
    refused(h, ClientPolicy(**{rule: False}), f"policy.{rule}")


def slots_plan():
    """Returns a plan that puts each client's data in one of 64 random slots.

    A sum over ten clients then holds most clients' data unchanged.
    """
    import tensorflow as tf

    shape, slots = (8, 4), 64
    with tf.Graph().as_default() as graph:
        data = tf.compat.v1.placeholder(tf.float32, shape, name="data")
        tf.compat.v1.placeholder(tf.int64, (), name="total")
        slot = tf.one_hot(tf.random.uniform([], 0, slots, tf.int32), slots)
        tf.identity(slot[:, None, None] * data, name="update")
    encoded = graph.as_graph_def().SerializeToString()
    spec = TensorSpec(path="update", dtype=DType.FLOAT32, shape=(slots, *shape))
    zero = {"update": np.zeros((slots, *shape), np.float32)}
    plan = make_plan("heart", state={"total": np.int64(0)}, update=(spec,), zero=zero)

    def bind(path, dtype, shape):
        return (TensorBinding(path=path, dtype=dtype, shape=shape, tensor=f"{path}:0"),)

    stage = plan.manifest.stages.work.model_copy(
        update={
            "graph": part_of(encoded),
            "inputs": {"data": bind("data", DType.FLOAT32, shape), "broadcast": bind("total", DType.INT64, ())},
            "outputs": {"update": bind("update", DType.FLOAT32, (slots, *shape))},
        }
    )
    stages = plan.manifest.stages.model_copy(update={"work": stage})
    manifest = plan.manifest.model_copy(
        update={
            "stages": stages,
            "data": TensorType(dtype=DType.FLOAT32, shape=shape),
            "release": Release(minimum=BOUND),
        }
    )
    kept = {name: part for name, part in plan.parts.items() if name != plan.manifest.stages.work.graph.sha256}
    return Plan(manifest, {**kept, part_of(encoded).sha256: encoded})


def test_update_larger_than_the_data_is_refused(tmp_path, issuer):
    """Disjoint slots reveal the data despite proven sums and a signed minimum."""
    from muster.runtime import Runtime as TensorFlowRuntime

    rows = np.arange(32, dtype=np.float32).reshape(8, 4) + 1
    plan = slots_plan()
    for name, policy in {
        "bare": None,
        "held": ClientPolicy(minimum=BOUND, folds=["sum"], update_bytes_per_data_byte=1.0),
    }.items():
        h = begin_round(tmp_path / name, issuer, plan)
        with observe(h) as coordinator:
            outcome = run_once(coordinator, 0, policy, runtime=TensorFlowRuntime, data=lambda: rows)
        if policy is None:
            assert isinstance(outcome, Contributed)
            assert outcome.update_bytes > 60 * rows.nbytes
        else:
            assert isinstance(outcome, Failed)
            assert [report["detail"] for report in coordinator.reports] == ["policy.update_bytes_per_data_byte"]
            assert not updates(h)


MEMBER = """
import sys
from muster.client import MusterClient
from support.plans import sum_update

class Runtime:
    def work(self, data, broadcast):
        if data == "stay":
            print("at work", flush=True)
            sys.stdin.read()
        return sum_update(3)

url, token, policy, data = sys.argv[1:]
options = {"token": token, "policy": policy, "runtime_factory": lambda _: Runtime()}
with MusterClient(url, "phones", lambda: data, **options) as client:
    print(type(client.run_once()).__name__, flush=True)
"""


def member(coordinator, policy, data="go"):
    token = ENROLLER.issue(enrolment(3, issued_at=coordinator.h.clock.now()))
    return subprocess.Popen(  # noqa: S603  our own code
        [sys.executable, "-c", MEMBER, coordinator.url, token, str(policy), data],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT / "tests",  # on the path of `-c`
    )


@pytest.mark.parametrize("moment", ["during the work", "as the upload leaves"])
def test_crash_between_budget_and_upload_counts(tmp_path, issuer, moment):
    """The budget is recorded before the upload.

    Otherwise a plan that ends the process, or a well-timed restart, lets the device work again
    without a record.
    """
    h = begin_round(tmp_path / "coordinator", issuer, bound_plan())
    policy = tmp_path / "ward.toml"
    policy.write_text(f'minimum = {BOUND}\n[budget]\nper_day = 1\nfile = "{(tmp_path / "budget").as_posix()}"\n')
    running = []

    def kill(request):
        if request.path == "/v1/updates" and request.method == "PUT":
            os.kill(running[0].pid, signal.SIGKILL)
            running[0].wait(60)

    with observe(h, before=kill) as coordinator:
        process = member(coordinator, policy, "stay" if moment == "during the work" else "go")
        running.append(process)
        if moment == "during the work":
            assert process.stdout.readline() == "at work\n"
            process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        h.clock.advance(1001)  # the assignment has expired
        h.settle(minutes=1)
        checkins = coordinator.checkins
        output, _ = member(coordinator, policy).communicate(timeout=60)
    assert output == "Ineligible\n"
    assert coordinator.checkins == checkins
    # A small update may have been sent in one packet with the head of its request.
    assert len(updates(h)) <= (0 if moment == "during the work" else 1)


def test_budget_file_writable_by_others_is_not_used(tmp_path, issuer):
    h = begin_round(tmp_path / "coordinator", issuer, bound_plan())
    policy = budget_of(tmp_path, 0, per_day=1)
    with observe(h) as coordinator:
        assert isinstance(run_once(coordinator, 0, policy), Contributed)
        policy.budget.path.chmod(0o666)
        with pytest.raises(BudgetError, match="chmod 600"):
            run_once(coordinator, 0, policy)
    assert coordinator.checkins == 1


def test_honest_task_passes_a_strict_policy(tmp_path, issuer):
    """Control for the refusals above: an honest task satisfies a strict policy."""
    plan = bound_plan().signed(BOARD)
    h = begin_round(tmp_path, issuer, plan, rounds=1)

    class Metered(RuntimeProbe):
        def work(self, data, broadcast, *, meter, seconds):
            assert seconds > 0
            meter.record("data", data[0].nbytes * 100)
            return super().work(data, broadcast)

    with observe(h) as coordinator:
        for number in range(3):
            policy = ClientPolicy(
                plans=[plan.sha256],
                signers=[SIGNER.signer, BOARD.signer],
                signers_required=2,
                minimum=BOUND,
                folds=["sum"],
                clear_secure_sums=False,
                string_tensors=False,
                update_bytes_per_data_byte=0.2,
                max_update_bytes=10_000,
                max_download_bytes=100_000,
                max_seconds=60,
                budget=BudgetRules(
                    per_day=1, per_plan=1, per_broadcast=1, separation_hours=1, file=str(tmp_path / f"budget-{number}")
                ),
            )
            assert isinstance(run_once(coordinator, number, policy, runtime=Metered(number)), Contributed)
    h.settle(minutes=1)
    assert h.result(1)["ids"] == 7
