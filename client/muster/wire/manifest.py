"""Manifest of a plan: the inputs and outputs of its graphs, and how its accumulators fold.

A plan consists of the six computations of TFF's `MapReduceForm` (`tff.backends.mapreduce`) that run
separately, and `merge`:

    prepare:     S -> B                     the server state to the round's broadcast
    work:        (D, B) -> U                a client's data and the broadcast to its update
    zero:        () -> A                    the empty accumulator
    accumulate:  (A, U) -> A                adds one update to an accumulator
    merge:       (A, A) -> A                two accumulators into one
    report:      A -> R                     the accumulator to the aggregate
    update:      (S, R) -> (S, result)      the aggregate to the next state

Every value is a flat list of named tensors in TFF's declared order. `Type` preserves the nesting
for data sets and for readers.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal, Optional, Union

from pydantic import Field

from muster.wire.base import Message, WireModel
from muster.wire.dtypes import DType

Shape = Optional[tuple[Optional[int], ...]]

_KIND = "Kind of the type."
_DTYPE = "Element type, by TensorFlow's name."
_SHAPE = "Size of each axis; null if it is not known. Null for a tensor of unknown rank."
_PATH = "Path of the tensor in the value, such as `model/0`."


class TensorType(WireModel):
    """Type of a tensor."""

    kind: Literal["tensor"] = Field(default="tensor", description=_KIND)
    dtype: DType = Field(description=_DTYPE)
    shape: Shape = Field(description=_SHAPE)


class StructField(WireModel):
    """Field of a structure."""

    name: Optional[str] = Field(
        default=None, description="Name of the field. An unnamed field has its index, from 0, in paths."
    )
    type: Type = Field(description="Type of the field.")


class StructType(WireModel):
    """Type of a structure."""

    kind: Literal["struct"] = Field(default="struct", description=_KIND)
    container: Literal["mapping", "sequence"] = Field(
        default="sequence",
        description="Order in which TensorFlow flattens the structure: a mapping by sorted keys, a sequence as "
        "declared.",
    )
    fields: tuple[StructField, ...] = Field(description="Fields, in their declared order.")


class SequenceType(WireModel):
    """Type of a `tf.data.Dataset`."""

    kind: Literal["sequence"] = Field(default="sequence", description=_KIND)
    element: Type = Field(description="Type of the data set's elements.")


Type = Annotated[Union[TensorType, StructType, SequenceType], Field(discriminator="kind")]
StructField.model_rebuild()
StructType.model_rebuild()
SequenceType.model_rebuild()


class TensorBinding(WireModel):
    """Tensor of a graph that is bound to a tensor of a value."""

    kind: Literal["tensor"] = Field(default="tensor", description=_KIND)
    path: str = Field(description=_PATH)
    dtype: DType = Field(description=_DTYPE)
    shape: Shape = Field(description=_SHAPE)
    tensor: str = Field(description="Name of the tensor in the graph, such as `arg_x:0`.")


class SequenceBinding(WireModel):
    """Tensor of a graph that is bound to a data set."""

    kind: Literal["sequence"] = Field(default="sequence", description=_KIND)
    path: str = Field(description="Path of the data set in the value.")
    element: Type = Field(description="Type of the data set's elements.")
    tensor: str = Field(description="Name of the graph's variant tensor that stands for the data set.")


Binding = Annotated[Union[TensorBinding, SequenceBinding], Field(discriminator="kind")]


class Part(WireModel):
    """File of the plan, addressed by its content."""

    sha256: str = Field(description="SHA-256 of the file, in hex.")
    size: int = Field(description="Size of the file in bytes.")


class Stage(WireModel):
    """One computation of the plan.

    The keys of `inputs` and `outputs` are `state`, `data`, `broadcast`, `update`, `accumulator`,
    `left`, `right`, `aggregate`, `clear_sums` and `result`.
    """

    graph: Part = Field(description="Graph of the computation: a serialized `GraphDef`.")
    inputs: dict[str, tuple[Binding, ...]] = Field(
        default_factory=dict,
        description="Bound leaves of each input value, in TFF's declared order. By default there is no input.",
    )
    outputs: dict[str, tuple[TensorBinding, ...]] = Field(
        description="Bound leaves of each output value, in TFF's declared order."
    )
    initialize: Optional[str] = Field(
        default=None,
        description="Name of the op to run first in the same session, which initializes variables and tables. "
        "Missing if there is none.",
    )


class Stages(WireModel):
    """The seven computations of a plan."""

    prepare: Stage = Field(description="Server state to broadcast.")
    work: Stage = Field(description="A client's data and the broadcast to its update.")
    zero: Stage = Field(description="Empty accumulator.")
    accumulate: Stage = Field(description="Accumulator and update to accumulator.")
    merge: Stage = Field(description="Two accumulators to one.")
    report: Stage = Field(description="Accumulator to aggregate.")
    update: Stage = Field(description="Server state and aggregate to the next state and the result.")


class FoldKind(str, Enum):
    """Way in which one tensor of an accumulator takes in one update.

    It is proven from the wiring of `accumulate` and `merge`. `tensorflow` means that nothing was
    proven: the plan's own graphs must run.
    """

    SUM = "sum"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"
    TENSORFLOW = "tensorflow"


class FoldRule(WireModel):
    """Way in which one tensor of the accumulator folds."""

    path: str = Field(description="Path of the tensor in the accumulator.")
    kind: FoldKind = Field(description="Kind of the fold.")
    update: Optional[str] = Field(
        default=None,
        description="Path of the update's tensor that is folded into it. Missing for `tensorflow`.",
    )


class ClearSum(WireModel):
    """Tensor that the plan declares as a secure sum and that is summed **in the clear**.

    It is summed as int64, with both bounds checked, and passed to `update` as `dtype`.
    """

    path: str = Field(description="Path of the tensor in the update and in the partial.")
    dtype: DType = Field(description=_DTYPE)
    shape: Shape = Field(description=_SHAPE)
    kind: Literal["secure_sum_bitwidth", "secure_sum", "secure_modular_sum"] = Field(
        description="TFF's intrinsic that declares the sum."
    )
    minimum: int = Field(default=0, description="Smallest value of one client, inclusive.")
    maximum: Optional[int] = Field(
        default=None, description="Largest value of one client, inclusive. Missing for `secure_modular_sum`."
    )
    modulus: Optional[int] = Field(default=None, description="Modulus of the sum. Only for `secure_modular_sum`.")


class TensorSpec(WireModel):
    """Named tensor in a file."""

    path: str = Field(description=_PATH)
    dtype: DType = Field(description=_DTYPE)
    shape: Shape = Field(description=_SHAPE)


class Release(WireModel):
    """Floor that the plan's author sets for every task of the plan.

    The plan's address covers it, and so do signatures. The coordinator applies the stricter of this
    and the task's policy. Devices read it before they run the plan.
    """

    minimum: int = Field(ge=1, description="Fewest updates in a result.")
    max_rounds: Optional[int] = Field(
        default=None, ge=1, description="Most rounds that one task may commit. By default there is no limit."
    )
    separation_seconds: Optional[float] = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Least seconds between two contributions of one client. By default there is no limit.",
    )


class PlanManifest(Message):
    """Plan without its bytes. The SHA-256 of its encoded form is the plan's address."""

    schema_version: Literal[1] = Field(default=1, description="Version of the manifest's format.")
    name: str = Field(description="Name of the plan.")
    made_by: str = Field(
        description="Versions that built the plan, such as `muster 0.1.0, tensorflow-federated 0.87.0, tensorflow "
        "2.14.1`."
    )
    stages: Stages = Field(description="Computations of the plan.")
    state: tuple[TensorSpec, ...] = Field(description="Tensors of the server state.")
    broadcast: tuple[TensorSpec, ...] = Field(description="Tensors of the broadcast.")
    update: tuple[TensorSpec, ...] = Field(description="Tensors that a client uploads. Those of `clear_sums` are last.")
    accumulator: tuple[TensorSpec, ...] = Field(description="Tensors of the accumulator, without `clear_sums`.")
    result: tuple[TensorSpec, ...] = Field(description="Tensors of the result.")
    data: Type = Field(description="Type of a client's data.")
    state_type: Type = Field(description="Type of the server state.")
    result_type: Type = Field(description="Type of the result.")
    folds: tuple[FoldRule, ...] = Field(
        description="Fold of each tensor of the accumulator, in the accumulator's order."
    )
    clear_sums: tuple[ClearSum, ...] = Field(
        default=(), description="Secure sums that are computed in the clear. By default there are none."
    )
    initial_state: Part = Field(description="Initial server state, as safetensors of `state`.")
    zero: Part = Field(description="Output of `zero`, as safetensors of `accumulator`.")
    release: Optional[Release] = Field(
        default=None, description="Floor for every task of the plan. By default the plan sets none."
    )

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts of the plan: the seven graphs, the initial state and the zero."""
        graphs = (getattr(self.stages, name).graph for name in Stages.model_fields)
        return (*graphs, self.initial_state, self.zero)

    @property
    def has_only_sums(self) -> bool:
        """True if every tensor of the accumulator is a proven sum, so its zero is all zeros."""
        proven = {rule.path for rule in self.folds if rule.kind is FoldKind.SUM}
        return all(
            spec.path in proven and spec.shape is not None and None not in spec.shape for spec in self.accumulator
        )

    @property
    def folds_with_tensorflow(self) -> bool:
        """True if some fold is unproven and needs TensorFlow."""
        return any(rule.kind is FoldKind.TENSORFLOW for rule in self.folds)

    @property
    def sums_in_the_clear(self) -> bool:
        """True if the plan's author allowed secure sums to be computed in the clear."""
        return bool(self.clear_sums)
