"""Attacks with altered, untrusted and harmful plans, and by a lying coordinator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from support.harness import problem_of
from support.plans import SumRuntime, make_plan, sum_plan, sum_update
from support.secured_harness import ENROLLER, SIGNER, SecuredHarness, enrolment
from support.served import served
from werkzeug.wrappers import Request, Response

from muster.client import Contributed, Failed, MusterClient, Unreached
from muster.wire.dtypes import DType
from muster.wire.manifest import SequenceBinding, SequenceType, Stage, TensorBinding, TensorType
from muster.wire.messages import FailureReason, TaskStatus
from muster.wire.plan import Plan, part_of
from muster.wire.problems import ProblemError, ProblemType, TimeLimitError
from muster.wire.signatures import SigningKey
from muster_coordinator.domain.names import plan_name
from muster_coordinator.http import router

MEAN = Path(__file__).parents[1] / "data" / "mean.plan"


class RuntimeProbe:
    """Stand-in for a plan's runtime that counts how often a graph is loaded."""

    def __init__(self):
        self.loads = 0

    def __call__(self, plan):
        del plan
        self.loads += 1
        return self

    def work(self, data, broadcast, *, seconds=None):
        del data, broadcast, seconds
        return sum_update(0)


def regions(data):
    """Returns a position in each region of a plan's file.

    The regions are the entries' headers, names and contents, the signatures, the directory and the
    end.
    """
    directory, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    manifest, signatures = data.index(b'{"'), data.index(b'{"signatures"')
    part = data.index(b"parts/")
    return {
        "magic": 0,
        "flags": 6,
        "time": 10,
        "checksum": 14,
        "size": 18,
        "entry's name": 30,
        "manifest's start": manifest,
        "manifest's middle": (manifest + signatures) // 2,
        "signer": data.index(b"ed25519:") + 10,
        "signature": data.index(b'"signature":"') + 20,
        "part's name": part + 10,
        "part's content": part + 6 + 64 + 3,
        "directory": directory,
        "directory's attributes": directory + 38,
        "directory's offset": directory + 42,
        "end": end,
        "end's count": end + 10,
        "end's comment": end + 20,
    }


def tampered(data, at):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def test_coordinator_refuses_a_plan_with_a_changed_byte(h):
    data = h.plan.encode()
    for region, at in regions(data).items():
        response = h.call("PUT", f"/v1/plans/{h.plan.sha256}", body=tampered(data, at))
        assert problem_of(response).type is ProblemType.PLAN_INVALID, region
    assert h.call("PUT", f"/v1/plans/{h.plan.sha256}", body=data).status_code == 200


def client_of(h, url, runtime, **more):
    token = ENROLLER.issue(enrolment(0, issued_at=h.clock.now()))
    return MusterClient(url, "phones", lambda: {"id": 3}, token=token, runtime_factory=runtime, **more)


def lying_coordinator(h, change):
    """Serves the coordinator with `change(path, body)` applied to its responses."""
    app = router(h.app)

    def serve(request):
        request.environ.pop("HTTP_ACCEPT_ENCODING", None)  # `change` gets the plan, not an encoding of it
        response = app(request)
        if response.status_code == 200 and request.method == "GET":
            response.direct_passthrough = False
            response.set_data(change(request.path, response.get_data()))
        return response

    return served(Request.application(serve))


def client_refusal(h, change, **more):
    """Returns the outcome of a client that meets the lying coordinator.

    Asserts that it loads no graph and uploads nothing.
    """
    runtime = RuntimeProbe()
    with lying_coordinator(h, change) as url, client_of(h, url, runtime, **more) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Failed), outcome
    assert runtime.loads == 0
    assert not [name for name in h.blobs("updates/") if h.inner.blobs.stat(name).size]
    return outcome


def test_client_refuses_a_plan_with_a_changed_byte(tmp_path, issuer):
    for number, region in enumerate(regions(sample := signed_client_copy())):
        h = SecuredHarness(tmp_path / str(number), issuer)
        h.begin(goal=3)
        at = regions(sample)[region]
        outcome = client_refusal(h, lambda path, body, at=at: tampered(body, at) if "/plans/" in path else body)
        assert outcome.reason is FailureReason.PLAN_REFUSED, region


def signed_client_copy():
    return sum_plan().signed(SIGNER).for_client().encode()


def test_client_refuses_a_plan_that_was_not_announced(h):
    """The plan is well-formed and signed by a trusted signer."""
    other = replace(h.plan, manifest=h.plan.manifest.model_copy(update={"name": "other"}), signatures=()).signed(SIGNER)
    file = other.for_client().encode()
    outcome = client_refusal(h, lambda path, body: file if "/plans/" in path else body, trusted_signers=[SIGNER.signer])
    assert outcome.reason is FailureReason.PLAN_REFUSED


