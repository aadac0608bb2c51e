"""Which operations a plan's graphs may hold: those that compute, in memory, on what they are given. Imports no TensorFlow.

A graph is code that runs on other people's machines. The author's side refuses all others at build, and whoever runs a plan
refuses them again. `allowed_ops.txt` beside this module lists what may run and says how the list was made; the patterns here
say why some others never may (files, the network, Python, the host). What is in neither is refused as not known to be harmless.
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

# Whole names or patterns of names, each with what such an operation does. The first match counts.
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
_PATTERNS = tuple((re.compile(pattern), deed) for pattern, deed in _DENIED)

# An operation's name inside a serialised graph that hides in bytes: field 2 (`op`) of a NodeDef, its length as a varint of any
# spelling, its name (https://protobuf.dev/programming-guides/encoding). A look-ahead, so that matches may overlap.
_HIDDEN = re.compile(rb"\x12(?=([\x80-\xff]{0,9}[\x00-\x7f])([A-Za-z_][A-Za-z0-9_>]*))")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_>]*")
_DEEPEST = 8  # graphs within graphs
_LONGEST_FINDING = 600  # characters
_ADVICE = (
    "A plan runs on the machines of others, so its graphs may not touch files, the network, Python or the host. Give what the "
    "computation needs as client data or server state, or build it into the graph as constants"
)


@cache
def allowed_ops() -> Mapping[str, str]:
    """The operations that a plan may hold, each with its kind, such as `arithmetic`."""
    kinds: dict[str, str] = {}
    kind = ""
    for line in files("muster.runtime").joinpath("allowed_ops.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif not line.startswith("#"):
            kinds.update((name, kind) for name in line.split())
    return kinds


def check_graph(graph: Any, *, stage: str) -> None:
    """Checks every operation of a graph, of the functions in its library, and of graphs that hide in its attributes.

    Args:
      graph: A `GraphDef`.
      stage: The computation of the plan that the graph is, for the message.

    Raises:
      ProblemError: `plan_invalid`, with the operation, its node, what it does and what to do instead.
    """
    for found in _findings(graph, depth=0):
        raise ProblemError(
            ProblemType.PLAN_INVALID, f"The plan's {stage} can't be used: {printable(found)}. {_ADVICE}."
        )


def printable(text: str) -> str:
    """Returns a text that quotes a plan's names in printable form: of bounded length, without control characters."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST_FINDING])
    return shown if len(text) <= _LONGEST_FINDING else f"{shown}…"


def denial_reason(op: str) -> Optional[str]:
    """What an operation of this name does that no plan may do; None if no such thing is known of it."""
    return next((deed for pattern, deed in _PATTERNS if pattern.fullmatch(op)), None)


def refusal_reason(op: str) -> Optional[str]:
    """Why a plan may not hold an operation of this name; None if it may."""
    return denial_reason(op) or (None if op in allowed_ops() else _UNKNOWN)


def count_ops(graph: Any) -> dict[str, Counter[str]]:
    """How often each operation stands in a graph and its library, by kind. Calls of the library's own functions are not counted.

    Args:
      graph: A `GraphDef` that `check_graph` has passed.
    """
    counts: dict[str, Counter[str]] = {}
    for _, nodes in _bodies(graph):
        for node in nodes:
            kind = allowed_ops().get(node.op)
            if kind is not None:
                counts.setdefault(kind, Counter())[node.op] += 1
    return counts


def _bodies(graph: Any) -> list[tuple[str, Any]]:
    return [("", graph.node), *((item.signature.name, item.node_def) for item in graph.library.function)]


def _findings(graph: Any, *, depth: int) -> Iterator[str]:
    """Yields the faults of a graph, each phrased to follow "can't be used:"."""
    functions = {item.signature.name for item in graph.library.function}
    yield from _in_library(graph.library, functions)
    for function, nodes in _bodies(graph):
        inside = f" of its function {function}" if function else ""
        body = Body.of(nodes, function=function)
        if len(body.nodes) != len(nodes):
            yield f"two nodes{inside} have one name"
        for node in nodes:
            deed = None if node.op in functions else refusal_reason(node.op) or check_contents(node, body)
            if deed is not None:
                yield f"the operation {node.op} at node {node.name}{inside} {deed}{replacement_hint(node.op)}"
                continue
            deed = _in_attributes(graph, functions, node.attr.values(), depth)
            if deed is not None:
                yield f"the operation {node.op} at node {node.name}{inside} {deed}"
    for item in graph.library.function:
        arguments = [value for argument in item.arg_attr.values() for value in argument.attr.values()]
        defaults = [value for attribute in item.signature.attr for value in _declared(attribute)]
        deed = _in_attributes(graph, functions, [*item.attr.values(), *arguments, *defaults], depth)
        if deed is not None:
            yield f"its function {item.signature.name} {deed}"


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


def _in_attributes(graph: Any, functions: set[str], values: Any, depth: int) -> Optional[str]:
    """What is wrong with a function that attributes name, or with a graph that hides in their bytes."""
    for value in values:
        for function in _named_functions(value):
            if function and function not in functions and refusal_reason(function):
                return f"calls {function}, which {refusal_reason(function)}"
        for data in _bytes_of(value):
            hidden = _hidden(graph, data, depth)
            if hidden is not None:
                return hidden
    return None


def _hidden(graph: Any, data: bytes, depth: int) -> Optional[str]:
    """Returns the fault of operations that bytes name: denied ones anywhere, and in a whole graph those not allowed."""
    named = False
    for match in _HIDDEN.finditer(data):
        length = sum((byte & 0x7F) << (7 * at) for at, byte in enumerate(match[1]))
        name = match[2][:length].decode()
        if len(name) == length:
            named = True
            if denial_reason(name) is not None:
                return f"holds a graph with the operation {name}, which {denial_reason(name)}"
    if not named:
        return None
    inner = type(graph)()
    if not _parses(inner, data):
        return None
    if not inner.node or not all(node.name and _NAME.fullmatch(node.op) for node in inner.node):
        return None
    if depth >= _DEEPEST:
        return "holds graphs within graphs too deep to look into"
    found = next(_findings(inner, depth=depth + 1), None)
    return None if found is None else f"holds a graph in which {found}"


def _parses(message: Any, data: bytes) -> bool:
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(data)
    except (DecodeError, ValueError, RecursionError):
        return False
    return True


def _named_functions(value: Any) -> Iterator[str]:
    """The functions that an attribute names, and those that the attributes of these name."""
    kind = value.WhichOneof("value")
    named = [value.func] if kind == "func" else value.list.func if kind == "list" else ()
    for function in named:
        yield function.name
        for inner in function.attr.values():
            yield from _named_functions(inner)


def _bytes_of(value: Any) -> Iterator[bytes]:
    """Everything in an attribute that could hold a serialised graph."""
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
