"""The plan's manifest: what its graphs take and give, by name, dtype and shape; how its accumulators fold.

A plan is the six computations of TFF's `MapReduceForm` (`tff.backends.mapreduce`) that run on their own, plus `merge`:

    prepare:     S -> B                     the server state to the round's broadcast
    work:        (D, B) -> U                a client's data and the broadcast to its update
    zero:        () -> A                    the empty accumulator
    accumulate:  (A, U) -> A                one update more
    merge:       (A, A) -> A                two accumulators into one
    report:      A -> R                     the accumulator to the aggregate
    update:      (S, R) -> (S, result)      the aggregate to the next state

Every value is a flat list of named tensors in TFF's declared order; `Type` keeps the nesting where a person or a data set
needs it back.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal, Optional, Union

from pydantic import Field

from muster.wire.base import Message, WireModel
from muster.wire.dtypes import DType


class _Part(WireModel):
    """Part of the manifest."""


class TensorType(_Part):
    """A tensor. `shape` is None where not even the rank is known; a dimension is None where its size is not."""

    kind: Literal["tensor"] = "tensor"
    dtype: DType
    shape: Optional[tuple[Optional[int], ...]]


class StructField(_Part):
    """A field of a structure; unnamed fields are counted from 0."""

    name: Optional[str] = None
    type: Type


class StructType(_Part):
    """A structure. `container` says in what order TensorFlow flattens it: a mapping's keys sorted, a sequence's as declared."""

    kind: Literal["struct"] = "struct"
    container: Literal["mapping", "sequence"] = "sequence"
    fields: tuple[StructField, ...]


class SequenceType(_Part):
    """A `tf.data.Dataset` of `element`s."""

    kind: Literal["sequence"] = "sequence"
    element: Type


Type = Annotated[Union[TensorType, StructType, SequenceType], Field(discriminator="kind")]
StructField.model_rebuild()
StructType.model_rebuild()
SequenceType.model_rebuild()


class TensorBinding(_Part):
    """A tensor of a graph. `tensor` is its name there, such as `arg_x:0`."""

    kind: Literal["tensor"] = "tensor"
    path: str
    dtype: DType
    shape: Optional[tuple[Optional[int], ...]]
    tensor: str


class SequenceBinding(_Part):
    """A data set that a graph takes: `tensor` names the variant tensor that stands for it."""

    kind: Literal["sequence"] = "sequence"
    path: str
    element: Type
    tensor: str


Binding = Annotated[Union[TensorBinding, SequenceBinding], Field(discriminator="kind")]


class Part(_Part):
    """A file of the plan, by content."""

    sha256: str
    size: int  # bytes


class Stage(_Part):
    """One computation. `inputs` and `outputs` are keyed by value: `state`, `data`, `broadcast`, `update`, `accumulator`,
    `left`, `right`, `aggregate`, `result`; each lists the value's leaves in TFF's declared order.

    `initialize` names the op to run first in the same session (variables, tables), if there is one.
    """  # noqa: D205

    graph: Part
    inputs: dict[str, tuple[Binding, ...]] = Field(default_factory=dict)
    outputs: dict[str, tuple[TensorBinding, ...]]
    initialize: Optional[str] = None


class Stages(_Part):
    """The seven computations; see the module's head."""

    prepare: Stage
    work: Stage
    zero: Stage
    accumulate: Stage
    merge: Stage
    report: Stage
    update: Stage


class FoldKind(str, Enum):
    """How one tensor of the accumulator takes one more update. Proven from the wiring of `accumulate` and `merge`."""

    SUM = "sum"
    MAXIMUM = "maximum"
    MINIMUM = "minimum"
    TENSORFLOW = "tensorflow"  # nothing was proven: the plan's own graphs must run


class FoldRule(_Part):
    """How the accumulator tensor `path` folds. `update` is the update's tensor that enters it; None for `tensorflow`."""

    path: str
    kind: FoldKind
    update: Optional[str] = None


class ClearSum(_Part):
    """A secure-sum slot of the plan that is summed **in the clear**: wide integers, both ends checked.

    `path` is the tensor's name in the update and in the partial. `maximum` is inclusive; `modulus` is set for
    `federated_secure_modular_sum` alone. The sum is kept as int64, and given to `update` as `dtype`.
    """

    path: str
    dtype: DType
    shape: Optional[tuple[Optional[int], ...]]
    kind: Literal["secure_sum_bitwidth", "secure_sum", "secure_modular_sum"]
    minimum: int = 0
    maximum: Optional[int] = None
    modulus: Optional[int] = None


class TensorSpec(_Part):
    """A named tensor as a file holds it."""

    path: str
    dtype: DType
    shape: Optional[tuple[Optional[int], ...]]


class Release(_Part):
    """Floor that the plan's author sets for every task of the plan. The plan's address covers it, and so do signatures.

    The coordinator applies the stricter of this and the task's policy, whatever the task's documents say. Devices read
    it before they run the plan.
    """

    minimum: int = Field(ge=1, description="Fewest updates that may be aggregated into a result.")
    max_rounds: Optional[int] = Field(default=None, ge=1, description="Most rounds that one task may commit.")
    separation_seconds: Optional[float] = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds between two contributions of one client, at least.",
    )


class PlanManifest(Message):
    """A plan without its bytes. Its own SHA-256, over its encoded form, is the plan's address."""

    schema_version: Literal[1] = 1
    name: str
    made_by: str  # the author's versions: "muster 0.1.0, tensorflow-federated 0.87.0, tensorflow 2.14.1"
    stages: Stages
    state: tuple[TensorSpec, ...]
    broadcast: tuple[TensorSpec, ...]
    update: tuple[TensorSpec, ...]  # what a client uploads: the plain slot, then the clear sums
    accumulator: tuple[TensorSpec, ...]  # without the clear sums
    result: tuple[TensorSpec, ...]
    data: Type
    state_type: Type
    result_type: Type
    folds: tuple[FoldRule, ...]  # one for each accumulator tensor, in its order
    clear_sums: tuple[ClearSum, ...] = ()
    initial_state: Part  # safetensors of `state`
    zero: Part  # safetensors of `accumulator`: what `zero` gives
    release: Optional[Release] = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every part that the plan has: the seven graphs, the initial state and the zero."""
        graphs = (getattr(self.stages, name).graph for name in Stages.model_fields)
        return (*graphs, self.initial_state, self.zero)

    @property
    def sums_alone(self) -> bool:
        """Whether every tensor of the accumulator is a proven sum, so that its zero is all zeros and need not be read."""
        proven = {rule.path for rule in self.folds if rule.kind is FoldKind.SUM}
        return all(
            spec.path in proven and spec.shape is not None and None not in spec.shape for spec in self.accumulator
        )

    @property
    def folds_with_tensorflow(self) -> bool:
        """Whether the fold has to load TensorFlow."""
        return any(rule.kind is FoldKind.TENSORFLOW for rule in self.folds)

    @property
    def sums_in_the_clear(self) -> bool:
        """Whether the plan asked for secure sums and was allowed, by name, to go without."""
        return bool(self.clear_sums)
