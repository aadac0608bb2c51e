"""Checks that graphs that touch files, the network, Python or the host are refused.

The operation may stand anywhere in the graph.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session

from muster.runtime import Runtime
from muster.runtime.graphs import StageGraph
from muster.runtime.ops import allowed_ops, check_graph, count_ops, denial_reason, refusal_reason
from muster.wire.dtypes import DType
from muster.wire.manifest import Stage, TensorBinding
from muster.wire.plan import Plan, part_of
from muster.wire.problems import ProblemError, ProblemType


def graph_of(function):
    with tf.Graph().as_default() as graph:
        function()
    return graph.as_graph_def()


def hidden():
    inner = graph_of(lambda: tf.io.read_file("secret")).SerializeToString()
    tf.constant(inner)


@tf.function
def in_a_function():
    return tf.data.Dataset.range(3).map(lambda _: tf.io.read_file("x")).reduce("", lambda a, b: a + b)


@tf.function
def in_a_function_without_files():
    data = tf.data.Dataset.range(9).shuffle(9).cache().enumerate()
    numbers = tf.data.Dataset.choose_from_datasets([tf.data.Dataset.range(9)], tf.data.Dataset.range(1).repeat(3))
    return data.reduce(0, lambda count, _: count + 1) + numbers.reduce(0, lambda count, _: count + 1)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            lambda: tf.py_function(lambda: 1.0, [], tf.float32),
            "the operation EagerPyFunc at node EagerPyFunc calls Python code",
        ),
        (
            lambda: tf.numpy_function(lambda: np.float32(1), [], tf.float32),
            "the operation PyFunc at node PyFunc calls Python code",
        ),
        (
            lambda: tf.print("x", output_stream="file:///printed"),
            (
                "the operation PrintV2 at node PrintV2 writes to the log of the machine that runs it; "
                "tf.print creates it: leave it out"
            ),
        ),
        (
            lambda: tf.print("x"),
            "the operation PrintV2 at node PrintV2 writes to the log",
        ),
        (
            lambda: tf.compat.v1.Print(tf.constant(1), [1]),
            "the operation Print at node Print writes to the log",
        ),
        (
            lambda: tf.data.Dataset.range(3).apply(tf.data.experimental.ignore_errors(log_warning=True)),
            "the operation IgnoreErrorsDataset at node IgnoreErrorsDataset writes to the log",
        ),
        (
            lambda: tf.raw_ops.OptimizeDataset(
                input_dataset=tf.data.Dataset.range(3)._variant_tensor,
                optimizations=["x"],
                output_types=[tf.int64],
                output_shapes=[[]],
            ),
            "the operation OptimizeDataset at node OptimizeDataset rewrites graphs by rules that its inputs name",
        ),
        (
            lambda: tf.data.Dataset.range(3).cache("cached"),
            r"the operation CacheDataset at node CacheDataset may write a cache file",
        ),
        (in_a_function, r"the operation ReadFile at node ReadFile of its function \w+ reads or writes files"),
        (
            hidden,
            "the operation Const at node Const holds a graph with the operation ReadFile, which reads or writes files",
        ),
    ],
    ids=[
        "py_function",
        "numpy_function",
        "print to a file",
        "print",
        "old print",
        "errors in the log",
        "rewrite by name",
        "cache in a file",
        "function",
        "hidden graph",
    ],
)
def test_graph_with_a_forbidden_effect_is_refused(function, text):
    with pytest.raises(ProblemError, match=f"The plan's work can't be used: {text}"):
        check_graph(graph_of(function), stage="work")


@pytest.mark.parametrize(
    "function",
    [
        lambda: tf.data.Dataset.range(3).apply(tf.data.experimental.ignore_errors()),
        lambda: tf.strings.unicode_decode(["x"], "UTF-16-BE"),
        in_a_function_without_files,
        lambda: tf.data.Dataset.range(3).cache().shuffle(2).batch(2).reduce(0, lambda count, _: count + 1),
        lambda: tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0).lookup(tf.constant("a")),
        lambda: tf.constant("ReadFile"),
        lambda: tf.constant(b"\x12\x04Cast\xff\xff"),
    ],
    ids=[
        "ignored errors",
        "encoding",
        "tf.data in a function",
        "data set",
        "lookup table",
        "a word",
        "bytes like a graph",
    ],
)
def test_harmless_graph_is_allowed(function):
    check_graph(graph_of(function), stage="work")


# Operations with a parameter named like a file. `muster.runtime.op_contents` checks its value.
REVIEWED = {"CacheDataset", "CacheDatasetV2", "FixedUnigramCandidateSampler", "DecodeProtoV2", "EncodeProto"}


@pytest.fixture(scope="module")
def registered():
    ops = op_def_pb2.OpList()
    ops.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return ops


def test_registered_operations_with_files_or_addresses_are_denied(registered):
    words = (
        "filename",
        "file_pattern",
        "path",
        "prefix",
        "address",
        "url",
        "logdir",
        "vocab_file",
        "shard_dir",
        "output_stream",
        "descriptor",
        "memory_region",
    )
    # The parameters mean the prefix of a counter's name, and the number of paths of a search.
    harmless = {"SetStatsAggregatorDataset", "ExperimentalSetStatsAggregatorDataset", "CTCBeamSearchDecoder"}
    suspects = {
        op.name
        for op in registered.op
        if any(word in item.name for item in (*op.input_arg, *op.attr) for word in words)
    }
    assert len(suspects) > 40
    assert {op for op in suspects if denial_reason(op) is None} == REVIEWED | harmless


# Operations of newer versions of TensorFlow; see the head of allowed_ops.txt.
NEWER = {
    "FFTND",
    "GlobalShuffleDataset",
    "IFFTND",
    "IRFFTND",
    "IndexFlatMapDataset",
    "RFFTND",
    "WeightedFlatMapDataset",
}
# Beginnings of the names of operations in neither list. They are not known to be harmless, so they
# are refused.
UNKNOWN = re.compile(
    r"_|Risc|Xla|\w*Xla(Split|Concat)ND|Boosted|IsBoosted|Sdca|Attr|Float|Int\w*(In|Out)put|IntAttr|"
    r"N(In|Ints|Polymorphic)|Polymorphic|Ref(In|Out)|Test|Two|TypeList|OutT|OpWith|Reserved|Foo|"
    r"Func(List)?Attr|Reader|\w*MultiDevice|\w*StatsAgg|\w*(Latency|Bytes)\w*Stats|Dummy|"
    r"Get(Session|Deadline|Element|Options)|\w*ThreadPool|\w*DedupData|Mutex|DatasetToGraph|Sharded|"
    r"KernelLabel|Restrict|Simple|(Des|S)erializeIterator|\w*IteratorGetDevice|Iterator(From|To)StringHandle|"
    r"\w*AssertNext|AssertPrev|TopK(Unique|With)|Resource(Create|Initialized|Using)|\w*AutoShard|"
    r"\w*NonSerializable|Kmeans|KMC2|(Batch|Unbatch|UnbatchGrad|BatchFunction)$"
)
OTHERS = """
    A AudioMicrofrontend B Binary ComplexStruct ComputeBatchSize ConstructionFails ConsumeMutexLock Copy CopyOp
    DeepCopy DefaultAttrs DeleteSessionTensor DevicePlacementOp DisableCopyOnRead DtypeWithDefaultOp Fact FakeQueue
    FiveFloatOutputs GraphDefVersion HostConst InPolymorphicTwice IsResourceHandleRefCounting IsTensorFloat32Enabled
    ListInput ListOutput MakeUnique MakeWeakResourceHandle MixedStruct Namespace>TestStringOutput NearestNeighbors
    NegTrain None Old RequiresOlderGraphVersion StringListAttr StubResourceHandleOp Unary