def test_coordinator_refuses_a_plan_of_an_untrusted_signer(h):
    data = replace(h.plan, manifest=h.plan.manifest.model_copy(update={"name": "other"}))
    someone = SigningKey.generate()
    for plan in (
        replace(data, signatures=()),
        replace(data, signatures=()).signed(someone),
        data,  # with another plan's signature
    ):
        response = h.call("PUT", f"/v1/plans/{plan.sha256}", body=plan.encode())
        assert problem_of(response).type is ProblemType.PLAN_INVALID
    assert not h.blobs(f"plans/{data.sha256}")


def test_plan_swapped_in_the_store_is_not_run(h):
    """The attacker can write to the bucket but has no signer's key."""
    name = plan_name(h.plan.sha256, for_client=False)
    forged = replace(h.plan, signatures=()).signed(SigningKey.generate())
    h.inner.blobs.delete([name])
    h.inner.blobs.create(name, [forged.encode()])
    h.restart()
    with pytest.raises(ProblemError) as caught:
        h.app.plans.full(h.plan.sha256)
    assert caught.value.type is ProblemType.PLAN_INVALID


def test_client_refuses_a_plan_of_an_untrusted_signer(h):
    """The client trusts its own list of signers, not the coordinator."""
    for file in (replace(h.plan, signatures=()), replace(h.plan, signatures=()).signed(SigningKey.generate())):
        data = file.for_client().encode()
        outcome = client_refusal(
            h, lambda path, body, data=data: data if "/plans/" in path else body, trusted_signers=[SIGNER.signer]
        )
        assert outcome.reason is FailureReason.PLAN_REFUSED
        h.clock.advance(1001)
        h.settle(minutes=1)


def test_client_refuses_a_broadcast_with_a_changed_byte(h):
    runtime = RuntimeProbe()
    change = lambda path, body: tampered(body, len(body) - 1) if path.endswith("/broadcast") else body  # noqa: E731
    with lying_coordinator(h, change) as url, client_of(h, url, runtime) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Failed)
    assert "does not have the hash" in outcome.detail


def test_plan_larger_than_announced_is_not_downloaded(h):
    outcome = client_refusal(h, lambda path, body: body + bytes(8 << 20) if "/plans/" in path else body)
    assert outcome.reason is FailureReason.PLAN_REFUSED


def test_redirect_does_not_receive_the_client_token(h):
    """A coordinator that redirects a client does not disclose the client's token."""
    seen = []

    def elsewhere(request):
        seen.append(dict(request.headers))
        return Response("{}", content_type="application/json")

    def redirecting(url):
        return Request.application(lambda _: Response(status=307, headers={"Location": f"{url}/stolen"}))

    with (
        served(Request.application(elsewhere)) as target,
        served(redirecting(target)) as url,
        client_of(h, url, RuntimeProbe()) as client,
    ):
        assert isinstance(
            client.run_once(), Unreached
        )  # a redirect is not a coordinator's answer, so it does not end the client
    assert seen == []


def test_honest_round_trip_passes(h):
    """Control for the refusals above: an honest coordinator is accepted."""
    runtime = RuntimeProbe()
    with (
        lying_coordinator(h, lambda _, body: body) as url,
        client_of(h, url, runtime, trusted_signers=[SIGNER.signer]) as client,
    ):
        assert isinstance(client.run_once(), Contributed)
    assert runtime.loads == 1


# With TensorFlow: a graph that reads a file.


def file_reading_plan(path):
    """Returns the averaging plan with a `work` that reads a file in a nested function."""
    import tensorflow as tf

    plan = Plan.load(MEAN)

    @tf.function
    def inner(_):
        return tf.strings.length(tf.io.read_file(path))

    @tf.function
    def outer(count):
        return tf.data.Dataset.range(count).map(inner).reduce(0, lambda total, size: total + size)

    with tf.Graph().as_default() as hiding:
        outer(tf.constant(1, tf.int64))
    hidden = hiding.as_graph_def()
    graph = tf.compat.v1.GraphDef.FromString(plan.part(plan.manifest.stages.work.graph))
    assert not [node for node in hidden.node if node.op == "ReadFile"]  # only in the library
    graph.library.function.extend(hidden.library.function)
    for node in hidden.node:
        node.name = f"hidden/{node.name}"
        node.input[:] = [f"hidden/{name}" for name in node.input]
        graph.node.append(node)
    data = graph.SerializeToString()
    stage = plan.manifest.stages.work.model_copy(update={"graph": part_of(data)})
    stages = plan.manifest.stages.model_copy(update={"work": stage})
    parts = {sha256: part for sha256, part in plan.parts.items() if sha256 != plan.manifest.stages.work.graph.sha256}
    manifest = plan.manifest.model_copy(update={"stages": stages})
    return Plan(manifest, {**parts, part_of(data).sha256: data})


