"""Plans that are changed on their way, signed by nobody, or reach out of the device; and a coordinator that lies to its clients."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from support.fortress import ENROLLER, SIGNER, Fortress, enrolment
from support.harness import problem_of
from support.plans import sum_plan, sum_update
from support.served import served
from werkzeug.wrappers import Request, Response

from coordinator.domain.names import plan_name
from coordinator.http import router
from muster.client import Contributed, Failed, MusterClient, Unreached
from muster.wire.messages import FailureReason
from muster.wire.plan import Plan, part_of
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import SigningKey

MEAN = Path(__file__).parents[1] / "data" / "mean.plan"


class Watched:
    """Stands for a plan's runtime, and says whether a graph was ever looked at."""

    def __init__(self):
        self.made = 0

    def __call__(self, plan):
        del plan
        self.made += 1
        return self

    def work(self, data, broadcast, *, seconds=None):
        del data, broadcast, seconds
        return sum_update(0)


def regions(data):
    """A place in each region of a plan's file: entries' headers, names and contents, signatures, directory, end."""
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


def test_a_plan_with_a_changed_byte_is_refused_by_the_coordinator(h):
    data = h.plan.encode()
    for region, at in regions(data).items():
        response = h.call("PUT", f"/v1/plans/{h.plan.sha256}", body=tampered(data, at))
        assert problem_of(response).type is ProblemType.PLAN_INVALID, region
    assert h.call("PUT", f"/v1/plans/{h.plan.sha256}", body=data).status_code == 200


def client_of(h, url, runtime, **more):
    token = ENROLLER.issue(enrolment(0, issued_at=h.clock.now()))
    return MusterClient(url, "phones", lambda: {"id": 3}, token=token, runtime_factory=runtime, **more)


def lying(h, change):
    """The coordinator, with `change` made to what it answers: `(path, body) -> body`."""
    app = router(h.app)

    def serve(request):
        response = app(request)
        if response.status_code == 200 and request.method == "GET":
            response.direct_passthrough = False
            response.set_data(change(request.path, response.get_data()))
        return response

    return served(Request.application(serve))


def refused(h, change, **more):
    """What a client reports when the coordinator lies so, and that no graph was looked at."""
    runtime = Watched()
    with lying(h, change) as url, client_of(h, url, runtime, **more) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Failed), outcome
    assert runtime.made == 0
    assert not [name for name in h.blobs("updates/") if h.inner.blobs.stat(name).size]
    return outcome


def test_a_plan_with_a_changed_byte_is_refused_by_the_client(tmp_path, issuer):
    for number, region in enumerate(regions(sample := _copy())):
        h = Fortress(tmp_path / str(number), issuer)
        h.begin(goal=3)
        at = regions(sample)[region]
        outcome = refused(h, lambda path, body, at=at: tampered(body, at) if "/plans/" in path else body)
        assert outcome.reason is FailureReason.PLAN_REFUSED, region


def _copy():
    return sum_plan().signed(SIGNER).for_client().encode()


def test_a_plan_in_place_of_another_is_refused_by_the_client(h):
    """Well formed, and signed by who is trusted: but not the one that was announced."""
    other = replace(h.plan, manifest=h.plan.manifest.model_copy(update={"name": "other"}), signatures=()).signed(SIGNER)
    file = other.for_client().encode()
    outcome = refused(h, lambda path, body: file if "/plans/" in path else body, trusted_signers=[SIGNER.signer])
    assert outcome.reason is FailureReason.PLAN_REFUSED


def test_a_plan_of_nobody_trusted_is_refused_by_the_coordinator(h):
    data = replace(h.plan, manifest=h.plan.manifest.model_copy(update={"name": "other"}))
    someone = SigningKey.generate()
    for plan in (
        replace(data, signatures=()),
        replace(data, signatures=()).signed(someone),
        data,
    ):  # the last: another plan's signature
        response = h.call("PUT", f"/v1/plans/{plan.sha256}", body=plan.encode())
        assert problem_of(response).type is ProblemType.PLAN_INVALID
    assert not h.blobs(f"plans/{data.sha256}")


