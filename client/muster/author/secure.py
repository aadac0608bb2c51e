"""Handles the secure-sum slots of a computation, which Muster can only sum in the clear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Optional

from muster.author.map_reduce_form import run_without_arguments, type_leaves
from muster.author.types import to_type
from muster.runtime.paths import Leaf, leaves
from muster.wire.manifest import ClearSum, StructType, TensorType, Type
from muster.wire.problems import ProblemError, ProblemType

SecureKind = Literal["secure_sum_bitwidth", "secure_sum", "secure_modular_sum"]
# The slots in the order of `work`'s result, after the plain one, with the name of the computation
# in the `MapReduceForm` that returns the slot's parameter.
SECURE_SLOTS: tuple[tuple[SecureKind, str], ...] = (
    ("secure_sum_bitwidth", "secure_sum_bitwidth"),
    ("secure_sum", "secure_sum_max_input"),
    ("secure_modular_sum", "secure_modular_sum_modulus"),
)
_MAX_LISTED_TENSORS = 5  # in an error


def escape_secure_names(slot: Type) -> Type:
    """Returns the plain slot's type, with fields renamed that secure slots also have."""
    kinds = {kind for kind, _ in SECURE_SLOTS}
    if not isinstance(slot, StructType) or not kinds & {field.name for field in slot.fields}:
        return slot
    fields = tuple(
        field.model_copy(update={"name": f"plain_{field.name}"}) if field.name in kinds else field
        for field in slot.fields
    )
    return slot.model_copy(update={"fields": fields})


class SecureSumsError(ProblemError):
    """Error raised when a computation requests secure sums that its author has not allowed.

    Muster can sum them only in the clear.

    Args:
      name: The plan's name.
      tensors: The tensors that the computation requests to be summed securely, by their names in
        the update.
      option: The option that allows sums in the clear.

    Attributes:
      tensors: See the argument.
    """

    def __init__(self, name: str, tensors: Sequence[str], *, option: str = "allow_clear_secure_sums=True") -> None:
        listed = ", ".join(tensors[:_MAX_LISTED_TENSORS]) + (" …" if len(tensors) > _MAX_LISTED_TENSORS else "")
        super().__init__(
            ProblemType.PLAN_INVALID,
            f"{name} requests secure sums ({listed}), but Muster has no secure aggregation: the coordinator would see "
            f"each client's values. Use an aggregator without secure sums, or pass {option} to sum them in the clear",
        )
        self.name = name
        self.tensors = tuple(tensors)

    def for_option(self, option: str) -> SecureSumsError:
        """Returns the same error naming another option, such as a command's."""
        return SecureSumsError(self.name, self.tensors, option=option)


def build_clear_sums(form: Any, slots: Sequence[Type], slot_leaves: Sequence[Sequence[Leaf]]) -> tuple[ClearSum, ...]:
    """Returns the manifest's rules for summing the tensors of the secure slots in the clear.

    Args:
      form: The `MapReduceForm`.
      slots: The types of the three slots.
      slot_leaves: The leaves of each slot.

    Raises:
      ProblemError: `plan_invalid`, for a tensor of unknown shape.
    """
    sums: list[ClearSum] = []
    for slot, tensors, (kind, computation_name) in zip(slots, slot_leaves, SECURE_SLOTS):
        computation = getattr(form, computation_name)
        declared = computation.type_signature.result
        values = run_without_arguments(computation, value="value", result=type_leaves(declared, root="value"))
        limits = _leaf_parameters(slot, to_type(declared), iter([int(value) for value in values.values()]))
        for (path, leaf), limit in zip(tensors, limits):
            if not isinstance(leaf, TensorType) or leaf.shape is None or None in leaf.shape:
                raise ProblemError(ProblemType.PLAN_INVALID, f"{path} is summed securely, so its shape must be known")
            modulus = limit if kind == "secure_modular_sum" else None
            maximum = _maximum(kind, limit)
            sums.append(
                ClearSum(path=path, dtype=leaf.dtype, shape=leaf.shape, kind=kind, maximum=maximum, modulus=modulus)
            )
    return tuple(sums)


def _maximum(kind: SecureKind, limit: int) -> Optional[int]:
    """Returns the largest value of one client that a slot allows; None for a modular sum."""
    if kind == "secure_sum_bitwidth":
        return (1 << limit) - 1
    return limit if kind == "secure_sum" else None


def _leaf_parameters(slot: Type, declared: Type, values: Iterator[int]) -> list[int]:
    """Returns the parameter of every leaf of a slot.

    One parameter may apply to a whole structure.
    """
    if isinstance(declared, StructType) and isinstance(slot, StructType):
        pairs = zip(slot.fields, declared.fields)
        return [limit for inner, outer in pairs for limit in _leaf_parameters(inner.type, outer.type, values)]
    limit = next(values)
    return [limit] * len(list(leaves(slot, root="")))
