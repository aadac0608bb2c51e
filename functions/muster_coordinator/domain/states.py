"""Server states: the tensors that a task takes from a given state, and their checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from muster.wire.dtypes import DType
from muster.wire.manifest import Shape, TensorSpec
from muster.wire.problems import MAX_FIELDS, FieldError, ProblemError, ProblemType, shorten

_ADVICE = "take only some tensors with leaves, or build the plan with this state"


class Described(Protocol):
    """Tensor with a dtype and a shape: of a manifest, or in a file."""

    @property
    def dtype(self) -> DType:
        """Element type."""

    @property
    def shape(self) -> Shape:
        """Size of each axis, None where it is not known; None for an unknown rank."""


def taken_specs(specs: Sequence[TensorSpec], leaves: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Returns the tensors of a plan's state that are taken from a given state.

    Args:
      specs: The tensors of the plan's state.
      leaves: Prefixes of their paths. Empty: every tensor is taken.

    Raises:
      ProblemError: `invalid_request` if a prefix matches no tensor.
    """
    if not leaves:
        return tuple(specs)
    unmatched = [leaf for leaf in leaves if not any(spec.path.startswith(leaf) for spec in specs)]
    if unmatched:
        paths = ", ".join(shorten(spec.path, limit=80) for spec in specs[:5])
        more = f" and {len(specs) - 5} more" if len(specs) > 5 else ""  # noqa: PLR2004
        fields = tuple(
            FieldError(path="leaves", reason=f"{shorten(leaf, limit=80)!r} is the prefix of no tensor of the state")
            for leaf in unmatched[:MAX_FIELDS]
        )
        raise ProblemError(
            ProblemType.INVALID_REQUEST,
            f"leaves: {fields[0].reason} of the plan, which has {paths}{more}; remove or correct it",
            fields=fields,
        )
    return tuple(spec for spec in specs if spec.path.startswith(tuple(leaves)))


def check_taken(
    source: Mapping[str, Described], specs: Sequence[TensorSpec], leaves: Sequence[str], *, what: str
) -> None:
    """Checks that a state has every tensor to take, with the dtype and shape of the plan.

    Args:
      source: The tensors of the given state, or their specifications, by path.
      specs: The tensors of the plan's state.
      leaves: Prefixes of the paths to take. Empty: every tensor is taken, so `source` has no other.
      what: The given state, as the subject of the problem's text.

    Raises:
      ProblemError: `invalid_request`, with a field error for each tensor that does not fit, up to
        `MAX_FIELDS`.
    """
    wanted = taken_specs(specs, leaves)
    reasons = {spec.path: _fault(source.get(spec.path), spec) for spec in wanted}
    if not leaves:
        known = {spec.path for spec in specs}
        reasons |= {path: "is not in the plan's state" for path in source if path not in known}
    _refuse({path: reason for path, reason in reasons.items() if reason is not None}, what=what)


def _refuse(faults: Mapping[str, str], *, what: str) -> None:
    if not faults:
        return
    fields = tuple(FieldError(path=shorten(path), reason=shorten(reason)) for path, reason in _first(faults.items()))
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    raise ProblemError(
        ProblemType.INVALID_REQUEST,
        f"{what} does not fit the plan: {fields[0].path} {fields[0].reason}{more}; {_ADVICE}",
        fields=fields,
    )


def _first(items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(items)[:MAX_FIELDS]


def _fault(given: Described | None, spec: TensorSpec) -> str | None:
    """Returns the reason for which a given tensor does not fit, or None if it fits."""
    if given is None:
        return "is missing"
    if given.dtype is not spec.dtype:
        return f"has dtype {given.dtype.value}; the plan says {spec.dtype.value}"
    if not _may_fit(given.shape, spec.shape):
        return f"has shape {_text(given.shape)}; the plan says {_text(spec.shape)}"
    return None


def _may_fit(given: Shape, wanted: Shape) -> bool:
    """Returns whether a tensor of one shape may have the other. Unknown sizes fit any."""
    if given is None or wanted is None:
        return True
    return len(given) == len(wanted) and all(
        left is None or right is None or left == right for left, right in zip(given, wanted, strict=True)
    )


def _text(shape: Shape) -> str:
    return "any" if shape is None else "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
