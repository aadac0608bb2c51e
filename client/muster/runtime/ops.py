"""What a plan's graph may not do: touch files, the network, Python or the host that runs it. Imports no TensorFlow.

A graph is code that runs on other people's machines. The author's side refuses these operations at build, and whoever runs
a plan refuses them again. The list was chosen from all operations that TensorFlow 2.14 registers; an operation that a
TensorFlow does not know fails in TensorFlow itself, as it loads the graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from muster.wire.problems import ProblemError, ProblemType

_FILES = "reads or writes files"
_NETWORK = "talks to the network or to other devices"
_PYTHON = "calls Python code of the process that runs it"
_OPAQUE = "runs code that can't be inspected here"
_HOST = "acts on the process or machine that runs it"

# Whole names or patterns of names, each with what such an operation does. The first match counts.
_DENIED: tuple[tuple[str, str], ...] = (
    (r"(Eager)?PyFunc(Stateless)?", _PYTHON),
    (r"ReadFile|WriteFile|(Experimental)?MatchingFiles(Dataset)?", _FILES),
    (
        r"(WholeFile|TextLine|FixedLengthRecord|TFRecord|LMDB|Identity)Reader(V\d+)?|Reader(Read|ReadUpTo|RestoreState)(V\d+)?",
        _FILES,
    ),
    (r"(Experimental)?(TextLine|FixedLengthRecord|TFRecord|CSV|Sql|LMDB)Dataset(V\d+)?|RecordInput|Skipgram", _FILES),
    (r"(Experimental)?DatasetToTFRecord|(Save|Load)Dataset(V\d+)?", _FILES),
    (r"Snapshot(Chunk)?Dataset(V\d+|Reader)?|SnapshotNestedDatasetReader", _FILES),
    (r"Save(Slices|V\d+)?|Restore(Slice|V\d+)?|MergeV2Checkpoints|DistributedSave|CheckpointHasKey", _FILES),
    (r"InitializeTableFromTextFile(V\d+)?|GenerateVocabRemapping|LoadAndRemapMatrix", _FILES),
    (r"CreateSummary(File|Db)Writer|SummaryWriter|(Flush|Close)SummaryWriter|Write\w*Summary|ImportEvent", _FILES),
    (
        r"(Experimental)?StatsAggregatorSetSummaryWriter|FileSystem\w+|_?\w*TRT\w*Resource\w*|GetCalibrationDataOp",
        _FILES,
    ),
    (r"Debug(Identity|NanCount|NumericSummary)(V\d+)?|CopyHost", _FILES),
    (
        r"_?(Host)?(Send|Recv)|_?Xla(Send|Recv)\w*|_?Nccl\w+|Collective\w+|(Try)?Rpc\w*|\w*RpcFutureResource|RemoteCall",
        _NETWORK,
    ),
    (r"DataService\w+|RegisterDataset(V\d+)?|\w*(TPU|Tpu)\w*|DTensor\w+|CopyToMesh(Grad)?|Relayout(Like)?", _NETWORK),
    (
        r"(Infeed|Outfeed|Prelinearize)\w*|SyncDevice|WorkerHeartbeat|_?XlaHostCompute\w*|AllToAll|CrossReplicaSum",
        _NETWORK,
    ),
    (
        r"XlaCallModule|XlaCustomCall(V\d+)?|MlirPassthroughOp|TRTEngineOp|TfLiteSubgraphExecute|CustomAggregator",
        _OPAQUE,
    ),
    (r"DatasetFromGraph|RemoteFusedGraphExecute|_XlaRun|_XlaCompile\w*|_XlaAotOnly\w+", _OPAQUE),
    (r"Abort|SleepOp|SleepIdentityOp|(Experimental)?SleepDataset", _HOST),
)
_PATTERNS = tuple((re.compile(pattern), deed) for pattern, deed in _DENIED)

# A denied operation inside a serialised graph that hides in a string: field 2 (`op`) of a NodeDef, its length, its name.
_HIDDEN = re.compile(rb"\x12([\x03-\x7f])([A-Za-z_][A-Za-z0-9_]+)")
_LOCAL_STREAMS = ("stdout", "stderr", "log(")
_LOCAL_DESCRIPTORS = (b"", b"local://")
_ADVICE = (
    "A plan runs on the machines of others, so its graphs may not touch files, the network, Python or the host. Give what the "
    "computation needs as client data or server state, or build it into the graph as constants"
)


def check_graph(graph: Any, *, stage: str) -> None:
    """Checks every operation of a graph, of the functions in its library, and of graphs that hide in its strings.

    Args:
      graph: A `GraphDef`.
      stage: The computation of the plan that the graph is, for the message.

    Raises:
      ProblemError: `plan_invalid`, with the operation, its node, what it does and what to do instead.
    """
    bodies = [("", graph.node)]
    bodies += [(function.signature.name, function.node_def) for function in graph.library.function]
    for function, nodes in bodies:
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            deed = _deed(node, by_name)
            if deed is not None:
                inside = f" of its function {function}" if function else ""
                raise ProblemError(
                    ProblemType.PLAN_INVALID,
                    f"The plan's {stage} can't be used: the operation {node.op} at node {node.name}{inside} {deed}. {_ADVICE}.",
                )


def denied(op: str) -> Optional[str]:
    """What an operation of this name does that no plan may do; None if it is allowed."""
    return next((deed for pattern, deed in _PATTERNS if pattern.fullmatch(op)), None)


def _deed(node: Any, by_name: Mapping[str, Any]) -> Optional[str]:
    deed = denied(node.op)
    if deed is not None:
        return deed
    if node.op == "PrintV2" and not _text(node, "output_stream").decode(errors="replace").startswith(_LOCAL_STREAMS):
        return _FILES
    # In memory only: a cache with a file's name writes that file.
    if node.op in {"CacheDataset", "CacheDatasetV2"} and _constant_text(node.input[1], by_name) != b"":
        return "may write a cache file (only an in-memory cache is allowed)"
    if node.op == "FixedUnigramCandidateSampler" and _text(node, "vocab_file"):
        return _FILES
    if node.op in {"DecodeProtoV2", "EncodeProto"}:
        source = _text(node, "descriptor_source")
        if source not in _LOCAL_DESCRIPTORS and not source.startswith(b"bytes://"):
            return _FILES
    for text in _strings(node):
        for match in _HIDDEN.finditer(text):
            name = match[2][: match[1][0]].decode()
            if len(name) == match[1][0] and denied(name) is not None:
                return f"holds a graph with the operation {name}, which {denied(name)}"
    return None


def _text(node: Any, attribute: str) -> bytes:
    return (
        bytes(node.attr[attribute].s) if attribute in node.attr else b"stderr" if attribute == "output_stream" else b""
    )


def _constant_text(name: str, by_name: Mapping[str, Any]) -> Optional[bytes]:
    """The text that a node's input holds, if it is a constant of the same body."""
    node = by_name.get(name.partition(":")[0])
    while node is not None and node.op == "Identity":
        node = by_name.get(node.input[0].partition(":")[0])
    if node is None or node.op != "Const":
        return None
    # A scalar string that is empty may be left out of the message altogether.
    return b"".join(node.attr["value"].tensor.string_val)


def _strings(node: Any) -> Iterator[bytes]:
    for attribute in node.attr.values():
        kind = attribute.WhichOneof("value")
        if kind == "s":
            yield attribute.s
        elif kind == "list":
            yield from attribute.list.s
        elif kind == "tensor":
            yield from attribute.tensor.string_val