def accept_any_graph(monkeypatch):
    """Simulates a compromised coordinator, which serves plans without checking graphs."""
    monkeypatch.setattr("muster_coordinator.state.plan_repository.check_plan_graphs", lambda _: None)


def device_refusal(h, data):
    """Returns the outcome of an honest client for the open round's plan.

    Asserts that TensorFlow never receives the graph.
    """
    import tensorflow as tf

    token = ENROLLER.issue(enrolment(0))
    with (
        served(Request.application(router(h.app))) as url,
        patch.object(tf, "import_graph_def", side_effect=AssertionError("TensorFlow was given the graph")),
        MusterClient(url, "phones", lambda: data, token=token, trusted_signers=[SIGNER.signer]) as client,
    ):
        outcome = client.run_once()
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason is FailureReason.PLAN_REFUSED
    assert not [name for name in h.blobs("updates/") if h.inner.blobs.stat(name).size]
    return outcome


def test_operation_in_a_nested_function_never_reaches_tensorflow(tmp_path, issuer, monkeypatch):
    """A device refuses a plan of a trusted signer from a compromised coordinator."""
    secret = tmp_path / "secret"
    secret.write_text("what the device keeps to itself")
    accept_any_graph(monkeypatch)
    h = SecuredHarness(tmp_path / "coordinator", issuer, plan=file_reading_plan(str(secret)))
    h.begin(goal=3)
    outcome = device_refusal(h, 1.0)
    assert "ReadFile" in outcome.detail
    assert "function" in outcome.detail


# Plans that write their clients' raw data to a file of their choice, through a data set's cache.

PATIENTS = [b"patient A: healthy", b"patient B: diabetes"]


def leaking_plan(path, leak):
    """Returns a plan over a data set of strings with an in-memory cache.

    `leak(graph, stage, path)` turns it into an attack.
    """
    import tensorflow as tf
    from tensorflow.python.data.ops import dataset_ops

    state = {"total": np.int64(0), "rounds": np.int64(0), "file": np.array(str(path).encode(), object)}
    plan = make_plan(
        "client_ids",
        state=state,
        update=sum_plan().manifest.update,
        zero={name: np.zeros_like(value) for name, value in sum_update(0).items()},
    )
    with tf.Graph().as_default() as graph:
        data = tf.compat.v1.placeholder(tf.variant, [], name="data")
        for spec in plan.manifest.broadcast:
            tf.compat.v1.placeholder(spec.dtype.value, spec.shape, name=spec.path)
        patients = dataset_ops._VariantDataset(data, tf.TensorSpec([], tf.string))
        kept = tf.raw_ops.CacheDataset(
            input_dataset=patients._variant_tensor,
            filename=tf.constant("", name="in_memory"),
            output_types=[tf.string],
            output_shapes=[[]],
            name="kept",
        )
        cached = dataset_ops._VariantDataset(kept, tf.TensorSpec([], tf.string))
        tf.identity(cached.reduce(tf.constant(0, tf.int64), lambda count, _: count + 1), name="count")
        tf.constant(1, tf.int64, name="ids")
        tf.zeros([3], name="value")
    made = graph.as_graph_def()

    def bound(spec, tensor):
        return TensorBinding(path=spec.path, dtype=spec.dtype, shape=spec.shape, tensor=tensor)

    stage = Stage(
        graph=part_of(b""),
        inputs={
            "data": (SequenceBinding(path="data", element=TensorType(dtype=DType.STRING, shape=()), tensor="data:0"),),
            "broadcast": tuple(bound(spec, f"{spec.path}:0") for spec in plan.manifest.broadcast),
        },
        outputs={"update": tuple(bound(spec, f"{spec.path}:0") for spec in plan.manifest.update)},
    )
    stage = leak(made, stage, str(path).encode()) or stage
    return replaced(plan, made.SerializeToString(), stage)