def test_a_plan_that_was_swapped_in_the_store_is_not_run(h):
    """By who can write to the bucket, and has no signer's key."""
    name = plan_name(h.plan.sha256, for_client=False)
    forged = replace(h.plan, signatures=()).signed(SigningKey.generate())
    h.inner.blobs.delete([name])
    h.inner.blobs.create(name, [forged.encode()])
    h.restart()
    with pytest.raises(ProblemError) as caught:
        h.app.plans.full(h.plan.sha256)
    assert caught.value.type is ProblemType.PLAN_INVALID


def test_a_plan_of_nobody_trusted_is_refused_by_the_client(h):
    """The coordinator is not asked whom to trust."""
    for file in (replace(h.plan, signatures=()), replace(h.plan, signatures=()).signed(SigningKey.generate())):
        data = file.for_client().encode()
        outcome = refused(
            h, lambda path, body, data=data: data if "/plans/" in path else body, trusted_signers=[SIGNER.signer]
        )
        assert outcome.reason is FailureReason.PLAN_REFUSED
        h.clock.advance(1001)
        h.settle(minutes=1)


def test_a_broadcast_with_a_changed_byte_is_refused_by_the_client(h):
    runtime = Watched()
    change = lambda path, body: tampered(body, len(body) - 1) if path.endswith("/broadcast") else body  # noqa: E731
    with lying(h, change) as url, client_of(h, url, runtime) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Failed)
    assert "does not have the hash" in outcome.detail


def test_a_plan_larger_than_announced_is_not_downloaded(h):
    outcome = refused(h, lambda path, body: body + bytes(8 << 20) if "/plans/" in path else body)
    assert outcome.reason is FailureReason.PLAN_REFUSED


def test_a_token_goes_to_no_other_address(h):
    """A coordinator, or whoever answers for it, that sends a client on gets its token nowhere."""
    seen = []

    def elsewhere(request):
        seen.append(dict(request.headers))
        return Response("{}", content_type="application/json")

    def redirecting(url):
        return Request.application(lambda _: Response(status=307, headers={"Location": f"{url}/stolen"}))

    with (
        served(Request.application(elsewhere)) as target,
        served(redirecting(target)) as url,
        client_of(h, url, Watched()) as client,
    ):
        assert isinstance(
            client.run_once(), Unreached
        )  # a redirect is no coordinator's word, so it ends no client either
    assert seen == []


def test_an_honest_round_trip_passes(h):
    """What the refusals above are measured against."""
    runtime = Watched()
    with (
        lying(h, lambda _, body: body) as url,
        client_of(h, url, runtime, trusted_signers=[SIGNER.signer]) as client,
    ):
        assert isinstance(client.run_once(), Contributed)
    assert runtime.made == 1


# With TensorFlow: a graph that reaches out.


def evil_plan(path):
    """The plan that averages, whose `work` reads a file in a function within a function, and would send what it finds."""
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
    assert not [node for node in hidden.node if node.op == "ReadFile"]  # in the library alone
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


def test_an_operation_hidden_in_a_nested_function_is_refused_before_tensorflow_gets_the_graph(tmp_path, issuer):
    """Signed by who is trusted, taken by the coordinator (which has no TensorFlow), and refused by the device all the same."""
    import tensorflow as tf

    secret = tmp_path / "secret"
    secret.write_text("what the device keeps to itself")
    h = Fortress(tmp_path / "coordinator", issuer, plan=evil_plan(str(secret)))
    h.begin(goal=3)
    token = ENROLLER.issue(enrolment(0))
    with (
        served(Request.application(router(h.app))) as url,
        patch.object(tf, "import_graph_def", side_effect=AssertionError("TensorFlow was given the graph")),
        MusterClient(url, "phones", lambda: 1.0, token=token, trusted_signers=[SIGNER.signer]) as client,
    ):
        outcome = client.run_once()
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason is FailureReason.PLAN_REFUSED
    assert "ReadFile" in outcome.detail
    assert "function" in outcome.detail
    assert not [name for name in h.blobs("updates/") if h.inner.blobs.stat(name).size]
