"""Checks that tracing again yields the same address and that renaming changes no result."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from support.traced import TRACED, build_plans

from muster.author import Verdict
from muster.author.canonical import canonicalize
from muster.author.check import compare
from muster.author.map_reduce_form import tensorflow_proto
from muster.runtime.graphs import load_graph

TESTS = Path(__file__).parents[1]


def addresses(plans):
    return {name: plan.sha256 for name, plan in plans.items()}


@pytest.fixture(scope="module")
def plans():
    return build_plans()


def test_tracing_again_yields_the_same_address(plans):
    assert addresses(build_plans()) == addresses(plans)


def test_another_process_yields_the_same_address(plans):
    # It traces another computation first, and its sets have another order.
    code = (
        "from support import traced; traced.build_plan(traced.arguments()); "
        "[print(name, plan.sha256) for name, plan in traced.build_plans().items()]"
    )
    done = subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=250,
        cwd=TESTS,  # on the path of `-c`
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert dict(line.split() for line in done.stdout.splitlines()) == addresses(plans)


@pytest.mark.parametrize("name", ["table", "mutable_table", "arguments"])
def test_renamed_graph_computes_what_tff_computes(plans, name):
    data = {
        "table": [[b"a", b"b", b"x"], [b"b"]],
        "mutable_table": [[np.int64(1), np.int64(1), np.int64(5)], [np.int64(3)]],
        "arguments": [np.float32(2), np.float32(-3)],
    }
    assert compare(plans[name], TRACED[name](), data[name], rounds=1).verdict is Verdict.SAME


@pytest.mark.parametrize("name", ["table", "mutable_table", "arguments"])
def test_graph_keeps_no_name_of_the_author_or_of_a_counter(plans, name):
    plan = plans[name]
    graph = load_graph(plan.part(plan.manifest.stages.work.graph))
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            assert node.name.rpartition("_")[0] == node.op
            assert not node.attr["shared_name"].s or node.attr["shared_name"].s.startswith(b"resource_")
    for function in graph.library.function:
        assert all(item.name == f"arg_{at}" for at, item in enumerate(function.signature.input_arg))


def test_renaming_keeps_resources_separate_or_shared():
    """An unnamed resource has the name of its node; equal names denote one resource."""
    graph = tf.compat.v1.GraphDef()
    for name, shared in (("queue", ""), ("queue_1", ""), ("named", "queue"), ("other", "x")):
        node = graph.node.add(name=name, op="FIFOQueueV2")
        node.attr["shared_name"].s = shared.encode()
        node.attr["component_types"].list.type.append(tf.float32.as_datatype_enum)
    canonical = canonicalize(graph)
    names = [node.attr["shared_name"].s for node in canonical.graph.node]
    assert names[0] == names[2]
    assert len({*names}) == 3
    assert canonical.tensor("named:0") == "FIFOQueueV2_2:0"


def test_renaming_is_idempotent(fed_avg_process):
    form = tff.backends.mapreduce.get_map_reduce_form_for_computation(fed_avg_process.next)
    once = canonicalize(load_graph(tensorflow_proto(form.work).graph_def.value)).graph
    assert canonicalize(once).graph == once
