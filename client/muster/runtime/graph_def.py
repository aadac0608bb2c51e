"""Reads TensorFlow graphs without TensorFlow, using the `protobuf` library.

Plans are checked where TensorFlow is not installed (the operator API), and on devices before
TensorFlow parses them. The messages have a separate descriptor pool, so that they do not conflict
with TensorFlow's. `_MESSAGES` lists every field of TensorFlow 2.14, as its .proto files declare
them; tests/tff/test_graph_def.py compares them with TensorFlow's descriptors.

`parse_graph` rejects unknown fields. A runtime then passes the checked message to TensorFlow,
serialized anew, and never the received bytes, which two parsers might read differently.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from muster.wire.problems import ProblemError, ProblemType

# One message each: its name, then its fields as `number name type`. A type is a scalar of protobuf,
# an enum (always `int32` on the wire), another message of this table, or `map<key,value>`; `*`
# marks a repeated field, `|` a member of the message's oneof.
_MESSAGES = """
GraphDef: 1 node NodeDef* / 4 versions VersionDef / 3 version int32 / 2 library FunctionDefLibrary /
    5 debug_info bytes
NodeDef: 1 name string / 2 op string / 3 input string* / 4 device string /
    5 attr map<string,AttrValue> / 6 experimental_debug_info NodeDebugInfo /
    7 experimental_type FullTypeDef
NodeDebugInfo: 1 original_node_names string* / 2 original_func_names string*
AttrValue: 2 s bytes| / 3 i int64| / 4 f float| / 5 b bool| / 6 type int32| /
    7 shape TensorShapeProto| / 8 tensor TensorProto| / 1 list ListValue| / 10 func NameAttrList| /
    9 placeholder string|
ListValue: 2 s bytes* / 3 i int64* / 4 f float* / 5 b bool* / 6 type int32* /
    7 shape TensorShapeProto* / 8 tensor TensorProto* / 9 func NameAttrList*
NameAttrList: 1 name string / 2 attr map<string,AttrValue>
TensorShapeProto: 2 dim Dim* / 3 unknown_rank bool
Dim: 1 size int64 / 2 name string
TensorProto: 1 dtype int32 / 2 tensor_shape TensorShapeProto / 3 version_number int32 /
    4 tensor_content bytes / 13 half_val int32* / 5 float_val float* / 6 double_val double* /
    7 int_val int32* / 8 string_val bytes* / 9 scomplex_val float* / 10 int64_val int64* /
    11 bool_val bool* / 12 dcomplex_val double* / 14 resource_handle_val ResourceHandleProto* /
    15 variant_val VariantTensorDataProto* / 16 uint32_val uint32* / 17 uint64_val uint64* /
    18 float8_val bytes
ResourceHandleProto: 1 device string / 2 container string / 3 name string / 4 hash_code uint64 /
    5 maybe_type_name string / 6 dtypes_and_shapes DtypeAndShape*
DtypeAndShape: 1 dtype int32 / 2 shape TensorShapeProto
VariantTensorDataProto: 1 type_name string / 2 metadata bytes / 3 tensors TensorProto*
FullTypeDef: 1 type_id int32 / 2 args FullTypeDef* / 3 s string| / 4 i int64|
VersionDef: 1 producer int32 / 2 min_consumer int32 / 3 bad_consumers int32*
FunctionDefLibrary: 1 function FunctionDef* / 2 gradient GradientDef* /
    3 registered_gradients RegisteredGradient*
FunctionDef: 1 signature OpDef / 5 attr map<string,AttrValue> / 7 arg_attr map<uint32,ArgAttrs> /
    8 resource_arg_unique_id map<uint32,uint32> / 3 node_def NodeDef* / 4 ret map<string,string> /
    6 control_ret map<string,string>
ArgAttrs: 1 attr map<string,AttrValue>
GradientDef: 1 function_name string / 2 gradient_func string
RegisteredGradient: 1 gradient_func string / 2 registered_op_type string
OpDef: 1 name string / 2 input_arg ArgDef* / 3 output_arg ArgDef* / 20 control_output string* /
    4 attr AttrDef* / 8 deprecation OpDeprecation / 5 summary string / 6 description string /
    18 is_commutative bool / 16 is_aggregate bool / 17 is_stateful bool /
    19 allows_uninitialized_input bool / 21 is_distributed_communication bool
