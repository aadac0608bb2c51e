"""Failure reports of a device: reason, code and kind of error, and no text that may quote data."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path

import pytest
from support.scripted_proxy import ScriptedProxy
from support.secured_harness import ENROLLER, SecuredHarness, enrolment
from support.served import served
from werkzeug.wrappers import Request

from muster.client import Failed, Limits, MusterClient
from muster.client.kinds import kind_of
from muster.wire.dtypes import DType
from muster.wire.manifest import TensorBinding, TensorType
from muster.wire.messages import FailureCode, FailureReason, Report
from muster.wire.plan import Plan, part_of
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.http import router

SECRET = "Anna_Schmidt_1961_03_04"  # noqa: S105
DATA = Path(__file__).parents[1] / "data"


def of_text(build):
    """Returns a plan over text whose `work` is built by `build`, and the rest that of the mean."""
    import tensorflow as tf

    plan = Plan.load(DATA / "mean.plan")
    with tf.Graph().as_default() as graph:
        data = tf.compat.v1.placeholder(tf.string, [None], name="data")
        value = build(tf, data)
        outputs = tuple(
            binding.model_copy(update={"tensor": tf.identity(value, name=f"out_{at}").name})
            for at, binding in enumerate(plan.manifest.stages.work.outputs["update"])
        )
    file = graph.as_graph_def().SerializeToString()
    inputs = {
        "data": (TensorBinding(path="data", dtype=DType.STRING, shape=(None,), tensor="data:0"),),
        "broadcast": (),
    }
    work = plan.manifest.stages.work.model_copy(
        update={"graph": part_of(file), "inputs": inputs, "outputs": {"update": outputs}}
    )
    manifest = plan.manifest.model_copy(
        update={
            "stages": plan.manifest.stages.model_copy(update={"work": work}),
            "data": TensorType(dtype=DType.STRING, shape=(None,)),
        }
    )
    parts = {name: part for name, part in plan.parts.items() if name != plan.manifest.stages.work.graph.sha256}
    return Plan(manifest, {**parts, part_of(file).sha256: file})


def converting(tf, data):
    return tf.reduce_sum(tf.strings.to_number(data))


def asserting(tf, data):
    checked = tf.debugging.Assert(tf.equal(tf.size(data), 0), [data], summarize=1000)
    with tf.control_dependencies([checked]):
        return tf.constant(0.0)


def mean():
    return Plan.load(DATA / "mean.plan")


def numbers():
    return Plan.load(DATA / "endless.plan")


def raising(error):
    def data():
        raise error

    return data


def caused():
    try:
        {}[SECRET]
    except KeyError as error:
        raise RuntimeError(SECRET) from error


def generating():
    yield 1
    raise LookupError(SECRET)


NAMED = type(f"No{SECRET}Error", (ValueError,), {})  # some libraries create error classes at run time
CASES = {
    "callback": (mean, raising(ValueError(SECRET)), "data", "ValueError", {}),
    "callback's class": (mean, raising(NAMED(SECRET)), "data", "ValueError", {}),
    "callback's cause": (mean, caused, "data", "RuntimeError", {}),
    "callback's problem": (mean, raising(ProblemError(ProblemType.CONFLICT, SECRET)), "data", "conflict", {}),
    "generator": (numbers, generating, "data", "LookupError", {}),
    "shape": (mean, lambda: {SECRET: 1.0}, "data", "invalid_request", {}),
    "elements": (numbers, lambda: [1, {SECRET: 2}], "data", "invalid_request", {}),
    "conversion": (lambda: of_text(converting), lambda: [SECRET], "computation", "InvalidArgumentError", {}),
    "assertion": (lambda: of_text(asserting), lambda: [SECRET], "computation", "InvalidArgumentError", {}),
    "timeout": (
        numbers,
        lambda: itertools.chain([1], itertools.repeat(2)),
        "cancelled",
        "limits.max_seconds",
        {"limits": Limits(max_seconds=1.0)},
    ),
    "not finite": (mean, lambda: float("nan"), "computation", "update_not_finite", {}),
    "too large": (mean, lambda: 1.0, "plan_refused", "limits.max_update_bytes", {"limits": Limits(max_update_bytes=9)}),
}  # fmt: skip


CODES = {
    "callback": "data.error",
    "callback's class": "data.error",
    "callback's cause": "data.error",
    "callback's problem": "data.error",
    "generator": "data.error",
    "shape": "data.shape",
    "elements": "data.shape",
    "conversion": "computation.error",
    "assertion": "computation.error",
    "timeout": "limits.time",
    "not finite": "data.not_finite",
    "too large": "limits.size",
}
QUOTED = frozenset(
    {"callback", "callback's class", "callback's cause", "callback's problem", "generator", "conversion", "assertion"}
)


@pytest.mark.parametrize("case", CASES)
def test_failure_report_holds_no_data(tmp_path, issuer, case):
    plan, data, reason, kind, more = CASES[case]
    h = SecuredHarness(tmp_path, issuer, plan=plan())
    h.begin(goal=3)
    token = ENROLLER.issue(enrolment(0, issued_at=h.clock.now()))
    with (
        served(Request.application(router(h.app))) as url,
        ScriptedProxy(url) as between,
        MusterClient(between.url, "phones", data, token=token, **more) as client,
    ):
        outcome = client.run_once()
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason is FailureReason(reason)
    assert between.seen["report"] == 1
    sent = bytes(between.sent)
    assert Report(reason=outcome.reason, code=FailureCode(CODES[case]), detail=kind).encode() in sent
    assert between.seen["upload"] == 0
    for form in (
        SECRET.encode(),
        SECRET.encode("utf-16-le"),
        base64.b64encode(SECRET.encode()),
        SECRET.encode().hex().encode(),
    ):
        assert form not in sent, form
    assert (SECRET in outcome.detail) is (case in QUOTED)  # the owner sees the full text


def test_kind_of_error_is_from_a_closed_list():
    class InvalidArgumentError(Exception):
        """Error class of a library."""

    assert kind_of(InvalidArgumentError(SECRET)) == "Exception"
    assert kind_of(NAMED()) == "ValueError"
    assert kind_of(UnicodeDecodeError("utf-8", b"x", 0, 1, SECRET)) == "UnicodeDecodeError"
