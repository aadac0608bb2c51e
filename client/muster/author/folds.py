"""Proves, from the wiring of `accumulate` and `merge`, that a tensor of the accumulator is a plain sum, maximum or minimum.

What is proven is folded by numpy, without TensorFlow. The proof is symbolic: each output is reduced to one operator over a
multiset of inputs, and that must be its own accumulator tensor and one tensor of the update, each once. The set of operations
in a graph proves nothing: crossing two tensors or adding one twice uses the same set. Whatever is not proven stays with
TensorFlow, which is always right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from muster.author.graph_wiring import CALL_OPS, PASS_THROUGH_OPS, Body, Wire, Wiring
from muster.wire.dtypes import DType
from muster.wire.manifest import FoldKind, FoldRule, Stage, TensorBinding
from muster.wire.tensors import Array

Leaf = tuple[str, int]  # the value that it belongs to (`accumulator`, `update`, `left`, `right`) and its position there

_OPERATORS = {
    "Add": FoldKind.SUM,
    "AddV2": FoldKind.SUM,
    "AddN": FoldKind.SUM,
    "Maximum": FoldKind.MAXIMUM,
    "Minimum": FoldKind.MINIMUM,
}
# All that may run beside the path: nothing of these fails or leaves a trace.
_HARMLESS = frozenset({*_OPERATORS, *PASS_THROUGH_OPS, *CALL_OPS, "NoOp", "Const", "Placeholder"})
_DEPTH = 64  # function calls in function calls
_NOT_ARITHMETIC = frozenset({DType.BOOL, DType.STRING})
_NOT_ORDERED = frozenset({DType.COMPLEX64, DType.COMPLEX128})


class _UnprovenError(Exception):
    """The wiring is not of the few kinds that are understood here."""


@dataclass(frozen=True)
class _Term:
    """`kind` over `leaves`, each as often as counted; kind None for a leaf alone. No leaves at all: a constant of zeros.

    `constants` are the shapes of the zeros that were added, which must not broadcast.
    """

    kind: Optional[FoldKind]
    leaves: Counter[Leaf]
    constants: frozenset[tuple[int, ...]] = frozenset()


@dataclass
class _Frame:
    """A body in one call: who calls it with which wires, and what has been reduced so far."""

    body: Body
    caller: Optional[_Frame] = None
    arguments: tuple[Wire, ...] = ()
    depth: int = 0
    known: dict[Wire, _Term] = field(default_factory=dict)


def prove_folds(
    accumulate: Any, merge: Any, *, accumulate_stage: Stage, merge_stage: Stage, zero: Mapping[str, Array]
) -> tuple[FoldRule, ...]:
    """How each tensor of the accumulator folds.

    SUM, if `accumulate` gives its own tensor plus exactly one tensor of the update, `merge` gives left plus right, each once,
    all of one dtype and one known shape, and `zero` holds zeros. MAXIMUM and MINIMUM alike, but with any zero, since
    merging it twice changes nothing. Anything else is TENSORFLOW.

    Args:
      accumulate: The `GraphDef` of `accumulate`.
      merge: The `GraphDef` of `merge`.
      accumulate_stage: Binds `accumulator` and `update` to `accumulator`.
      merge_stage: Binds `left` and `right` to `accumulator`.
      zero: What `zero` gives, by name.

    Returns:
      One rule for each tensor of the accumulator, in order.
    """
    adding = _Reduction(accumulate, accumulate_stage)
    merging = _Reduction(merge, merge_stage)
    outputs = accumulate_stage.outputs["accumulator"]
    return tuple(
        _rule(at, output.path, adding=adding, merging=merging, zero=zero[output.path])
        for at, output in enumerate(outputs)
    )


def _rule(at: int, path: str, *, adding: _Reduction, merging: _Reduction, zero: Array) -> FoldRule:
    try:
        kind, update = _prove(at, adding=adding, merging=merging, zero=zero)
    except _UnprovenError:
        return FoldRule(path=path, kind=FoldKind.TENSORFLOW)
    return FoldRule(path=path, kind=kind, update=update)


def _prove(at: int, *, adding: _Reduction, merging: _Reduction, zero: Array) -> tuple[FoldKind, str]:
    kind, added = adding.pair(at, own=("accumulator", at), other="update")
    if merging.pair(at, own=("left", at), other="right") != (kind, ("right", at)):
        raise _UnprovenError
    own = adding.stage.outputs["accumulator"][at]
    update = adding.binding(added)
    if own.dtype in _NOT_ARITHMETIC or (kind is not FoldKind.SUM and own.dtype in _NOT_ORDERED):
        raise _UnprovenError
    if own.shape is None or None in own.shape:
        raise _UnprovenError
    same = [
        update,
        adding.binding(("accumulator", at)),
        merging.binding(("left", at)),
        merging.binding(("right", at)),
        merging.stage.outputs["accumulator"][at],
    ]
    if any((item.dtype, item.shape) != (own.dtype, own.shape) for item in same):
        raise _UnprovenError
    if zero.shape != own.shape or zero.dtype != own.dtype.numpy or (kind is FoldKind.SUM and np.any(zero)):
        raise _UnprovenError
    return kind, update.path


class _Reduction:
    """The outputs of one stage in terms of its inputs."""

    def __init__(self, graph: Any, stage: Stage) -> None:
        self.stage = stage
        self._wiring = Wiring(graph)
        self._leaves: dict[Wire, Leaf] = {}
        self._ambiguous: set[Wire] = set()
        for value, bindings in stage.inputs.items():
            for at, binding in enumerate(bindings):
                wire = self._wiring.graph.wire(binding.tensor)
                if wire in self._leaves:
                    self._ambiguous.add(wire)
                self._leaves[wire] = (value, at)
        self._top = _Frame(self._wiring.graph)

    def binding(self, leaf: Leaf) -> TensorBinding:
        """The input that a leaf stands for."""
        value, at = leaf
        binding = self.stage.inputs[value][at]
        if not isinstance(binding, TensorBinding):
            raise _UnprovenError
        return binding

    def pair(self, at: int, *, own: Leaf, other: str) -> tuple[FoldKind, Leaf]:
        """The operator of an output that is `own` and one tensor of the value `other`, each once; and that tensor."""
        output = self.stage.outputs["accumulator"][at]
        try:
            term = self._reduce(self._top, self._wiring.graph.wire(output.tensor))
        except (KeyError, IndexError) as error:
            raise _UnprovenError from error
        others = [leaf for leaf in term.leaves if leaf != own]
        if term.kind is None or len(others) != 1 or others[0][0] != other or set(term.leaves.values()) != {1}:
            raise _UnprovenError
        if term.leaves[own] != 1 or any(shape not in ((), output.shape) for shape in term.constants):
            raise _UnprovenError
        return term.kind, others[0]

    def _reduce(self, frame: _Frame, wire: Wire) -> _Term:
        if wire not in frame.known:
            frame.known[wire] = self._term(frame, wire)
        return frame.known[wire]

    def _term(self, frame: _Frame, wire: Wire) -> _Term:
        if wire.node is None:
            if frame.caller is None:
                raise _UnprovenError
            return self._reduce(frame.caller, frame.arguments[wire.index])
        if frame is self._top and wire in self._leaves:
            if wire in self._ambiguous:
                raise _UnprovenError
            return _Term(None, Counter({self._leaves[wire]: 1}))
        node = frame.body.nodes[wire.node]
        for control in frame.body.controls(node):
            self._check_harmless(frame.body, control, seen=set())
        if node.op in CALL_OPS:
            return self._called(frame, node, wire.index)
        if node.op == "Const":
            return _constant(node)
        inputs = frame.body.inputs(node)
        if node.op in PASS_THROUGH_OPS:
            return self._reduce(frame, inputs[wire.index])
        if node.op in _OPERATORS:
            return _combine(_OPERATORS[node.op], [self._reduce(frame, item) for item in inputs])
        raise _UnprovenError

    def _called(self, frame: _Frame, node: Any, index: int) -> _Term:
        if frame.depth == _DEPTH:
            raise _UnprovenError
        body = self._wiring.function(node.attr["f"].func.name)
        for effect in body.effects:
            self._check_harmless(body, effect, seen=set())
        inner = _Frame(body, frame, tuple(frame.body.inputs(node)), frame.depth + 1)
        return self._reduce(inner, body.results[index])

    def _check_harmless(self, body: Body, name: str, *, seen: set[tuple[str, str]]) -> None:
        """Checks that a node, and all that runs before it, neither fails nor leaves a trace (no assertion, no print)."""
        node = body.nodes.get(name)
        if node is None or (body.name, name) in seen:  # no node: an argument of a function
            return
        seen.add((body.name, name))
        if node.op not in _HARMLESS:
            raise _UnprovenError
        before = [*body.controls(node), *(wire.node for wire in body.inputs(node) if wire.node is not None)]
        for other in before:
            self._check_harmless(body, other, seen=seen)
        for called in self._wiring.called_functions(node):
            for inner in (*called.effects, *(wire.node for wire in called.results if wire.node is not None)):
                self._check_harmless(called, inner, seen=seen)


def _constant(node: Any) -> _Term:
    value = tf.make_ndarray(node.attr["value"].tensor)
    if value.dtype == object or np.any(value):
        raise _UnprovenError
    return _Term(None, Counter(), frozenset({value.shape}))


def _combine(kind: FoldKind, terms: list[_Term]) -> _Term:
    leaves: Counter[Leaf] = Counter()
    constants: frozenset[tuple[int, ...]] = frozenset()
    for term in terms:
        if term.kind not in (None, kind):
            raise _UnprovenError
        if kind is not FoldKind.SUM and not term.leaves:  # zeros are nothing to a sum alone
            raise _UnprovenError
        leaves += term.leaves
        constants |= term.constants
    if kind is not FoldKind.SUM and constants:
        raise _UnprovenError
    return _Term(kind, leaves, constants)
