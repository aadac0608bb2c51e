"""Checks that a manifest is consistent and that its tensors are possible.

A manifest that parses may still contradict itself: a fold may name no tensor, a graph may have
other outputs than the plan, a shape may be impossible. Such a plan would fail in the middle of a
round, so it is refused wherever a plan is read. `muster.runtime.graph_check` checks the graphs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional

from muster.wire.dtypes import DType
from muster.wire.manifest import (
    ClearSum,
    FoldKind,
    FoldRule,
    PlanManifest,
    SequenceBinding,
    SequenceType,
    Stage,
    Stages,
    StructType,
    TensorBinding,
    TensorSpec,
    TensorType,
    Type,
)
from muster.wire.problems import FieldError, ProblemError, ProblemType

MAX_NAME = 200  # characters of a plan's name, which is stored with every task
MAX_MADE_BY = 500  # characters
MAX_PATH = 1000  # characters of a tensor's path, and of its name in a graph
MAX_TENSORS = 10_000  # of one value; the header of a file limits them too
MAX_AXES = 32  # numpy's limit
MAX_DIMENSION = 1 << 40
MAX_TENSOR_BYTES = 2 << 30  # the limit of a plan's file too
MAX_ACCUMULATOR_BYTES = 2 << 30  # of all tensors of an accumulator, sums in the clear included
_MAX_LISTED = 5  # errors in a problem
_MAX_QUOTED = 80  # characters of a name in an error
_INT64 = (-(1 << 63), (1 << 63) - 1)
_MAX_BITS = 64  # of a secure sum's bound
_NOT_SUMMED = frozenset({DType.BOOL, DType.STRING})
_NOT_ORDERED = _NOT_SUMMED | {DType.COMPLEX64, DType.COMPLEX128}
_VALUES = ("state", "broadcast", "update", "accumulator", "result")

Shape = Optional[tuple[Optional[int], ...]]


def check_manifest(manifest: PlanManifest) -> None:
    """Checks that a manifest is consistent.

    Raises:
      ProblemError: `plan_invalid`, with the first few contradictions. The error's size is bounded.
    """
    # Later checks iterate over values that earlier ones have bounded.
    for check in (_texts, _counts, _shapes, _paths, _folds, _clear_sums, _stages, _sizes):
        errors = _first(check(manifest))
        if errors:
            listed = "; ".join(f"{item.path}: {item.reason}" for item in errors)
            raise ProblemError(
                ProblemType.PLAN_INVALID, f"The plan's manifest is not consistent: {listed}", fields=tuple(errors)
            )


def tensor_bytes(dtype: DType, shape: Shape) -> int:
    """Returns the least bytes of a tensor in memory.

    A string counts as its reference, and an axis of unknown size as 1.
    """
    size = _item_bytes(dtype)
    for dimension in shape or ():
        size *= 1 if dimension is None else dimension
    return size


def is_possible(shape: Shape) -> bool:
    """Returns whether some array can have the shape."""
    if shape is None:
        return True
    return len(shape) <= MAX_AXES and all(size is None or 0 <= size <= MAX_DIMENSION for size in shape)


def _item_bytes(dtype: DType) -> int:
    # Not `dtype.numpy.itemsize`: bfloat16 needs a library that a coordinator may lack.
    bits = "".join(character for character in dtype.value if character.isdigit())
    return int(bits) // 8 if bits else {DType.BOOL: 1, DType.STRING: 8}[dtype]


def _first(errors: Iterable[FieldError]) -> list[FieldError]:
    """Returns the first errors. The others are not computed."""
    return [item for item, _ in zip(errors, range(_MAX_LISTED))]


def _bad(path: str, reason: str) -> FieldError:
    return FieldError(path=_short(path), reason=reason)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…"


def _values(manifest: PlanManifest) -> Iterator[tuple[str, tuple[TensorSpec, ...]]]:
    for value in _VALUES:
        yield value, getattr(manifest, value)


def _all_stages(manifest: PlanManifest) -> Iterator[tuple[str, Stage]]:
    for name in Stages.model_fields:
        yield name, getattr(manifest.stages, name)


def _bindings(stage: Stage) -> Iterator[tuple[str, Sequence[Any]]]:
    yield from stage.inputs.items()
    yield from stage.outputs.items()


def _texts(manifest: PlanManifest) -> Iterator[FieldError]:
    for field, limit in (("name", MAX_NAME), ("made_by", MAX_MADE_BY)):
        size = len(getattr(manifest, field))
        if size > limit:
            yield _bad(field, f"has {size} characters; at most {limit} are allowed")
    for name, stage in _all_stages(manifest):
        if stage.initialize is not None and len(stage.initialize) > MAX_PATH:
            yield _bad(f"stages.{name}.initialize", f"is longer than {MAX_PATH} characters")


def _counts(manifest: PlanManifest) -> Iterator[FieldError]:
    counted: list[tuple[str, Sequence[Any]]] = [*_values(manifest)]
    counted += [("folds", manifest.folds), ("clear_sums", manifest.clear_sums)]
    for name, stage in _all_stages(manifest):
        counted += [(f"stages.{name}.{value}", items) for value, items in _bindings(stage)]
    for place, items in counted:
        if len(items) > MAX_TENSORS:
            yield _bad(place, f"has {len(items)} entries; at most {MAX_TENSORS} are allowed")


def _shapes(manifest: PlanManifest) -> Iterator[FieldError]:
    for place, dtype, shape in _shaped(manifest):
        if not is_possible(shape):
            yield _bad(place, "has a shape that no tensor can have")
        elif tensor_bytes(dtype, shape) > MAX_TENSOR_BYTES:
            yield _bad(place, f"is larger than {MAX_TENSOR_BYTES >> 30} GB, the limit of a tensor")


def _shaped(manifest: PlanManifest) -> Iterator[tuple[str, DType, Shape]]:
    """Yields every dtype and shape of the manifest, with its place."""
    for value, specs in _values(manifest):
        yield from ((f"{value} {spec.path}", spec.dtype, spec.shape) for spec in specs)
    yield from ((f"clear_sums {item.path}", item.dtype, item.shape) for item in manifest.clear_sums)
    for field in ("data", "state_type", "result_type"):
        yield from ((field, leaf.dtype, leaf.shape) for leaf in _tensor_types(getattr(manifest, field)))
    for name, stage in _all_stages(manifest):
        for value, bindings in _bindings(stage):
            for binding in bindings:
                place = f"stages.{name}.{value} {binding.path}"
                if isinstance(binding, TensorBinding):
                    yield place, binding.dtype, binding.shape
                else:
                    yield from ((place, leaf.dtype, leaf.shape) for leaf in _tensor_types(binding.element))


def _tensor_types(declared: Type) -> Iterator[TensorType]:
    for leaf in _leaves(declared):
        if isinstance(leaf, TensorType):
            yield leaf
        else:
            yield from _tensor_types(leaf.element)


def _leaves(declared: Type) -> Iterator[TensorType | SequenceType]:
    """Yields the tensors and data sets of a type, in the declared order."""
    if isinstance(declared, StructType):
        for field in declared.fields:
            yield from _leaves(field.type)
    else:
        yield declared


def _paths(manifest: PlanManifest) -> Iterator[FieldError]:
    for value, specs in _values(manifest):
        yield from _names(value, [spec.path for spec in specs])
    sums = [item.path for item in manifest.clear_sums]
    yield from _names("clear_sums", sums)
    for path in {*sums}.intersection(spec.path for spec in manifest.accumulator):
        yield _bad(f"clear_sums {path}", "is a tensor of the accumulator too")
    for name, stage in _all_stages(manifest):
        tensors = [binding.tensor for bindings in stage.inputs.values() for binding in bindings]
        yield from _names(f"stages.{name}.inputs", tensors)
        for value, bindings in _bindings(stage):
            yield from _names(f"stages.{name}.{value}", [binding.path for binding in bindings])
            if any(len(binding.tensor) > MAX_PATH for binding in bindings):
                yield _bad(f"stages.{name}.{value}", f"names a tensor by more than {MAX_PATH} characters")


def _names(place: str, names: Sequence[str]) -> Iterator[FieldError]:
    for name, count in Counter(names).items():
        if count > 1:
            yield _bad(f"{place} {name}", "occurs more than once")
        if len(name) > MAX_PATH:
            yield _bad(f"{place} {name}", f"is longer than {MAX_PATH} characters")


def _folds(manifest: PlanManifest) -> Iterator[FieldError]:
    if [rule.path for rule in manifest.folds] != [spec.path for spec in manifest.accumulator]:
        yield _bad("folds", "must have one rule for each tensor of the accumulator, in its order, and no other")
        return
    update = {spec.path: spec for spec in manifest.update}
    for rule, spec in zip(manifest.folds, manifest.accumulator):
        reason = _unfit(rule, spec, update.get(rule.update or ""))
        if reason is not None:
            yield _bad(f"folds {rule.path}", reason)


def _unfit(rule: FoldRule, spec: TensorSpec, update: Optional[TensorSpec]) -> Optional[str]:
    """Returns the reason why a rule can't fold into the accumulator's tensor `spec`, or None."""
    if rule.kind is FoldKind.TENSORFLOW:
        return None if rule.update is None or update is not None else "names a tensor that the update does not have"
    if update is None:
        return "names no tensor of the update"
    if spec.dtype in (_NOT_SUMMED if rule.kind is FoldKind.SUM else _NOT_ORDERED):
        return f"is a {rule.kind.value} of {spec.dtype.value}, which is not defined"
    if spec.shape is None or None in spec.shape:
        return f"is a {rule.kind.value} of a tensor of unknown shape"
    if (update.dtype, update.shape) != (spec.dtype, spec.shape):
        return f"folds {_short(update.path)}, which has another dtype or shape than the accumulator's tensor"
    return None


def _clear_sums(manifest: PlanManifest) -> Iterator[FieldError]:
    update = {spec.path: spec for spec in manifest.update}
    for item in manifest.clear_sums:
        spec = update.get(item.path)
        if spec is None:
            yield _bad(f"clear_sums {item.path}", "is not a tensor of the update")
        elif (spec.dtype, spec.shape) != (item.dtype, item.shape):
            yield _bad(f"clear_sums {item.path}", "has another dtype or shape than the update's tensor")
        elif not item.dtype.is_integer or item.shape is None or None in item.shape:
            yield _bad(f"clear_sums {item.path}", "must be of an integer dtype and a known shape")
        elif not _has_bounds(item):
            yield _bad(f"clear_sums {item.path}", "has bounds that admit no value")


def _has_bounds(item: ClearSum) -> bool:
    """Returns whether a sum has the bounds of its kind and some value is within them."""
    if item.kind == "secure_modular_sum":
        return item.maximum is None and item.modulus is not None and 0 < item.modulus <= _INT64[1] and item.minimum == 0
    if item.maximum is None or item.modulus is not None:
        return False
    return _INT64[0] <= item.minimum <= item.maximum < 1 << _MAX_BITS


def _stages(manifest: PlanManifest) -> Iterator[FieldError]:
    sums = {item.path for item in manifest.clear_sums}
    plain = tuple(spec for spec in manifest.update if spec.path not in sums)
    state, accumulator = manifest.state, manifest.accumulator
    report, update = manifest.stages.report, manifest.stages.update
    inputs_of: dict[str, dict[str, Sequence[Any]]] = {
        "prepare": {"state": state},
        "work": {"broadcast": manifest.broadcast},
        "zero": {},
        "accumulate": {"accumulator": accumulator, "update": plain},
        "merge": {"left": accumulator, "right": accumulator},
        "report": {"accumulator": accumulator},
        "update": {
            "state": state,
            "aggregate": report.outputs.get("aggregate", ()),
            "clear_sums": manifest.clear_sums,
        },
    }
    outputs_of: dict[str, dict[str, Sequence[Any]]] = {
        "prepare": {"broadcast": manifest.broadcast},
        "work": {"update": manifest.update},
        "zero": {"accumulator": accumulator},
        "accumulate": {"accumulator": accumulator},
        "merge": {"accumulator": accumulator},
        "report": {"aggregate": update.inputs.get("aggregate", ())},
        "update": {"state": state, "result": manifest.result},
    }
    for name, stage in _all_stages(manifest):
        inputs = {value: items for value, items in stage.inputs.items() if (name, value) != ("work", "data")}
        yield from _agree(f"stages.{name}.inputs", inputs, inputs_of[name])
        yield from _agree(f"stages.{name}.outputs", stage.outputs, outputs_of[name])
        for value in outputs_of[name].keys() - stage.outputs.keys():
            yield _bad(f"stages.{name}.outputs.{value}", "is missing")
    bound = [_leaf(binding) for binding in manifest.stages.work.inputs.get("data", ())]
    if bound != list(_leaves(manifest.data)):
        yield _bad("stages.work.inputs.data", "has another type than the plan's data")


def _agree(place: str, bound: dict[str, Any], declared: dict[str, Sequence[Any]]) -> Iterator[FieldError]:
    """Compares the inputs or outputs of a stage with the manifest's declarations."""
    for value in bound.keys() - declared.keys():
        yield _bad(f"{place}.{value}", "is not a value of this stage")
    for value, specs in declared.items():
        have = [_described(item) for item in bound.get(value, ())]
        if have != [(item.path, item.dtype, item.shape) for item in specs]:
            yield _bad(
                f"{place}.{value}", "has other tensors (paths, dtypes, shapes, order) than the manifest declares"
            )


def _described(binding: Any) -> tuple[Any, ...]:
    if isinstance(binding, SequenceBinding):
        return (binding.path, None, binding.element)
    return (binding.path, binding.dtype, binding.shape)


def _leaf(binding: Any) -> TensorType | SequenceType:
    """Returns the type of the bound data."""
    if isinstance(binding, SequenceBinding):
        return SequenceType(element=binding.element)
    return TensorType(dtype=binding.dtype, shape=binding.shape)


def _sizes(manifest: PlanManifest) -> Iterator[FieldError]:
    size = sum(tensor_bytes(spec.dtype, spec.shape) for spec in manifest.accumulator)
    size += sum(tensor_bytes(DType.INT64, item.shape) for item in manifest.clear_sums)
    if size > MAX_ACCUMULATOR_BYTES:
        yield _bad("accumulator", f"has {size} bytes; at most {MAX_ACCUMULATOR_BYTES} are allowed")