def replaced(plan, graph, stage):
    """Returns the plan with another `work`, on a data set of strings."""
    stage = stage.model_copy(update={"graph": part_of(graph)})
    stages = plan.manifest.stages.model_copy(update={"work": stage})
    parts = {sha256: part for sha256, part in plan.parts.items() if sha256 != plan.manifest.stages.work.graph.sha256}
    data = SequenceType(element=TensorType(dtype=DType.STRING, shape=()))
    return Plan(
        plan.manifest.model_copy(update={"stages": stages, "data": data}), {**parts, part_of(graph).sha256: graph}
    )


def without_leak(_graph, _stage, _path):
    """Changes nothing: the string of the broadcast is not used."""


def feed_over_the_constant(_graph, stage, _path):
    """Binds the broadcast's string to the constant that is the cache's file name."""
    bindings = tuple(
        binding.model_copy(update={"tensor": "in_memory:0"}) if binding.path == "file" else binding
        for binding in stage.inputs["broadcast"]
    )
    return stage.model_copy(update={"inputs": {**stage.inputs, "broadcast": bindings}})


def feed_over_a_copy(graph, stage, _path):
    """Binds the string to an identity between the constant and the cache."""
    graph.node.add(name="copy", op="Identity", input=["in_memory"]).attr["T"].type = 7
    next(node for node in graph.node if node.name == "kept").input[1] = "copy"
    bindings = tuple(
        binding.model_copy(update={"tensor": "copy:0"}) if binding.path == "file" else binding
        for binding in stage.inputs["broadcast"]
    )
    return stage.model_copy(update={"inputs": {**stage.inputs, "broadcast": bindings}})


def default_that_can_be_fed(graph, stage, path):
    """Replaces the file name by a placeholder with an empty default, and binds to it."""
    node = next(node for node in graph.node if node.name == "in_memory")
    graph.node.add(name="empty", op="Const").CopyFrom(node)
    graph.node[-1].name = "empty"
    node.op = "PlaceholderWithDefault"
    del node.attr["value"]
    node.input.append("empty")
    node.attr["shape"].shape.SetInParent()
    return feed_over_the_constant(graph, stage, path)


def cache_in_a_function(graph, _stage, _path):
    """Moves the cache to a function that takes the file name as an argument.

    A constant in the function has the argument's name.
    """
    import tensorflow as tf

    cache = next(node for node in graph.node if node.name == "kept")
    constant = next(node for node in graph.node if node.name == "in_memory")
    function = graph.library.function.add()
    function.signature.name = "keep"
    function.signature.input_arg.add(name="patients", type=21)
    function.signature.input_arg.add(name="in_memory", type=7)
    function.signature.output_arg.add(name="out", type=21)
    inner = function.node_def.add()
    inner.CopyFrom(cache)
    inner.input[:] = ["patients", "in_memory"]
    function.node_def.add().CopyFrom(constant)
    function.ret["out"] = "kept:handle:0"
    source = cache.input[0]
    cache.Clear()
    cache.name, cache.op = "kept", "PartitionedCall"
    cache.input.extend([source, "file"])
    cache.attr["Tin"].list.type.extend([21, 7])
    cache.attr["Tout"].list.type.append(21)
    cache.attr["f"].func.name = "keep"
    assert tf.compat.v1.GraphDef.FromString(graph.SerializeToString()) == graph


def constant_of_the_caller(graph, stage, path):
    """Moves the cache to a function whose constant the caller sets."""
    cache_in_a_function(graph, stage, path)
    function = graph.library.function[-1]
    cache, constant = function.node_def
    cache.input[1] = "name:output:0"
    constant.name = "name"
    value = constant.attr["value"].tensor
    function.signature.attr.add(name="where", type="tensor")
    call = next(node for node in graph.node if node.name == "kept")
    call.op = "keep"
    for name in ("Tin", "Tout", "f"):
        del call.attr[name]
    call.attr["where"].tensor.CopyFrom(value)
    call.attr["where"].tensor.string_val[:] = [path]
    constant.attr["value"].placeholder = "where"


def print_data(graph, _stage, _path):
    """Prints data to the device's log."""
    node = graph.node.add(name="printed", op="PrintV2", input=["file"])
    node.attr["output_stream"].s = b"stderr"
    next(node for node in graph.node if node.name == "count").input.append("^printed")


def named_rewrite(graph, _stage, _path):
    """Rewrites graphs by a rule that the broadcast names."""
    node = graph.node.add(name="rewritten", op="RewriteDataset", input=["data", "file"])
    node.attr["output_types"].list.type.append(7)
    node.attr["output_shapes"].list.shape.add()


LEAKS = [
    feed_over_the_constant,
    feed_over_a_copy,
    default_that_can_be_fed,
    cache_in_a_function,
    constant_of_the_caller,
    print_data,
    named_rewrite,
]


