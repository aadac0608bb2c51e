"""Checks that a plan's graphs hold only operations that compute in memory on their inputs.

A graph is code that runs on other people's machines. Forbidden operations are refused when a plan
is built, and again on every machine that runs it. `allowed_ops.txt` beside this module lists the
allowed operations and says how the list was made. The patterns here give the reason for refusing
others (files, the network, Python, the host). An operation in neither is refused as not known to be
harmless. Imports no TensorFlow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Optional

from muster.runtime.op_contents import Body, check_contents
from muster.runtime.op_names import replacement_hint
from muster.wire.problems import ProblemError, ProblemType

_FILES = "reads or writes files"
_LOG = "writes to the log of the machine that runs it"
_REWRITES = "rewrites graphs by rules that its inputs name"
_NETWORK = "talks to the network or to other devices"
_PYTHON = "calls Python code of the process that runs it"
_OPAQUE = "runs code that can't be inspected here"
_HOST = "acts on the process or machine that runs it"
_UNKNOWN = "is not known to be harmless (it is not in muster/runtime/allowed_ops.txt)"

# Patterns of whole operation names, with the effect of such an operation. The first match counts.
_DENIED: tuple[tuple[str, str], ...] = (
    (r"(Eager)?PyFunc(Stateless)?", _PYTHON),
    (r"ReadFile|WriteFile|(Experimental)?MatchingFiles(Dataset)?|ImmutableConst", _FILES),
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
    (r"Print(V2)?", _LOG),
    (r"OptimizeDataset(V\d+)?", _REWRITES),
)
_DENIED_PATTERNS = tuple((re.compile(pattern), effect) for pattern, effect in _DENIED)

# The name of an operation in a serialized graph that is hidden in bytes: field 2 (`op`) of a
# NodeDef, its length as a varint of any encoding, its name
# (https://protobuf.dev/programming-guides/encoding). A look-ahead, so that matches may overlap.
_HIDDEN_OP = re.compile(rb"\x12(?=([\x80-\xff]{0,9}[\x00-\x7f])([A-Za-z_][A-Za-z0-9_>]*))")
_OP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_>]*")
_MAX_GRAPH_DEPTH = 8  # graphs within graphs
_MAX_FAULT_LENGTH = 600  # characters
_ADVICE = (
    "A plan runs on other people's machines, so its graphs may not touch files, the network, Python or the host. "
    "Pass what the computation needs as client data or server state, or build it into the graph as constants"
)


@cache
def allowed_ops() -> Mapping[str, str]:
    """Returns the kind, such as `arithmetic`, of each operation that a plan may hold."""
    kinds: dict[str, str] = {}
    kind = ""
    for line in files("muster.runtime").joinpath("allowed_ops.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif not line.startswith("#"):
            kinds.update((name, kind) for name in line.split())
    return kinds


def check_graph(graph: Any, *, stage: str) -> None:
    """Checks every operation of a graph, its functions, and graphs hidden in its attributes.

    Args:
      graph: A `GraphDef`.
      stage: The name of the plan's stage, for the message.

    Raises:
      ProblemError: `plan_invalid`, with the operation, its node, its effect and the replacement.
    """
    for fault in _faults(graph, depth=0):
        raise ProblemError(
            ProblemType.PLAN_INVALID, f"The plan's {stage} can't be used: {printable(fault)}. {_ADVICE}."
        )


def printable(text: str) -> str:
    """Returns a text in printable form: of bounded length, without control characters.

    For texts that quote names of a plan.
    """
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_FAULT_LENGTH])
    return shown if len(text) <= _MAX_FAULT_LENGTH else f"{shown}…"


def denial_reason(op: str) -> Optional[str]:
    """Returns the forbidden effect of an operation, or None if none is known."""
    return next((effect for pattern, effect in _DENIED_PATTERNS if pattern.fullmatch(op)), None)


def refusal_reason(op: str) -> Optional[str]:
    """Returns the reason why a plan may not hold an operation, by its name; None if it may."""
    return denial_reason(op) or (None if op in allowed_ops() else _UNKNOWN)


def count_ops(graph: Any) -> dict[str, Counter[str]]:
    """Counts the operations of a graph and its library by kind.

    Calls of the library's own functions are not counted.

    Args:
      graph: A `GraphDef` that `check_graph` accepts.
    """
    counts: dict[str, Counter[str]] = {}
    for _, nodes in _bodies(graph):
        for node in nodes:
            kind = allowed_ops().get(node.op)
            if kind is not None:
                counts.setdefault(kind, Counter())[node.op] += 1
    return counts


def _bodies(graph: Any) -> list[tuple[str, Any]]:
    """Returns the nodes of a graph and of each of its functions.

    Each with the function's name, which is empty for the graph itself.
    """
    return [("", graph.node), *((item.signature.name, item.node_def) for item in graph.library.function)]


def _faults(graph: Any, *, depth: int) -> Iterator[str]:
    """Yields the faults of a graph, each phrased to follow "can't be used:"."""
    functions = {item.signature.name for item in graph.library.function}
    yield from _in_library(graph.library, functions)
    for function, nodes in _bodies(graph):
        inside = f" of its function {function}" if function else ""
        body = Body.of(nodes, function=function)
        if len(body.nodes) != len(nodes):
            yield f"two nodes{inside} have one name"
        for node in nodes:
            reason = None if node.op in functions else refusal_reason(node.op) or check_contents(node, body)
            if reason is not None:
                yield f"the operation {node.op} at node {node.name}{inside} {reason}{replacement_hint(node.op)}"
                continue
            reason = _fault_of_attributes(graph, functions, node.attr.values(), depth)
            if reason is not None:
                yield f"the operation {node.op} at node {node.name}{inside} {reason}"
    for item in graph.library.function:
        arguments = [value for argument in item.arg_attr.values() for value in argument.attr.values()]
        defaults = [value for attribute in item.signature.attr for value in _declared(attribute)]
        reason = _fault_of_attributes(graph, functions, [*item.attr.values(), *arguments, *defaults], depth)
        if reason is not None:
            yield f"its function {item.signature.name} {reason}"


def _in_library(library: Any, functions: set[str]) -> Iterator[str]:
    """Yields the faults of the names of a library's functions and gradients."""
    if len(functions) != len(library.function):
        yield "two of its functions have one name"
    for name in functions:
        # TensorFlow may resolve the name to the operation or to the function.
        if denial_reason(name) or name in allowed_ops():
            yield f"its function {name} has the name of an operation"
    for gradient in (*library.gradient, *library.registered_gradients):
        if gradient.gradient_func not in functions and refusal_reason(gradient.gradient_func):
            yield f"a gradient of it is {gradient.gradient_func}, which {refusal_reason(gradient.gradient_func)}"


