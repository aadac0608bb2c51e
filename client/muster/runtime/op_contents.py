"""Checks operations that are harmless only with certain inputs or attributes.

Imports no TensorFlow.

An input counts as constant only if the graph itself holds the constant. `graph_check` ensures that
no binding of a plan feeds a value over a constant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional

from muster.runtime.graph_def import message_class

_FILES = "reads or writes files"
_LOG = "writes to the log of the machine that runs it"
_CACHE = "may write a cache file (only an in-memory cache is allowed)"
_REWRITES = "rewrites graphs by rules that it names (only the one that Dataset.enumerate uses is allowed)"
_CONVERTERS = "may read a file of character tables (its encoding must be a plain name, such as UTF-8)"
_EXECUTOR = "names an executor that is not TensorFlow's default"

_STRING = 7  # DataType.DT_STRING
_LOCAL_DESCRIPTORS = (b"", b"local://")
_EXECUTORS = (b"", b"DEFAULT", b"SINGLE_THREADED_EXECUTOR")
_ENCODING = re.compile(rb"[A-Za-z0-9_.:,=+ -]{1,64}")
_UNKNOWN_VALUE = b"(set by the caller)"

# How a node's input names another node's first output: `node:output:0` in a function (a bare name
# is an argument there), `node` or `node:0` in a graph.
_IN_FUNCTION = re.compile(r"([^:^]+):output:0")
_IN_GRAPH = re.compile(r"([^:^]+)(?::0)?")


@dataclass(frozen=True)
class Body:
    """Nodes of a graph, or of the function named `function` in its library, by name."""

    function: str
    nodes: Mapping[str, Any]

    @classmethod
    def of(cls, nodes: Iterable[Any], *, function: str) -> Body:
        """Builds the body of `nodes`."""
        return cls(function=function, nodes={node.name: node for node in nodes})

    def source(self, reference: str) -> Optional[Any]:
        """Returns the node whose first output `reference` names; None if it names anything else."""
        match = (_IN_FUNCTION if self.function else _IN_GRAPH).fullmatch(reference)
        return None if match is None else self.nodes.get(match[1])


def check_contents(node: Any, body: Body) -> Optional[str]:
    """Returns the harmful effect that a node's inputs or attributes allow, or None."""
    check = _CHECKS.get(node.op)
    return None if check is None else check(node, body)


def _cache(node: Any, body: Body) -> Optional[str]:
    return None if _constant_input(node, 1, body) == b"" else _CACHE


def _rewrite(node: Any, body: Body) -> Optional[str]:
    # `replicate_on_split` sets an attribute of that name on sources of data, which only a
    # distributed input pipeline reads.
    return None if _constant_input(node, 1, body) == b"replicate_on_split" else _REWRITES


def _sampler(node: Any, _: Body) -> Optional[str]:
    return _FILES if _text(node, "vocab_file") else None


def _protos(node: Any, _: Body) -> Optional[str]:
    source = _text(node, "descriptor_source")
    return None if source in _LOCAL_DESCRIPTORS or source.startswith(b"bytes://") else _FILES


def _ignored_errors(node: Any, _: Body) -> Optional[str]:
    if "log_warning" not in node.attr:
        return None
    value = node.attr["log_warning"]
    return None if value.WhichOneof("value") == "b" and not value.b else _LOG


def _encoding(node: Any, _: Body) -> Optional[str]:
    return None if _ENCODING.fullmatch(_text(node, "input_encoding", _UNKNOWN_VALUE)) else _CONVERTERS


def _call(node: Any, _: Body) -> Optional[str]:
    """Checks a call, which may carry a configuration with graph rewrites by name."""
    if _text(node, "executor_type") not in _EXECUTORS:
        return _EXECUTOR
    from google.protobuf.message import DecodeError

    try:
        config = message_class("ConfigProto").FromString(_text(node, "config_proto"))
        rewriter = message_class("RewriterConfig").FromString(_text(node, "config"))
    except (DecodeError, ValueError):
        return _REWRITES
    rewriters = (rewriter, config.graph_options.rewrite_options)
    return _REWRITES if any(options.optimizers or options.custom_optimizers for options in rewriters) else None


_CHECKS: dict[str, Callable[[Any, Body], Optional[str]]] = {
    "CacheDataset": _cache,
    "CacheDatasetV2": _cache,
    "RewriteDataset": _rewrite,
    "FixedUnigramCandidateSampler": _sampler,
    "DecodeProtoV2": _protos,
    "EncodeProto": _protos,
    "IgnoreErrorsDataset": _ignored_errors,
    "ExperimentalIgnoreErrorsDataset": _ignored_errors,
    "UnicodeDecode": _encoding,
    "UnicodeDecodeWithOffsets": _encoding,
    "UnicodeTranscode": _encoding,
    "PartitionedCall": _call,
    "StatefulPartitionedCall": _call,
}


def _text(node: Any, attribute: str, default: bytes = b"") -> bytes:
    if attribute not in node.attr:
        return default
    value = node.attr[attribute]
    # In a function, an attribute may be a placeholder that the caller fills in with any value.
    return bytes(value.s) if value.WhichOneof("value") == "s" else _UNKNOWN_VALUE


def _constant_input(node: Any, position: int, body: Body) -> Optional[bytes]:
    """Returns the text of a constant input, or None if the input may vary.

    The constant must be a node of the same body, connected directly or via `Identity`.
    """
    for _ in range(len(body.nodes) + 1):
        if len(node.input) <= position:
            return None
        source = body.source(node.input[position])
        if source is None:
            return None
        if source.op == "Const":
            return _constant_text(source)
        if source.op != "Identity":
            return None
        node, position = source, 0
    return None


def _constant_text(node: Any) -> Optional[bytes]:
    # The value of a constant in a function may be such a placeholder, too.
    if "value" not in node.attr or node.attr["value"].WhichOneof("value") != "tensor":
        return None
    tensor = node.attr["value"].tensor
    if tensor.dtype != _STRING or tensor.tensor_content:
        return None
    # An empty scalar string may be omitted from the message.
    return b"".join(tensor.string_val)
