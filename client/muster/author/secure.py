"""The secure-sum slots of a computation, which Muster can only sum in the clear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Optional

from muster.author.map_reduce_form import run_without_arguments, type_leaves
from muster.author.types import to_type
from muster.runtime.paths import Leaf, leaves
from muster.wire.manifest import ClearSum, StructType, TensorType, Type
from muster.wire.problems import ProblemError, ProblemType

SecureKind = Literal["secure_sum_bitwidth", "secure_sum", "secure_modular_sum"]
# The slots in the order of `work`'s result, after the plain one, each with the form's computation of its parameter.
SECURE_SLOTS: tuple[tuple[SecureKind, str], ...] = (
    ("secure_sum_bitwidth", "secure_sum_bitwidth"),
    ("secure_sum", "secure_sum_max_input"),
    ("secure_modular_sum", "secure_modular_sum_modulus"),
)
_LISTED = 5  # tensors named in a refusal


def escape_secure_names(slot: Type) -> Type:
    """The plain slot's type with names that can't be taken for those of the secure slots."""
    kinds = {kind for kind, _ in SECURE_SLOTS}
    if not isinstance(slot, StructType) or not kinds & {field.name for field in slot.fields}:
        return slot
    fields = tuple(
        field.model_copy(update={"name": f"plain_{field.name}"}) if field.name in kinds else field
        for field in slot.fields
    )
    return slot.model_copy(update={"fields": fields})


class SecureSumsError(ProblemError):
    """Error raised when a computation requests secure sums and its author has not allowed sums in the clear.

    Args:
      name: The plan's name.
      tensors: The tensors that the computation requests to be summed securely, by their names in the update.
      option: The option that allows sums in the clear.

    Attributes:
      tensors: See the argument.
    """

    def __init__(self, name: str, tensors: Sequence[str], *, option: str = "allow_clear_secure_sums=True") -> None:
        listed = ", ".join(tensors[:_LISTED]) + (" …" if len(tensors) > _LISTED else "")
        super().__init__(
            ProblemType.PLAN_INVALID,
            f"{name} asks for secure sums ({listed}), and Muster has no secure aggregation: the coordinator would see each "
            f"client's values. Take an aggregator without secure sums, or say {option} to have them summed in the clear",
        )
        self.name = name
        self.tensors = tuple(tensors)

    def for_option(self, option: str) -> SecureSumsError:
        """Returns the same error naming another option, such as a command's."""
        return SecureSumsError(self.name, self.tensors, option=option)


def clear_sums(form: Any, slots: Sequence[Type], secure: Sequence[Sequence[Leaf]]) -> tuple[ClearSum, ...]:
    """How each tensor of the secure slots is summed in the clear.

    Args:
      form: The `MapReduceForm`.
      slots: The types of the three slots.
      secure: The leaves of each.

    Raises:
      ProblemError: `plan_invalid`, for a tensor whose shape is not known.
    """
    found: list[ClearSum] = []
    for slot, tensors, (kind, computation_name) in zip(slots, secure, SECURE_SLOTS):
        computation = getattr(form, computation_name)
        declared = computation.type_signature.result
        values = run_without_arguments(computation, "value", type_leaves(declared, root="value"))
        limits = _spread(slot, to_type(declared), iter([int(value) for value in values.values()]))
        for (path, leaf), limit in zip(tensors, limits):
            if not isinstance(leaf, TensorType) or leaf.shape is None or None in leaf.shape:
                raise ProblemError(ProblemType.PLAN_INVALID, f"{path} is summed securely, so its shape must be known")
            modulus = limit if kind == "secure_modular_sum" else None
            top = _maximum(kind, limit)
            found.append(
                ClearSum(path=path, dtype=leaf.dtype, shape=leaf.shape, kind=kind, maximum=top, modulus=modulus)
            )
    return tuple(found)


def _maximum(kind: SecureKind, limit: int) -> Optional[int]:
    if kind == "secure_sum_bitwidth":
        return (1 << limit) - 1
    return limit if kind == "secure_sum" else None


def _spread(slot: Type, declared: Type, values: Iterator[int]) -> list[int]:
    """The parameter of every leaf of a slot: one parameter may stand for a whole structure."""
    if isinstance(declared, StructType) and isinstance(slot, StructType):
        pairs = zip(slot.fields, declared.fields)
        return [limit for inner, outer in pairs for limit in _spread(inner.type, outer.type, values)]
    limit = next(values)
    return [limit] * len(list(leaves(slot, root="")))
