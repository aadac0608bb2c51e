"""Proves that tensors of the accumulator are plain sums, maxima or minima of the updates.

The proof follows the wiring of `accumulate` and `merge`. Proven tensors are folded by numpy,
without TensorFlow; all others by the plan's graphs, which are always correct.

The proof is symbolic. It reduces each output to one operator over a multiset of inputs, which must
be the output's own accumulator tensor and one tensor of the update, each exactly once. The set of
operations in a graph would prove nothing: a graph that crosses two tensors, or adds one twice, has
the same set.
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

# The name of an input value (`accumulator`, `update`, `left`, `right`) and a position in it.
Leaf = tuple[str, int]

_OPERATORS = {
    "Add": FoldKind.SUM,
    "AddV2": FoldKind.SUM,
    "AddN": FoldKind.SUM,
    "Maximum": FoldKind.MAXIMUM,
    "Minimum": FoldKind.MINIMUM,
}
# Operations that may run as side effects: none of them fails or has an effect.
_HARMLESS = frozenset({*_OPERATORS, *PASS_THROUGH_OPS, *CALL_OPS, "NoOp", "Const", "Placeholder"})
_MAX_CALL_DEPTH = 64  # nested function calls
_NOT_ARITHMETIC = frozenset({DType.BOOL, DType.STRING})
_NOT_ORDERED = frozenset({DType.COMPLEX64, DType.COMPLEX128})


class _UnprovenError(Exception):
    """Error raised when the wiring is of a kind that the proof does not cover."""


@dataclass(frozen=True)
class _Term:
    """Operator over a multiset of leaves.

    Attributes:
      kind: The operator; None for a single leaf or for zeros.
      leaves: The leaves with their counts; empty for a constant of zeros.
      constants: The shapes of the zeros that were added. They must not broadcast.
    """

    kind: Optional[FoldKind]
    leaves: Counter[Leaf]
    constants: frozenset[tuple[int, ...]] = frozenset()


@dataclass
class _Frame:
    """Call of a body.

    Attributes:
      body: The body.
      caller: The frame of the call; None for the graph itself.
      arguments: The caller's wires that are passed as arguments.
      depth: The number of enclosing calls.
      known: The terms of the wires that have been reduced.
    """

    body: Body
    caller: Optional[_Frame] = None
    arguments: tuple[Wire, ...] = ()
    depth: int = 0
    known: dict[Wire, _Term] = field(default_factory=dict)


def prove_folds(
    accumulate: Any, merge: Any, *, accumulate_stage: Stage, merge_stage: Stage, zero: Mapping[str, Array]
) -> tuple[FoldRule, ...]:
    """Returns the rule by which each tensor of the accumulator folds.

    SUM, if `accumulate` returns the accumulator's tensor plus exactly one tensor of the update and
    `merge` returns left plus right, each once, all of one dtype and one known shape, and `zero`
    holds zeros. The same for MAXIMUM and MINIMUM, but with any zero, since merging it twice changes
    nothing. Anything else is TENSORFLOW.

    Args:
      accumulate: The `GraphDef` of `accumulate`.
      merge: The `GraphDef` of `merge`.
      accumulate_stage: Binds `accumulator` and `update` to `accumulator`.
      merge_stage: Binds `left` and `right` to `accumulator`.
      zero: The result of `zero`, by name.

    Returns:
      One rule for each tensor of the accumulator, in order.
    """
    adding = _StageReducer(accumulate, accumulate_stage)
    merging = _StageReducer(merge, merge_stage)
    outputs = accumulate_stage.outputs["accumulator"]
    return tuple(
        _rule(at, output.path, adding=adding, merging=merging, zero=zero[output.path])
        for at, output in enumerate(outputs)
    )


def _rule(at: int, path: str, *, adding: _StageReducer, merging: _StageReducer, zero: Array) -> FoldRule:
    try:
        return _prove(at, path, adding=adding, merging=merging, zero=zero)
    except _UnprovenError:
        return FoldRule(path=path, kind=FoldKind.TENSORFLOW)


def _prove(at: int, path: str, *, adding: _StageReducer, merging: _StageReducer, zero: Array) -> FoldRule:
    """Returns the proven rule of tensor number `at` of the accumulator.

    Raises:
      _UnprovenError: The wiring does not prove a rule.
    """
    kind, added = adding.binary_term(at, own=("accumulator", at), other="update")
    if merging.binary_term(at, own=("left", at), other="right") != (kind, ("right", at)):
        raise _UnprovenError
    own = adding.stage.outputs["accumulator"][at]
    update = adding.binding(added)
    if own.dtype in _NOT_ARITHMETIC or (kind is not FoldKind.SUM and own.dtype in _NOT_ORDERED):
        raise _UnprovenError
    if own.shape is None or None in own.shape:
        raise _UnprovenError
    operands = [
        update,
        adding.binding(("accumulator", at)),
        merging.binding(("left", at)),
        merging.binding(("right", at)),
        merging.stage.outputs["accumulator"][at],
    ]
    if any((item.dtype, item.shape) != (own.dtype, own.shape) for item in operands):
        raise _UnprovenError
    if zero.shape != own.shape or zero.dtype != own.dtype.numpy or (kind is FoldKind.SUM and np.any(zero)):
        raise _UnprovenError
    return FoldRule(path=path, kind=kind, update=update.path)


class _StageReducer:
    """Reducer of the outputs of one stage to terms over its inputs."""

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
        """Returns the binding of the input tensor that a leaf represents."""
        value, at = leaf
        binding = self.stage.inputs[value][at]
        if not isinstance(binding, TensorBinding):
            raise _UnprovenError
        return binding

    def binary_term(self, at: int, *, own: Leaf, other: str) -> tuple[FoldKind, Leaf]:
        """Returns the operator and the second operand of an output.

        The output must combine `own` and one tensor of the value `other`, each exactly once.

        Raises:
          _UnprovenError: The output is not such a combination.
        """
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
        if frame.depth == _MAX_CALL_DEPTH:
            raise _UnprovenError
        body = self._wiring.function(node.attr["f"].func.name)
        for effect in body.effects:
            self._check_harmless(body, effect, seen=set())
        inner = _Frame(body, frame, tuple(frame.body.inputs(node)), frame.depth + 1)
        return self._reduce(inner, body.results[index])

    def _check_harmless(self, body: Body, name: str, *, seen: set[tuple[str, str]]) -> None:
        """Checks that a node and all nodes that run before it neither fail nor have effects.

        Assertions and prints, for example, are not harmless.

        Raises:
          _UnprovenError: One of the nodes is not known to be harmless.
        """
        node = body.nodes.get(name)
        if node is None or (body.name, name) in seen:  # None: an argument of a function
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
    """Returns the term of a constant, which must consist of zeros."""
    value = tf.make_ndarray(node.attr["value"].tensor)
    if value.dtype == object or np.any(value):
        raise _UnprovenError
    return _Term(None, Counter(), frozenset({value.shape}))


def _combine(kind: FoldKind, terms: list[_Term]) -> _Term:
    """Returns the term of an operator over terms, which must be of the same operator."""
    leaves: Counter[Leaf] = Counter()
    constants: frozenset[tuple[int, ...]] = frozenset()
    for term in terms:
        if term.kind not in (None, kind):
            raise _UnprovenError
        if kind is not FoldKind.SUM and not term.leaves:  # zeros are neutral only in a sum
            raise _UnprovenError
        leaves += term.leaves
        constants |= term.constants
    if kind is not FoldKind.SUM and constants:
        raise _UnprovenError
    return _Term(kind, leaves, constants)