"""


def test_every_registered_operation_is_classified(registered):
    names = {op.name for op in registered.op}
    assert set(allowed_ops()) - names == NEWER
    assert not [op for op in allowed_ops() if denial_reason(op)]
    unknown = {op for op in names if op not in allowed_ops() and not denial_reason(op)}
    assert {op for op in unknown if not UNKNOWN.match(op)} == set(OTHERS.split())
    assert all("not known to be harmless" in refusal_reason(op) for op in unknown)


def graph_with(change):
    """Returns a graph that calls a function, after `change(graph, function)`."""

    @tf.function
    def twice(x):
        return x * 2.0

    graph = graph_of(lambda: twice(tf.constant(1.0)))
    change(graph, graph.library.function[0])
    return graph


def node(op, **attr):
    made = tf.compat.v1.NodeDef(name="bad", op=op)
    for name, value in attr.items():
        made.attr[name].CopyFrom(value)
    return made


def calling(name):
    return tf.compat.v1.AttrValue(func=tf.compat.v1.NameAttrList(name=name))


def text(data):
    return tf.compat.v1.AttrValue(s=data)


def serialised(op):
    return tf.compat.v1.GraphDef(node=[node(op)]).SerializeToString()


def content(data):
    """Returns a constant string in TensorFlow's other encoding.

    It consists of the lengths as varints, then the bytes.
    """
    length = bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
    tensor = tf.compat.v1.make_tensor_proto(b"")
    tensor.ClearField("string_val")
    tensor.tensor_content = length + data
    return tf.compat.v1.AttrValue(tensor=tensor)


LONG = (
    b"\x0a\x11\x0a\x03bad\x12\x88\x80\x00ReadFile"  # the length of the name as a varint of three bytes, which is valid
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda graph, _: graph.node.append(node("ReadFile")), "ReadFile at node bad reads or writes files"),
        (lambda graph, _: graph.node.append(node("XlaSort")), "XlaSort at node bad is not known to be harmless"),
        (lambda graph, _: graph.node.append(node("MadeUpOp")), "MadeUpOp at node bad is not known to be harmless"),
        (lambda graph, _: graph.node.append(node("ImmutableConst")), "reads or writes files"),
        (lambda _, function: function.node_def.append(node("WriteFile")), "of its function .* reads or writes files"),
        (
            lambda graph, _: graph.node.append(node("PartitionedCall", f=calling("ReadFile"))),
            "calls ReadFile, which reads or writes files",
        ),
        (
            lambda graph, _: graph.node.append(node("MapDataset", f=calling("EagerPyFunc"))),
            "calls EagerPyFunc, which calls Python",
        ),
        (
            lambda _, function: function.attr["api_implements"].CopyFrom(text(serialised("PyFunc"))),
            "its function .* holds a graph with the operation PyFunc",
        ),
        (
            lambda graph, _: graph.node.append(node("NoOp", note=text(serialised("XlaSort")))),
            "holds a graph in which the operation XlaSort at node bad is not known",
        ),
        (
            lambda graph, _: graph.node.append(node("NoOp", note=text(LONG))),
            "holds a graph with the operation ReadFile",
        ),
        (
            lambda graph, _: graph.node.append(node("Const", value=content(b"x" * 200 + serialised("ReadFile")))),
            "holds a graph with the operation ReadFile",
        ),
        (
            lambda graph, _: setattr(graph.library.function.add().signature, "name", "ReadFile"),
            "its function ReadFile has the name of an operation",
        ),
        (
            lambda graph, _: graph.library.gradient.add(function_name="f", gradient_func="RemoteCall"),
            "a gradient of it is RemoteCall, which talks to the network",
        ),
        (
            lambda graph, _: graph.node.append(
                node("FixedUnigramCandidateSampler", vocab_file=tf.compat.v1.AttrValue(placeholder="file"))
            ),
            "reads or writes files",
        ),
        (
            lambda graph, _: graph.node.extend(
                [
                    tf.compat.v1.NodeDef(name="name", op="Const", attr={"value": content(b"/cache")}),
                    tf.compat.v1.NodeDef(name="cached", op="CacheDataset", input=["data", "name"]),
                ]
            ),
            "may write a cache file",
        ),
    ],
)
def test_hidden_operation_is_refused_wherever_it_is(change, reason):
    with pytest.raises(ProblemError, match=reason):
        check_graph(graph_with(change), stage="work")


def constant(value, name="name"):
    made = tf.compat.v1.NodeDef(name=name, op="Const")
    made.attr["value"].tensor.CopyFrom(tf.compat.v1.make_tensor_proto(value))
    made.attr["dtype"].type = tf.string.as_datatype_enum
    return made


def cached(source, *others, op="CacheDatasetV2"):
    """Returns a cache whose file name is the input `source`, and other nodes."""
    return [tf.compat.v1.NodeDef(name="cached", op=op, input=["data", *source]), *others]


def identity(source):
    return tf.compat.v1.NodeDef(name="same", op="Identity", input=source)


def left_to_the_caller():
    made = tf.compat.v1.NodeDef(name="name", op="Const")
    made.attr["value"].placeholder = "file"
    return made


@pytest.mark.parametrize("op", ["CacheDataset", "CacheDatasetV2"])
@pytest.mark.parametrize(
    ("in_function", "source", "others"),
    [
        (False, [], []),
        (False, ["missing"], []),
        (False, ["^name"], [constant("")]),
        (False, ["name:1"], [constant("")]),
        (False, ["name"], [constant("/file")]),
        (False, ["name"], [constant(b"/file"), constant(b"")]),  # two nodes with one name
        (False, ["name"], [tf.compat.v1.NodeDef(name="name", op="Placeholder")]),
        (False, ["name"], [tf.compat.v1.NodeDef(name="name", op="PlaceholderWithDefault")]),
        (False, ["same"], [identity([])]),
        (False, ["same"], [identity(["same"])]),
        (False, ["same"], [identity(["missing"])]),
        (False, ["name"], [tf.compat.v1.NodeDef(name="name", op="Const")]),
        (True, ["name"], [constant("")]),  # in a function a bare name is an argument
        (True, ["name:0"], [constant("")]),
        (True, ["name:output:1"], [constant("")]),
        (True, ["name:output:0"], [left_to_the_caller()]),
        (True, ["same:output:0"], [identity(["name"]), constant("")]),
    ],
)
def test_cache_without_a_constant_empty_file_name_is_refused(op, in_function, source, others):
    graph = graph_with(lambda *_: None)
    nodes = graph.library.function[0].node_def if in_function else graph.node
    nodes.extend(cached(source, *others, op=op))
    with pytest.raises(ProblemError, match=r"may write a cache file|two nodes have one name"):
        check_graph(graph, stage="work")


def test_cache_with_a_constant_empty_file_name_is_allowed():
    graph = graph_with(lambda *_: None)
    graph.node.extend(cached(["same:0"], identity(["name"]), constant("")))
    graph.library.function[0].node_def.extend(cached(["same:output:0"], identity(["name:output:0"]), constant("")))
    check_graph(graph, stage="work")


def rewriter(*, custom=False):
    config = tf.compat.v1.ConfigProto()
    if custom:
        config.graph_options.rewrite_options.custom_optimizers.add(name="any")
    else:
        config.graph_options.rewrite_options.optimizers.append("any")
    return config


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (node("RewriteDataset"), "rewrites graphs by rules"),
        (node("StatefulPartitionedCall", config_proto=text(rewriter().SerializeToString())), "rewrites graphs"),
        (node("PartitionedCall", config_proto=text(rewriter(custom=True).SerializeToString())), "rewrites graphs"),
        (
            node("PartitionedCall", config=text(rewriter().graph_options.rewrite_options.SerializeToString())),
            "rewrites graphs",
        ),
        (node("PartitionedCall", config_proto=text(b"\xff")), "rewrites graphs"),
        (node("PartitionedCall", executor_type=text(b"OTHER")), "names an executor"),
        (node("UnicodeDecode", input_encoding=text(b"../../table")), "may read a file of character tables"),
        (node("UnicodeTranscode"), "may read a file of character tables"),
        (node("IgnoreErrorsDataset", log_warning=tf.compat.v1.AttrValue(placeholder="loud")), "writes to the log"),
        (node("DecodeProtoV2", descriptor_source=tf.compat.v1.AttrValue(placeholder="file")), "reads or writes files"),
        (node("EncodeProto", descriptor_source=text(b"/file")), "reads or writes files"),
    ],
)
def test_operation_is_refused_for_harmful_attributes(bad, reason):
    with pytest.raises(ProblemError, match=reason):
        check_graph(graph_with(lambda graph, _: graph.node.append(bad)), stage="work")


def test_refusal_names_the_public_call_and_its_replacement():
    with pytest.raises(ProblemError) as caught:
        check_graph(graph_of(lambda: tf.data.Dataset.range(3).cache("cached")), stage="work")
    assert "Dataset.cache with a file name creates it: call Dataset.cache() without one." in caught.value.detail


def test_operations_are_counted_by_kind():
    graph = graph_with(lambda *_: None)
    check_graph(graph, stage="work")
    assert count_ops(graph)["arithmetic"] == {"Mul": 1}


def test_blocked_work_reaches_its_time_limit():
    with tf.Graph().as_default() as graph:
        tf.identity(tf.queue.FIFOQueue(1, [tf.float32], [[]]).dequeue(), name="never")
    binding = TensorBinding(path="x", dtype=DType.FLOAT32, shape=(), tensor="never:0")
    stage = Stage(graph=part_of(b""), outputs={"update": (binding,)})
    with pytest.raises(ProblemError) as error:
        StageGraph(graph.as_graph_def(), stage=stage, name="work").run({}, seconds=0.2)
    assert error.value.type is ProblemType.COMPUTATION_FAILED


def test_work_on_endless_data_reaches_its_time_limit():
    plan = Plan.load(Path(__file__).parents[2] / "client/muster/demo/digits.plan")
    runtime = Runtime(plan)
    broadcast = runtime.prepare(plan.initial_state())

    def endless():
        while True:
            yield {"x": np.zeros((1, 64), np.float32), "y": np.zeros(1, np.int32)}

    with pytest.raises(ProblemError, match="longer than it may"):
        runtime.work(endless(), broadcast, seconds=0.5)