ArgDef: 1 name string / 2 description string / 3 type int32 / 4 type_attr string /
    5 number_attr string / 6 type_list_attr string / 7 handle_data DtypeAndShape* / 16 is_ref bool /
    17 experimental_full_type FullTypeDef
AttrDef: 1 name string / 2 type string / 3 default_value AttrValue / 4 description string /
    5 has_minimum bool / 6 minimum int64 / 7 allowed_values AttrValue
OpDeprecation: 1 version int32 / 2 explanation string
ConfigProto: 10 graph_options GraphOptions
GraphOptions: 10 rewrite_options RewriterConfig
RewriterConfig: 100 optimizers string* / 200 custom_optimizers CustomOptimizer*
CustomOptimizer: 1 name string
"""
_PACKAGE = "muster.graphs"


def parse_graph(data: bytes, *, what: str) -> Any:
    """Parses a serialized `GraphDef`.

    Args:
      data: The serialized graph.
      what: The graph's name for the message, such as `work`.

    Raises:
      ProblemError: `plan_invalid`, if it can't be parsed, or holds a field that TensorFlow 2.14
        does not know.
      ImportError: `protobuf` is not installed.
    """
    require_protobuf()
    from google.protobuf.message import DecodeError

    kind = message_class("GraphDef")
    try:
        size = kind.FromString(data).ByteSize()  # of a separate message, since a message caches its size
        graph = kind.FromString(data)
        graph.DiscardUnknownFields()
        changed = graph.ByteSize() != size
    except (DecodeError, ValueError, RecursionError) as error:
        raise ProblemError(
            ProblemType.PLAN_INVALID, f"The plan's {what} can't be used: its graph can't be read. Build the plan anew."
        ) from error
    if changed:
        raise ProblemError(
            ProblemType.PLAN_INVALID,
            f"The plan's {what} can't be used: its graph holds fields that this version of Muster does not know. "
            "Build the plan "
            "with TensorFlow 2.14, or update Muster.",
        )
    return graph


def require_protobuf() -> None:
    """Raises `ImportError`, with the command to install it, if `protobuf` is missing."""
    try:
        from google.protobuf import message_factory  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Checking a plan's graphs needs protobuf: pip install 'muster-fl[signing]'", name="protobuf"
        ) from error


@cache
def message_class(name: str) -> Any:
    """Returns the class of one of the messages of `_MESSAGES`, such as `GraphDef`."""
    from google.protobuf.message_factory import GetMessageClass

    return GetMessageClass(_pool().FindMessageTypeByName(f"{_PACKAGE}.{name}"))


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="muster/graphs.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in declared_messages().items():
        message = file.message_type.add(name=name)
        for number, field, kind in fields:
            _declare(message, number, field, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def declared_messages() -> dict[str, list[tuple[int, str, str]]]:
    """Returns the fields of each message as number, name and type, as in `_MESSAGES`."""
    messages: dict[str, list[tuple[int, str, str]]] = {}
    for line in _MESSAGES.strip().replace("\n    ", " ").splitlines():
        name, _, fields = line.partition(": ")
        messages[name] = [(int(number), field, kind) for number, field, kind in map(str.split, fields.split(" / "))]
    return messages


def _declare(message: Any, number: int, name: str, kind: str) -> None:
    """Adds a field to a message's descriptor."""
    field = message.field.add(name=name, number=number)
    field.label = field.LABEL_REPEATED if kind.endswith("*") or kind.startswith("map<") else field.LABEL_OPTIONAL
    if kind.endswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="value")
        field.oneof_index = 0
    if kind.startswith("map<"):
        # On the wire a map is a repeated message of key and value.
        entry = message.nested_type.add(name="".join(part.title() for part in name.split("_")) + "Entry")
        entry.options.map_entry = True
        for at, part in enumerate(kind[4:-1].split(","), 1):
            _declare(entry, at, ("key", "value")[at - 1], part)
        _set_type(field, f"{message.name}.{entry.name}")
    else:
        _set_type(field, kind.rstrip("*|"))


def _set_type(field: Any, kind: str) -> None:
    scalar = f"TYPE_{kind.upper()}"
    if hasattr(field, scalar):
        field.type = getattr(field, scalar)
    else:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"
