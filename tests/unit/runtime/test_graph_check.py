"""Checks that bindings which do not match a graph are refused, without TensorFlow."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies
from support.plans import every_dtype_plan, sum_plan

from muster.runtime.graph_check import check_plan_graphs, check_stage
from muster.runtime.graph_def import declared_messages, message_class, parse_graph
from muster.wire.dtypes import DType
from muster.wire.manifest import SequenceBinding, Stage, Stages, TensorBinding, TensorType
from muster.wire.plan import Plan, part_of
from muster.wire.problems import ProblemError, ProblemType

ROOT = Path(__file__).parents[3]
FILES = (*sorted((ROOT / "tests/data").glob("*.plan")), *sorted((ROOT / "client/muster").glob("*/*.plan")))
PLANS = {**{file.stem: Plan.load(file) for file in FILES}, "sum": sum_plan(), "every dtype": every_dtype_plan()}
STAGES = [(plan, name) for plan in PLANS for name in Stages.model_fields]
SCALAR = {"dtype": DType.FLOAT32, "shape": ()}


def stage_of(plan, name):
    stage = getattr(PLANS[plan].manifest.stages, name)
    return stage, parse_graph(PLANS[plan].part(stage.graph), what=name)


def with_stage(plan, name, stage):
    stages = plan.manifest.stages.model_copy(update={name: stage})
    return Plan(plan.manifest.model_copy(update={"stages": stages}), plan.parts)


def rebound(stage, value, at, **change):
    bindings = list(stage.inputs[value])
    bindings[at] = bindings[at].model_copy(update=change)
    return stage.model_copy(update={"inputs": {**stage.inputs, value: tuple(bindings)}})


def refusal(plan):
    with pytest.raises(ProblemError) as caught:
        check_plan_graphs(plan)
    assert caught.value.type is ProblemType.PLAN_INVALID
    return caught.value.detail


def test_sample_plans_cover_plans_with_and_without_data_sets():
    assert len(FILES) >= 5
    kinds = {
        binding.kind
        for plan, name in STAGES
        for bindings in stage_of(plan, name)[0].inputs.values()
        for binding in bindings
    }
    assert kinds == {"tensor", "sequence"}


@pytest.mark.parametrize("plan", PLANS)
def test_all_bindings_of_sample_plans_are_placeholders(plan):
    check_plan_graphs(PLANS[plan])
    check_plan_graphs(PLANS[plan].for_client())


BOUND = [
    (plan, name, value, at)
    for plan, name in STAGES
    for value, bindings in stage_of(plan, name)[0].inputs.items()
    for at in range(len(bindings))
]


BOUND_STAGES = sorted({(plan, name) for plan, name, _, _ in BOUND})


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "name"), BOUND_STAGES)
def test_binding_to_anything_but_a_placeholder_is_refused(plan, name):
    """Binds every input of every stage to the output of any node but a placeholder."""
    stage, graph = stage_of(plan, name)
    inputs = [item[2:] for item in BOUND if item[:2] == (plan, name)]
    others = [node.name for node in graph.node if node.op != "Placeholder"]
    for number, node in enumerate(others):
        value, at = inputs[number % len(inputs)]
        changed = rebound(stage, value, at, tensor=f"{node}:0")
        assert "a binding may feed only a placeholder" in refusal(with_stage(PLANS[plan], name, changed))


@settings(max_examples=20)
@given(strategies.data(), strategies.text(max_size=20))
@pytest.mark.parametrize(("plan", "name"), BOUND_STAGES)
def test_binding_to_a_missing_tensor_is_refused(plan, name, data, text):
    stage, graph = stage_of(plan, name)
    value, at = data.draw(strategies.sampled_from([item[2:] for item in BOUND if item[:2] == (plan, name)]))
    node = data.draw(strategies.sampled_from([node.name for node in graph.node]))
    tensor = stage.inputs[value][at].tensor
    spelling = data.draw(
        strategies.sampled_from(
            [tensor[:-2], f"^{tensor}", f"{tensor} ", f"{tensor}0", f"{node}:1", f"{node}:output:0", f"^{node}", text]
        )
    )
    refusal(with_stage(PLANS[plan], name, rebound(stage, value, at, tensor=spelling)))


@pytest.mark.parametrize(("plan", "name", "value", "at"), BOUND)
def test_two_bindings_to_one_placeholder_are_refused(plan, name, value, at):
    stage, _ = stage_of(plan, name)
    changed = stage.model_copy(update={"inputs": {**stage.inputs, "again": (stage.inputs[value][at],)}})
    assert "an earlier input is bound to it too" in refusal(with_stage(PLANS[plan], name, changed))


@pytest.mark.parametrize(("plan", "name", "value", "at"), BOUND)
def test_binding_of_another_dtype_is_refused(plan, name, value, at):
    stage, _ = stage_of(plan, name)
    binding = stage.inputs[value][at]
    if isinstance(binding, SequenceBinding):
        other = TensorBinding(path=binding.path, dtype=DType.INT64, shape=(), tensor=binding.tensor)
        bindings = (*stage.inputs[value][:at], other, *stage.inputs[value][at + 1 :])
        changed = stage.model_copy(update={"inputs": {**stage.inputs, value: bindings}})
    else:
        dtype = DType.STRING if binding.dtype is not DType.STRING else DType.INT8
        changed = rebound(stage, value, at, dtype=dtype)
    assert "another dtype" in refusal(with_stage(PLANS[plan], name, changed))


def graph_of(*nodes):
    graph = message_class("GraphDef")()
    for name, op, attributes in nodes:
        made = graph.node.add(name=name, op=op)
        for key, value in attributes.items():
            made.attr[key].CopyFrom(message_class("AttrValue")(**value))
    return graph


def placeholder(name="x", *, dtype=1, sizes=None):
    shape = message_class("TensorShapeProto")()
    if sizes is None:
        shape.unknown_rank = True
    for size in sizes or ():
        shape.dim.add(size=size)
    return name, "Placeholder", {"dtype": {"type": dtype}, "shape": {"shape": shape}}


def stage(*, inputs=(), outputs=("x:0",), initialize=None):
    return Stage(
        graph=part_of(b""),
        inputs={"state": tuple(inputs)},
        outputs={"broadcast": tuple(TensorBinding(path="x", tensor=name, **SCALAR) for name in outputs)},
        initialize=initialize,
    )


def takes(tensor="x:0", **declared):
    return TensorBinding(path="x", tensor=tensor, **{**SCALAR, **declared})


@pytest.mark.parametrize(
    ("graph", "bound", "reason"),
    [
        (graph_of(("x", "PlaceholderWithDefault", {})), stage(inputs=[takes()]), "PlaceholderWithDefault"),
        (graph_of(("x", "PlaceholderV2", {})), stage(inputs=[takes()]), "PlaceholderV2"),
        (graph_of(("x", "Placeholder", {})), stage(inputs=[takes()]), "another dtype"),
        (graph_of(placeholder(dtype=101)), stage(inputs=[takes()]), "another dtype"),
        (graph_of(placeholder(sizes=[2])), stage(inputs=[takes()]), "another shape"),
        (graph_of(placeholder(sizes=[2])), stage(inputs=[takes(shape=(3,))]), "another shape"),
        (graph_of(placeholder(), placeholder()), stage(inputs=[takes()]), "two nodes have one name"),
        (graph_of(placeholder()), stage(outputs=["y:0"]), "no output of a node"),
        (graph_of(placeholder()), stage(outputs=["x"]), "no output of a node"),
        (graph_of(placeholder()), stage(outputs=["^x"]), "no output of a node"),
        (graph_of(placeholder()), stage(outputs=["x:-1"]), "no output of a node"),
        (graph_of(placeholder()), stage(initialize="y"), "starts with the operation y"),
        (graph_of(placeholder()), stage(initialize="x:0"), "starts with the operation x:0"),
    ],
)
def test_graph_that_contradicts_the_manifest_is_refused(graph, bound, reason):
    with pytest.raises(ProblemError, match=reason) as caught:
        check_stage(graph, stage=bound, name="prepare")
    assert caught.value.type is ProblemType.PLAN_INVALID


@pytest.mark.parametrize(
    ("sizes", "declared"), [(None, (2,)), ([2], (2,)), ([-1], (2,)), ([2], (None,)), ([], ()), ([2, -1], None)]
)
def test_compatible_shapes_are_allowed(sizes, declared):
    bound = stage(inputs=[takes(shape=declared)], initialize="x")
    check_stage(graph_of(placeholder(sizes=sizes)), stage=bound, name="prepare")


def test_placeholder_of_a_function_cannot_be_bound():
    graph = graph_of(placeholder("y"))
    function = graph.library.function.add()
    function.signature.name = "f"
    function.node_def.extend(graph_of(placeholder()).node)
    with pytest.raises(ProblemError, match="no such placeholder"):
        check_stage(graph, stage=stage(inputs=[takes()], outputs=["y:0"]), name="prepare")


def test_data_set_binds_only_to_a_variant():
    data = SequenceBinding(path="data", element=TensorType(**SCALAR), tensor="x:0")
    bound = Stage(graph=part_of(b""), inputs={"data": (data,)}, outputs={})
    check_stage(graph_of(placeholder(dtype=21)), stage=bound, name="work")
    with pytest.raises(ProblemError, match="another dtype"):
        check_stage(graph_of(placeholder(dtype=1)), stage=bound, name="work")


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x0a\x05ab",  # cut off
        b"\x52\x01x",  # an unknown field
        b"\x53\x54",  # a group
        b"\x0a\x04\x7a\x02ab",  # an unknown field of a node
        b"\x0a\x0b\x2a\x09\x0a\x01k\x12\x04\x7a\x02ab",  # of an attribute's value
        b"\x0a\x03\x0a\x01\xff",  # a name that is not UTF-8
        b"the graph of work",
    ],
)
def test_bytes_with_unknown_fields_are_refused(data):
    with pytest.raises(ProblemError, match="The plan's work can't be used") as caught:
        parse_graph(data, what="work")
    assert caught.value.type is ProblemType.PLAN_INVALID


@given(strategies.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(data):
    with contextlib.suppress(ProblemError):
        again = parse_graph(data, what="work").SerializeToString(deterministic=True)
        assert parse_graph(again, what="work").SerializeToString(deterministic=True) == again


def test_messages_are_declared_once_each():
    for name, fields in declared_messages().items():
        assert len({number for number, _, _ in fields}) == len(fields), name