def _declared(attribute: Any) -> Sequence[Any]:
    """Returns the values that a function declares for one of its attributes."""
    fields = ("default_value", "allowed_values")
    return [getattr(attribute, field) for field in fields if attribute.HasField(field)]


def _fault_of_attributes(graph: Any, functions: set[str], values: Any, depth: int) -> Optional[str]:
    """Returns the fault of a function or hidden graph that attributes hold, or None."""
    for value in values:
        for function in _named_functions(value):
            if function and function not in functions and refusal_reason(function):
                return f"calls {function}, which {refusal_reason(function)}"
        for data in _bytes_of(value):
            fault = _fault_of_bytes(graph, data, depth)
            if fault is not None:
                return fault
    return None


def _fault_of_bytes(graph: Any, data: bytes, depth: int) -> Optional[str]:
    """Returns the fault of operations that bytes name, or None.

    Denied operations are faults anywhere; other operations that are not allowed only in a whole
    graph.
    """
    names_operation = False
    for match in _HIDDEN_OP.finditer(data):
        length = sum((byte & 0x7F) << (7 * at) for at, byte in enumerate(match[1]))
        name = match[2][:length].decode()
        if len(name) == length:
            names_operation = True
            if denial_reason(name) is not None:
                return f"holds a graph with the operation {name}, which {denial_reason(name)}"
    if not names_operation:
        return None
    inner = type(graph)()
    if not _parses(inner, data):
        return None
    if not inner.node or not all(node.name and _OP_NAME.fullmatch(node.op) for node in inner.node):
        return None
    if depth >= _MAX_GRAPH_DEPTH:
        return "holds graphs nested too deep to be checked"
    fault = next(_faults(inner, depth=depth + 1), None)
    return None if fault is None else f"holds a graph in which {fault}"


def _parses(message: Any, data: bytes) -> bool:
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError):
        return False
    return True


def _named_functions(value: Any) -> Iterator[str]:
    """Yields the names of the functions that an attribute refers to, nested references included."""
    kind = value.WhichOneof("value")
    named = [value.func] if kind == "func" else value.list.func if kind == "list" else ()
    for function in named:
        yield function.name
        for inner in function.attr.values():
            yield from _named_functions(inner)


def _bytes_of(value: Any) -> Iterator[bytes]:
    """Yields all bytes of an attribute that could hold a serialized graph."""
    kind = value.WhichOneof("value")
    if kind == "s":
        yield value.s
    elif kind == "tensor":
        yield from _bytes_in_tensor(value.tensor)
    elif kind == "func":
        for inner in value.func.attr.values():
            yield from _bytes_of(inner)
    elif kind == "list":
        yield from value.list.s
        for tensor in value.list.tensor:
            yield from _bytes_in_tensor(tensor)
        for function in value.list.func:
            for inner in function.attr.values():
                yield from _bytes_of(inner)


def _bytes_in_tensor(tensor: Any) -> Iterator[bytes]:
    yield from tensor.string_val
    yield tensor.tensor_content
    for variant in tensor.variant_val:
        yield variant.metadata
        for inner in variant.tensors:
            yield from _bytes_in_tensor(inner)
