"""Checks what an author sees: tensor names, refusals, restored values, comparisons."""

import collections
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from support.computations import BATCH, UNSORTED_STATE, fed_avg, regression, unsorted_clients, unsorted_keys

from muster.author import build_plan, check_plan, restore_result, restore_state, tff_worker
from muster.runtime import Runtime
from muster.wire.manifest import Release
from muster.wire.problems import ProblemError, ProblemType


def summing(declared):
    @tff.federated_computation(tff.FederatedType(declared, tff.CLIENTS))
    def total(values):
        return tff.federated_sum(values)

    return total


def test_tensor_names_are_paths(fed_avg_plan):
    manifest = fed_avg_plan.manifest
    assert [spec.path for spec in manifest.state] == [
        "global_model_weights/trainable/0",
        "global_model_weights/trainable/1",
        "client_work/learning_rate",
        "finalizer/learning_rate",
    ]
    assert list(BATCH) == [field.name for field in manifest.data.element.fields]


def test_slashes_are_escaped_and_a_bare_tensor_is_named_after_its_value():
    named = build_plan(summing(tff.to_type(collections.OrderedDict([("a/b", np.int32), ("c", np.int32)]))), name="sums")
    assert [spec.path for spec in named.manifest.result] == ["a%2Fb", "c"]
    bare = build_plan(summing(np.int32)).manifest
    assert [spec.path for spec in bare.result] == ["result"]
    assert [binding.path for binding in bare.stages.work.inputs["data"]] == ["data"]
    assert bare.state == ()


@pytest.mark.parametrize("build", [fed_avg, unsorted_keys], ids=["fed_avg", "unsorted_keys"])
def test_tracing_again_yields_the_same_graphs(build):
    first, again = (build_plan(build(), initial_state=None if build is fed_avg else UNSORTED_STATE) for _ in range(2))
    assert first.manifest.stages == again.manifest.stages


def test_secure_sums_need_permission_to_be_summed_in_the_clear():
    @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
    def total(values):
        return tff.federated_secure_sum(values, 10), tff.federated_secure_sum_bitwidth(values, 5)

    with pytest.raises(ProblemError) as caught:
        build_plan(total, name="totals")
    assert caught.value.type is ProblemType.PLAN_INVALID
    assert caught.value.detail == (
        "totals requests secure sums (secure_sum_bitwidth/0, secure_sum/0), but Muster has no secure aggregation: the "
        "coordinator would see each client's values. Use an aggregator without secure sums, or pass "
        "allow_clear_secure_sums=True to sum them in the clear"
    )
    plan = build_plan(total, allow_clear_secure_sums=True)
    assert [(item.path, item.kind, item.minimum, item.maximum) for item in plan.manifest.clear_sums] == [
        ("secure_sum_bitwidth/0", "secure_sum_bitwidth", 0, 31),
        ("secure_sum/0", "secure_sum", 0, 10),
    ]
    assert [
        round_.result.absolute for round_ in check_plan(total, [1, 10, 7], rounds=1, allow_clear_secure_sums=True)
    ] == [0]


def test_modular_sum_keeps_its_modulus():
    @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
    def total(values):
        return tff.backends.mapreduce.federated_secure_modular_sum(values, 16)

    (item,) = build_plan(total, allow_clear_secure_sums=True).manifest.clear_sums
    assert (item.kind, item.modulus, item.maximum) == ("secure_modular_sum", 16, None)
    (check,) = check_plan(total, [9, 10, 11], rounds=1, allow_clear_secure_sums=True)
    assert check.result.absolute == 0


def test_initial_state_is_required_and_must_match_the_type():
    with pytest.raises(ProblemError, match=r"does not define the first one\. Pass initial_state"):
        build_plan(unsorted_keys())
    with pytest.raises(ProblemError) as caught:
        build_plan(unsorted_keys(), name="mine", initial_state=UNSORTED_STATE | {"weight": np.float64(1)})
    assert caught.value.detail == (
        "initial_state does not fit the state of mine: weight: expected float32, got float64; convert it with "
        ".astype('float32')"
    )


def test_checkpoint_is_restored_to_tffs_containers(fed_avg_process, fed_avg_plan, tmp_path: Path):
    process, plan = fed_avg_process, fed_avg_plan
    file = tmp_path / "0.safetensors"
    file.write_bytes(plan.part(plan.manifest.initial_state))
    for source in (plan.initial_state(), file.read_bytes(), file):
        state = restore_state(process, source)
        weights = process.get_model_weights(state)
        assert isinstance(weights, tff.learning.models.ModelWeights)
        np.testing.assert_array_equal(weights.trainable[0], plan.initial_state()["global_model_weights/trainable/0"])
        process.next(state, regression(1))
    with pytest.raises(ProblemError, match=r"The state does not match the plan: x: is not declared"):
        restore_state(process, {**plan.initial_state(), "x": np.zeros(1)})


def test_result_is_restored_to_its_containers():
    runtime = Runtime(build_plan(unsorted_keys(), initial_state=UNSORTED_STATE))
    state = runtime.plan.initial_state()
    update = runtime.work(unsorted_clients(1)[0], runtime.prepare(state))
    after = runtime.update(state, runtime.report(runtime.accumulate(runtime.zero(), update)))
    result = restore_result(unsorted_keys(), after.result)
    assert list(result) == ["y", "x", "w"]
    assert result["x"][1] == ()
    assert list(restore_state(unsorted_keys(), after.state)) == ["weight", "empty", "bias"]


def test_check_reports_differences():
    check = check_plan(unsorted_keys(), unsorted_clients, rounds=2, initial_state=UNSORTED_STATE)
    assert [item.round for item in check] == [1, 2]
    assert all(item.state.relative < 1e-6 and item.result.relative < 1e-6 for item in check)

    @tff.tensorflow.computation(np.float32)
    def random(value):
        return value + tf.random.uniform([])

    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
    def noisy(values):
        return tff.federated_sum(tff.federated_map(random, values))

    (differs,) = check_plan(noisy, [np.float32(0)] * 2, rounds=1)
    assert differs.result.absolute > 0
    assert differs.result.path == "result"


def test_tff_worker_does_not_hold_stdout_or_stderr():
    tff_worker.start()
    held = {
        str(Path(f"/proc/{worker}/fd/{number}").readlink()) for worker in tff_worker.worker_pids() for number in (1, 2)
    }
    assert held == {"/dev/null"}


def test_release_floor_changes_the_plan_address():
    plans = [
        build_plan(summing(np.int32), release=release)
        for release in (None, Release(minimum=20), Release(minimum=20, max_rounds=3, separation_seconds=60.0))
    ]
    assert [plan.manifest.release for plan in plans] == [
        None,
        Release(minimum=20),
        Release(minimum=20, max_rounds=3, separation_seconds=60.0),
    ]
    assert len({plan.sha256 for plan in plans}) == 3
    assert "release" not in plans[0].manifest.to_dict()
    assert plans[1].for_client().manifest == plans[1].manifest  # a device sees it, and the signature covers it
