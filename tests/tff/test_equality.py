"""Checks that a plan equals TFF's own `next`, with any order, chunks and tree of the fold."""

import numpy as np
import pytest
from support.computations import CASES, Case, readings, reservoir, temperature

from muster.author import build_plan, restore_result, restore_state
from muster.author.check import difference
from muster.author.round_computation import extract_round
from muster.runtime import Fold, Runtime
from muster.runtime.data import adapt
from muster.wire.plan import Plan

ROUNDS = 3
TOLERANCE = 1e-5  # relative, to each tensor's largest magnitude


def folded_at_random(runtime, broadcast, clients, rng):
    """Folds the clients' updates in a random order, in chunks of random sizes.

    The partials are merged in a random tree, with empty partials in it.
    """
    fold = Fold(runtime.plan.manifest, zero=runtime.plan.zero(), tensorflow=lambda: runtime)
    updates = [runtime.work(client, broadcast) for client in clients]
    order = list(rng.permutation(len(updates)))
    partials = [fold.start()]  # empty partials, at the start and later
    while order:
        partial = fold.start()
        for _ in range(int(rng.integers(1, 4))):
            if order:
                partial.add(updates[order.pop()])
        partials += [partial, fold.start()]
    while len(partials) > 1:
        left = partials.pop(int(rng.integers(len(partials))))
        right = partials.pop(int(rng.integers(len(partials))))
        left.merge(right.tensors())
        partials.append(left)
    return fold.split(partials[0].tensors())


def run_round(runtime, state, clients, rng):
    folded = folded_at_random(runtime, runtime.prepare(state), clients, rng)
    return runtime.update(state, runtime.report(folded.accumulator), folded.clear_sums)


def comparable(tensors, case):
    kept = {name: value for name, value in tensors.items() if name not in case.ignored | case.rows}
    rows = sorted(zip(*(tensors[name].tolist() for name in sorted(case.rows)), strict=True), key=repr)
    return kept, rows


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_plan_equals_tff(case: Case):
    computation = case.build()
    plan = Plan.decode(build_plan(computation, name=case.name, **case.options).encode())
    plan.check_complete()
    assert plan.manifest.folds_with_tensorflow is case.with_tensorflow
    runtime = Runtime(plan)
    rng = np.random.default_rng(1)
    native_next = extract_round(computation).next
    tensors = plan.initial_state()
    state = restore_state(native_next, tensors)
    for number in range(1, ROUNDS + 1):
        clients = case.clients(number)
        state, result = native_next(state, clients)
        updated = run_round(runtime, tensors, clients, rng)
        tensors = updated.state
        assert list(updated.state) == [spec.path for spec in plan.manifest.state]
        assert difference(adapt(state, plan.manifest.state_type, root="state").tensors, tensors).relative <= TOLERANCE
        native, native_rows = comparable(adapt(result, plan.manifest.result_type, root="result").tensors, case)
        ours, rows = comparable(updated.result, case)
        assert difference(native, ours).relative <= TOLERANCE
        assert rows == native_rows
        # The plan's state is restored to TFF's containers, too.
        assert type(restore_state(native_next, tensors)) is type(state)
        assert type(restore_result(native_next, updated.result)) is type(result)


def test_temperature_example_has_its_known_value():
    runtime = Runtime(build_plan(temperature(), initial_state={"num_rounds": 0}))
    updated = run_round(runtime, runtime.plan.initial_state(), readings(1), np.random.default_rng(0))
    assert updated.result["result"] == 0.5
    assert updated.state["num_rounds"] == 1


def test_reservoir_holds_distinct_samples_of_clients():
    runtime = Runtime(build_plan(reservoir(size=3)))
    clients = [np.array([at, -at], np.float32) for at in range(7)]
    rng = np.random.default_rng(0)
    for round_clients in (clients, clients[:2]):
        result = run_round(runtime, runtime.plan.initial_state(), round_clients, rng).result["result"]
        assert result.shape == (min(3, len(round_clients)), 2)
        assert {tuple(row) for row in result} <= {tuple(client) for client in round_clients}
        assert len({tuple(row) for row in result}) == len(result)
