"""Builds plans by hand, without TFF or TensorFlow, and the runtime that stands in for their graphs.

Their graphs hold the tensors that the manifest binds and compute nothing; `SumRuntime` computes
their results in numpy. For tests of the coordinator, which treats a graph as bytes. Tests of a
plan's results use the plans of `tests/data`, which TFF made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from muster.runtime.graph_check import DATA_TYPE_NUMBERS, VARIANT_NUMBER
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
    TensorBinding,
    TensorSpec,
    TensorType,
)
from muster.wire.plan import Plan, part_of
from muster.wire.tensors import Array, encode

STAGES = ("prepare", "work", "zero", "accumulate", "merge", "report", "update")
_SCALAR = TensorType(dtype=DType.INT64, shape=())
# The inputs and outputs of each stage, by the names of their values.
_INPUTS = {
    "prepare": {"state": "state"},
    "work": {"data": "data", "broadcast": "broadcast"},
    "accumulate": {"accumulator": "accumulator", "update": "plain"},
    "merge": {"left": "accumulator", "right": "accumulator"},
    "report": {"accumulator": "accumulator"},
    "update": {"state": "state", "aggregate": "result", "clear_sums": "clear_sums"},
}
_OUTPUTS = {
    "prepare": {"broadcast": "broadcast"},
    "work": {"update": "update"},
    "zero": {"accumulator": "accumulator"},
    "accumulate": {"accumulator": "accumulator"},
    "merge": {"accumulator": "accumulator"},
    "report": {"aggregate": "result"},
    "update": {"state": "state", "result": "result"},
}


def graph_of(inputs: Mapping[str, DType | None], outputs: Iterable[str], *, text: str) -> bytes:
    """Returns a serialized `GraphDef` that computes nothing: placeholders and output nodes.

    Args:
      inputs: The tensors that are fed, with their dtypes; None: a data set.
      outputs: The tensors that are fetched.
      text: Text that makes the graph's bytes unique.
    """
    fed = [
        _node(tensor, VARIANT_NUMBER if dtype is None else DATA_TYPE_NUMBERS[dtype]) for tensor, dtype in inputs.items()
    ]
    return b"".join((*fed, *(_node(tensor, 1) for tensor in outputs), idle_graph(text)))


def idle_graph(text: str) -> bytes:
    """Returns a serialized `GraphDef` of one `NoOp` with an attribute `text`.

    Written without protobuf.
    """
    attribute = _field(1, b"text") + _field(2, _field(2, text.encode()))
    return _field(1, _field(1, b"idle") + _field(2, b"NoOp") + _field(5, attribute))


def _node(tensor: str, data_type: int) -> bytes:
    """Returns a placeholder, as a field of a `GraphDef`."""
    dtype = _field(1, b"dtype") + _field(2, bytes([6 << 3, data_type]))
    return _field(1, _field(1, tensor.partition(":")[0].encode()) + _field(2, b"Placeholder") + _field(5, dtype))


def _field(number: int, data: bytes) -> bytes:
    """Returns a length-delimited field of a protocol buffer, of less than 16 kB."""
    size = bytes([len(data)]) if len(data) < 0x80 else bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
    return bytes([number << 3 | 2]) + size + data


def _bound(prefix: str, specs: Iterable[Any]) -> tuple[TensorBinding, ...]:
    return tuple(
        TensorBinding(path=spec.path, dtype=spec.dtype, shape=spec.shape, tensor=f"{prefix}_{at}:0")
        for at, spec in enumerate(specs)
    )


def make_plan(
    name: str,
    *,
    state: Mapping[str, Any],
    update: tuple[TensorSpec, ...],
    zero: Mapping[str, Any],
    clear_sums: tuple[ClearSum, ...] = (),
) -> Plan:
    """Returns a plan whose accumulator sums the update's tensors of the same names.

    Its broadcast is like `state`, and its result like `zero`.
    """
    sums = {item.path for item in clear_sums}
    values: dict[str, tuple[Any, ...]] = {
        "state": _specs(state),
        "broadcast": _specs(state),
        "plain": tuple(spec for spec in update if spec.path not in sums),
        "update": update,
        "accumulator": _specs(zero),
        "result": _specs(zero),
        "clear_sums": clear_sums,
        "data": (),
    }
    graphs, stages = {}, {}
    for stage in STAGES:
        inputs: dict[str, tuple[TensorBinding | SequenceBinding, ...]] = {
            value: _bound(f"{stage}_{value}", values[kind]) for value, kind in _INPUTS.get(stage, {}).items()
        }
        outputs = {value: _bound(f"{stage}_to_{value}", values[kind]) for value, kind in _OUTPUTS[stage].items()}
        if stage == "work":
            inputs["data"] = (SequenceBinding(path="data", element=_SCALAR, tensor="work_data:0"),)
        fed = {item.tensor: getattr(item, "dtype", None) for items in inputs.values() for item in items}
        fetched = [item.tensor for items in outputs.values() for item in items]
        graphs[stage] = graph_of(fed, fetched, text=f"the graph of {stage} of {name}")
        stages[stage] = Stage(graph=part_of(graphs[stage]), inputs=inputs, outputs=outputs)
    files = {"state": encode(state), "zero": encode(zero)}
    manifest = PlanManifest(
        name=name,
        made_by="tests",
        stages=Stages(**stages),
        state=_specs(state),
        broadcast=_specs(state),
        update=update,
        accumulator=_specs(zero),
        result=_specs(zero),
        data=SequenceType(element=_SCALAR),
        state_type=_SCALAR,
        result_type=_SCALAR,
        folds=tuple(FoldRule(path=path, kind=FoldKind.SUM, update=path) for path in zero),
        clear_sums=clear_sums,
        initial_state=part_of(files["state"]),
        zero=part_of(files["zero"]),
    )
    parts = {part_of(data).sha256: data for data in (*graphs.values(), *files.values())}
    return Plan(manifest, parts)


def folded_by_graphs(plan: Plan) -> Plan:
    """Returns the plan with folds that use its graphs, as if it had no proven sums."""
    folds = tuple(FoldRule(path=rule.path, kind=FoldKind.TENSORFLOW) for rule in plan.manifest.folds)
    manifest = plan.manifest.model_copy(update={"name": f"{plan.manifest.name}_by_graphs", "folds": folds})
    return Plan(manifest, plan.parts)


def _specs(tensors: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    arrays = {path: np.asarray(value) for path, value in tensors.items()}
    return tuple(TensorSpec(path=path, dtype=DType.of(array), shape=array.shape) for path, array in arrays.items())


def sum_plan() -> Plan:
    """Returns a plan that sums clients' ids, ones and vectors.

    Ids are powers of two, so a sum shows which clients it contains, and how often.
    """
    return make_plan(
        "client_ids",
        state={"total": np.int64(0), "rounds": np.int64(0)},
        update=_specs(sum_update(0)),
        zero={name: np.zeros_like(value) for name, value in sum_update(0).items()},
    )


def sum_update(client: int, value: float = 0.0) -> dict[str, Array]:
    """Returns the update of the `client`-th client (from 0; at most 62)."""
    return {"ids": np.array(1 << client), "count": np.array(1), "value": np.full(3, value, np.float32)}


@dataclass(frozen=True)
class Updated:
    """Result of `SumRuntime.update`. `muster.runtime.UpdateResult` would load TensorFlow."""

    state: dict[str, Array]
    result: dict[str, Array]


class SumRuntime:
    """Runtime for `sum_plan` with the methods that the coordinator calls.

    Attributes:
      reported: The number of updates in the accumulator of each call of `report`, in order.
      updated: The number of calls of `update`.
    """

    def __init__(
        self, *, noise: Callable[[], int] = lambda: 0, before_update: Callable[[], Any] = lambda: None
    ) -> None:
        """Creates the runtime.

        `update` calls `before_update` first, and adds `noise()` to the new state's total.
        """
        self._noise = noise
        self._before_update = before_update
        self._lock = threading.Lock()
        self.reported: list[int] = []
        self.updated = 0

    def prepare(self, state: Mapping[str, Array], *, seconds: float | None = None) -> dict[str, Array]:  # noqa: ARG002
        return {name: np.array(value) for name, value in state.items()}

    def report(self, accumulator: Mapping[str, Array], *, seconds: float | None = None) -> dict[str, Array]:  # noqa: ARG002
        with self._lock:
            self.reported.append(int(accumulator["count"]))
        return {name: np.array(value) for name, value in accumulator.items()}

    def update(
        self,
        state: Mapping[str, Array],
        aggregate: Mapping[str, Array],
        clear_sums: Any = None,
        *,
        seconds: float | None = None,  # noqa: ARG002
    ) -> Updated:
        assert not clear_sums
        self._before_update()
        with self._lock:
            self.updated += 1
            total = state["total"] + aggregate["ids"] + self._noise()
        return Updated(
            state={"total": np.asarray(total, np.int64), "rounds": np.asarray(state["rounds"] + 1, np.int64)},
            result={name: np.array(value) for name, value in aggregate.items()},
        )


NUMBERS = tuple(dtype for dtype in DType if dtype not in (DType.BOOL, DType.STRING))


def every_dtype_plan() -> Plan:
    """Returns a plan with tensors of every dtype, of an open shape, and two sums in the clear.

    The tensor of a dtype is 2×3 and named like `t/float32`.
    """
    tensors = every_dtype_update()
    clear = (
        ClearSum(path="secure/sum", dtype=DType.INT32, shape=(2,), kind="secure_sum", minimum=-3, maximum=9),
        ClearSum(path="secure/modular", dtype=DType.INT64, shape=(), kind="secure_modular_sum", modulus=8),
    )
    shapes: dict[str, tuple[int | None, ...]] = {"open": (None, 2)}
    update = tuple(
        TensorSpec(path=path, dtype=DType.of(array), shape=shapes.get(path, array.shape))
        for path, array in tensors.items()
    )
    zero = {"t/int64": np.zeros((2, 3), np.int64)}
    return make_plan("every_dtype", state={"total": np.int64(0)}, update=update, zero=zero, clear_sums=clear)


def every_dtype_update() -> dict[str, Array]:
    """Returns a valid update of `every_dtype_plan`."""
    tensors: dict[str, Array] = {f"t/{dtype.value}": np.ones((2, 3), dtype.numpy) for dtype in NUMBERS}
    tensors["t/bool"] = np.array([[True, False, True], [False, True, False]])
    tensors["t/string"] = np.array([[b"", b"a", b"\xff\x00"], [b"bc", b"", b"d"]], object)
    tensors["open"] = np.zeros((4, 2), np.float32)
    tensors["secure/sum"] = np.array([-3, 9], np.int32)
    tensors["secure/modular"] = np.array(7, np.int64)
    return tensors