@pytest.mark.parametrize("leak", LEAKS)
def test_coordinator_refuses_a_plan_that_leaks_raw_data(h, tmp_path, leak):
    plan = leaking_plan(tmp_path / "leaked", leak).signed(SIGNER)
    response = h.call("PUT", f"/v1/plans/{plan.sha256}", body=plan.encode())
    assert problem_of(response).type is ProblemType.PLAN_INVALID
    assert "The plan's work can't be used" in problem_of(response).detail
    assert not h.blobs(f"plans/{plan.sha256}")


@pytest.mark.parametrize("leak", LEAKS)
def test_client_refuses_a_plan_that_leaks_raw_data(tmp_path, issuer, monkeypatch, leak):
    """The coordinator is compromised and the plan has a trusted signature."""
    accept_any_graph(monkeypatch)
    h = SecuredHarness(tmp_path / "coordinator", issuer, plan=leaking_plan(tmp_path / "leaked", leak))
    h.begin(goal=3)
    device_refusal(h, PATIENTS)
    assert not list(tmp_path.glob("leaked*"))


def test_plan_with_an_in_memory_cache_runs(tmp_path, issuer):
    """Control for the two refusals above: the plan without the attack runs."""
    h = SecuredHarness(tmp_path / "coordinator", issuer, plan=leaking_plan(tmp_path / "leaked", without_leak))
    h.begin(goal=3)
    token = ENROLLER.issue(enrolment(0))
    with (
        served(Request.application(router(h.app))) as url,
        MusterClient(url, "phones", lambda: PATIENTS, token=token, trusted_signers=[SIGNER.signer]) as client,
    ):
        assert isinstance(client.run_once(), Contributed)
    assert not list(tmp_path.glob("leaked*"))


@pytest.mark.parametrize("leak", [feed_over_the_constant, feed_over_a_copy, default_that_can_be_fed])
def test_leaking_plan_writes_the_file_if_checks_are_bypassed(tmp_path, leak):
    """Without the checks TensorFlow writes the file, so the checks prevent the attack."""
    from muster.runtime.graphs import StageGraph, load_graph

    plan = leaking_plan(tmp_path / "leaked", leak)
    stage = plan.manifest.stages.work
    graph = StageGraph(load_graph(plan.part(stage.graph)), stage=stage, name="work")
    broadcast = plan.initial_state()
    graph.run({"broadcast": broadcast}, sequences={"data": lambda: ((np.array(text, object),) for text in PATIENTS)})
    assert any(PATIENTS[1] in file.read_bytes() for file in tmp_path.glob("leaked*"))


def test_contradictory_plan_is_refused_with_a_short_answer(h):
    """Contradictory manifests are not stored, and the answers are small.

    Examples are huge accumulators, folds of missing tensors and impossible shapes.
    """
    manifest = h.plan.manifest
    for change in (
        {"name": "n" * 3_000_000},
        {"folds": ()},
        {"folds": tuple(rule.model_copy(update={"update": "nowhere"}) for rule in manifest.folds)},
        {"state": tuple(spec.model_copy(update={"shape": (1 << 70,)}) for spec in manifest.state)},
        {"update": tuple(spec.model_copy(update={"shape": (1 << 40, 1 << 40)}) for spec in manifest.update)},
        {"accumulator": tuple(spec.model_copy(update={"shape": (1 << 50,)}) for spec in manifest.accumulator)},
        {"result": tuple(manifest.result[0].model_copy(update={"path": str(at)}) for at in range(20_000))},
    ):
        plan = replace(h.plan, manifest=manifest.model_copy(update=change), signatures=()).signed(SIGNER)
        response = h.call("PUT", f"/v1/plans/{plan.sha256}", body=plan.encode())
        assert problem_of(response).type is ProblemType.PLAN_INVALID, change.keys()
        assert len(response.data) < 5000
        assert h.inner.blobs.stat(plan_name(plan.sha256, for_client=False)) is None


def test_endless_plan_is_stopped_and_blocks_no_other_task(h):
    """The runtime reports that the limit is reached.

    `e2e/test_slow_plans.py` runs a plan that really loops.
    """

    def never_ends():
        raise TimeLimitError("stopped")

    app = h.application(runtime=SumRuntime(before_update=never_ends))
    for client in range(h.round().terms.goal):
        h.upload(h.assigned(client).token, sum_update(client))
    app.round_closer.close(h.key())
    app.round_committer.commit(h.key())
    assert h.task().status is TaskStatus.PAUSED
    assert "The plan's update ran for more than 600 s (graph_seconds) and was stopped" in h.task().note
    h.tick()
