"""A graph that touches files, the network, Python or the host is refused, wherever in it the operation is."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session

from muster.runtime.ops import check_graph, denied
from muster.wire.problems import ProblemError


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
            "the operation PrintV2 at node PrintV2 reads or writes files",
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
    ids=["py_function", "numpy_function", "print to a file", "cache in a file", "function", "hidden graph"],
)
def test_a_graph_that_reaches_out(function, text):
    with pytest.raises(ProblemError, match=f"The plan's work can't be used: {text}"):
        check_graph(graph_of(function), stage="work")


@pytest.mark.parametrize(
    "function",
    [
        lambda: tf.print("x"),
        lambda: tf.data.Dataset.range(3).cache().shuffle(2).batch(2).reduce(0, lambda count, _: count + 1),
        lambda: tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0).lookup(tf.constant("a")),
        lambda: tf.constant("ReadFile"),
    ],
    ids=["print", "data set", "lookup table", "a word"],
)
def test_a_graph_that_does_not_reach_out_is_allowed(function):
    check_graph(graph_of(function), stage="work")


# Named like a file or an address in TensorFlow's registry, and harmless; or allowed by what the name holds (`ops._deed`).
REVIEWED = {"CacheDataset", "CacheDatasetV2", "FixedUnigramCandidateSampler", "DecodeProtoV2", "EncodeProto", "PrintV2"}


def test_every_registered_operation_with_a_file_or_an_address_is_denied():
    registered = op_def_pb2.OpList()
    registered.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
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
    )
    # The prefix of a counter's name; how many paths a search follows.
    harmless = {"SetStatsAggregatorDataset", "ExperimentalSetStatsAggregatorDataset", "CTCBeamSearchDecoder"}
    suspects = {
        op.name
        for op in registered.op
        if any(word in item.name for item in (*op.input_arg, *op.attr) for word in words)
    }
    assert len(suspects) > 40
    assert {op for op in suspects if denied(op) is None} == REVIEWED | harmless
