"""Checks that graphs are read without TensorFlow exactly as TensorFlow reads them."""

import random
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from hypothesis import given, strategies

from muster.runtime.graph_check import check_plan_graphs
from muster.runtime.graph_def import declared_messages, message_class, parse_graph
from muster.wire.manifest import Stages
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError

ROOT = Path(__file__).parents[2]
FILES = (*sorted((ROOT / "tests/data").glob("*.plan")), *sorted((ROOT / "client/muster").glob("*/*.plan")))
GRAPHS = [
    plan.part(getattr(plan.manifest.stages, name).graph)
    for plan in map(Plan.load, FILES)
    for name in Stages.model_fields
]
RENAMED = {
    "NodeDef.ExperimentalDebugInfo": "NodeDebugInfo",
    "GraphDebugInfo": "bytes",
    "RewriterConfig.CustomGraphOptimizer": "CustomOptimizer",
}
CONFIG = ("ConfigProto", "GraphOptions", "RewriterConfig", "CustomOptimizer")
SCALARS = {
    getattr(FieldDescriptor, name): name[5:].lower() for name in dir(FieldDescriptor) if name.startswith("TYPE_")
}


def kind_of(field):
    """Returns a field's type in the notation of the table."""
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            return f"map<{','.join(kind_of(part) for part in field.message_type.fields)}>"
        full = field.message_type.full_name.removeprefix("tensorflow.")
        kind = RENAMED.get(full, full.rpartition(".")[2])
    else:
        kind = "int32" if field.enum_type is not None else SCALARS[field.type]
    return f"{kind}{'*' if field.label == field.LABEL_REPEATED else '|' if field.containing_oneof else ''}"


def messages_of(descriptor, messages):
    name = descriptor.full_name.removeprefix("tensorflow.")
    name = RENAMED.get(name, name.rpartition(".")[2])
    if name not in messages and name != "bytes":
        messages[name] = {(field.number, field.name, kind_of(field)) for field in descriptor.fields}
        for field in descriptor.fields:
            inner = [part.message_type for part in field.message_type.fields] if "map<" in kind_of(field) else []
            for message in (*inner, field.message_type if not inner else None):
                if message is not None:
                    messages_of(message, messages)
    return messages


def test_declared_messages_equal_tensorflows():
    ours = {name: set(fields) for name, fields in declared_messages().items() if name not in CONFIG}
    assert ours == messages_of(tf.compat.v1.GraphDef.DESCRIPTOR, {})


@pytest.mark.parametrize("name", CONFIG)
def test_declared_config_fields_exist_in_tensorflow(name):
    """Only the fields that name graph rewrites are declared."""
    config = tf.compat.v1.ConfigProto.DESCRIPTOR
    options = config.fields_by_name["graph_options"].message_type
    rewriter = options.fields_by_name["rewrite_options"].message_type
    custom = rewriter.fields_by_name["custom_optimizers"].message_type
    theirs = dict(zip(CONFIG, (config, options, rewriter, custom), strict=True))[name]
    assert set(declared_messages()[name]) <= {(field.number, field.name, kind_of(field)) for field in theirs.fields}


def called_functions(node):
    return tuple(sorted((key, value.func.name) for key, value in node.attr.items()))


def contents(graph):
    """Lists all operations of a graph with their nodes, inputs and called functions."""
    bodies = [("", graph.node), *((item.signature.name, item.node_def) for item in graph.library.function)]
    return [
        (name, node.name, node.op, tuple(node.input), called_functions(node))
        for name, nodes in bodies
        for node in nodes
    ]


@pytest.mark.parametrize("data", GRAPHS)
def test_parser_agrees_with_tensorflow_on_all_plans(data):
    ours, theirs = parse_graph(data, what="work"), tf.compat.v1.GraphDef.FromString(data)
    assert contents(ours) == contents(theirs)
    assert tf.compat.v1.GraphDef.FromString(ours.SerializeToString()) == theirs


def mutated(data, randomness):
    """Returns a graph with bytes changed, deleted, repeated or inserted.

    An attacker may try this to make two parsers disagree.
    """
    changed = bytearray(data)
    for _ in range(randomness.randint(1, 2)):
        at = randomness.randrange(len(changed))
        length = randomness.randint(1, 40)
        kind = randomness.randrange(6)
        if kind == 0:
            changed[at] = randomness.choice([0, 1, 0x7F, 0x80, 0xFF, randomness.randrange(256)])
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length]
        elif kind == 3:
            changed[at] = changed[at] ^ 1
        elif kind == 4:
            changed[at] = ord(randomness.choice("aRbW:^0"))
        else:
            changed[at:at] = bytes(randomness.randrange(256) for _ in range(length % 5))
        if not changed:
            changed = bytearray(b"\x0a")
    return bytes(changed)


def check_agreement(data):
    """Checks that TensorFlow reads the operations that were checked.

    Returns False if the bytes are refused.
    """
    try:
        ours = parse_graph(data, what="work")
    except ProblemError:
        return False
    given_on = tf.compat.v1.GraphDef.FromString(ours.SerializeToString())
    assert contents(given_on) == contents(ours)
    try:
        direct = tf.compat.v1.GraphDef.FromString(data)
    except DecodeError:
        return True
    assert contents(direct) == contents(ours)
    return True


@given(strategies.sampled_from(GRAPHS), strategies.integers(0, 2**32))
def test_mutated_graphs_hide_no_operation(data, seed):
    check_agreement(mutated(data, random.Random(seed)))  # noqa: S311  no secret


@given(strategies.lists(strategies.sampled_from(GRAPHS), min_size=2, max_size=3))
def test_concatenated_graphs_hide_no_operation(parts):
    """Protobuf reads concatenated messages as one: repeated fields are joined, others merged."""
    assert check_agreement(b"".join(parts))


def test_some_mutated_graphs_are_accepted():
    """The properties above are not vacuous: not every mutated graph is refused."""
    randomness = random.Random(1)  # noqa: S311  no secret
    read = [check_agreement(mutated(data, randomness)) for data in GRAPHS * 10]
    assert 0.05 < sum(read) / len(read) < 0.9


def test_repeated_field_is_read_as_tensorflow_reads_it():
    graph = tf.compat.v1.GraphDef(node=[tf.compat.v1.NodeDef(name="x", op="NoOp")])
    twice = graph.node[0].SerializeToString() + tf.compat.v1.NodeDef(op="ReadFile").SerializeToString()
    data = b"\x0a" + bytes([len(twice)]) + twice  # the operation's name twice: the last one counts
    assert parse_graph(data, what="work").node[0].op == "ReadFile"
    assert tf.compat.v1.GraphDef.FromString(data).node[0].op == "ReadFile"


def test_message_classes_are_separate_from_tensorflows():
    for file in FILES:
        check_plan_graphs(Plan.load(file))
    assert message_class("GraphDef") is not tf.compat.v1.GraphDef
