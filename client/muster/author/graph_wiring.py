"""Follows a `GraphDef` upstream, from an output to the values that it is computed from.

Function calls are followed too. A tensor has two kinds of names, `node:1` in a graph and
`node:output_name:0` in the body of a function. Both become a `Wire`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from tensorflow.python.framework import op_def_registry

CALL_OPS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_BRANCHES = frozenset({"If", "StatelessIf"})
_LOOPS = frozenset({"While", "StatelessWhile"})
PASS_THROUGH_OPS = frozenset({"Identity", "IdentityN", "StopGradient", "Snapshot"})  # output n is input n
_UNCHANGING = frozenset(
    {*PASS_THROUGH_OPS, *CALL_OPS, *_BRANCHES, *_LOOPS, "Switch"}
)  # may pass an input through unchanged


@dataclass(frozen=True)
class Wire:
    """Output number `index` of a node. If `node` is None, argument number `index` of a body."""

    node: Optional[str]
    index: int


class Body:
    """Nodes of a graph or of a function.

    Attributes:
      name: The function's name; "" for the graph itself.
      nodes: The nodes by name.
      results: A function's results, in order.
      effects: The nodes that every call of the function runs, even if no result needs them.
    """

    def __init__(
        self,
        name: str,
        nodes: Sequence[Any],
        *,
        arguments: Sequence[str] = (),
        results: Sequence[str] = (),
        effects: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.nodes = {node.name: node for node in nodes}
        self._arguments = {argument: at for at, argument in enumerate(arguments)}
        self.results = [self.wire(result) for result in results]
        self.effects = tuple(effects)

    def wire(self, tensor: str) -> Wire:
        """Returns the wire that a tensor's name refers to.

        Raises:
          KeyError: There is no such node.
        """
        parts = tensor.split(":")
        if parts[0] in self._arguments and parts[0] not in self.nodes:
            return Wire(None, self._arguments[parts[0]])
        node = self.nodes[parts[0]]
        if len(parts) <= 2:  # noqa: PLR2004  `node` or `node:1`
            return Wire(parts[0], int(parts[1]) if len(parts) > 1 else 0)
        return Wire(parts[0], _offset(node, parts[1]) + int(parts[2]))

    def inputs(self, node: Any) -> list[Wire]:
        """Returns the tensors that a node takes, in order."""
        return [self.wire(name) for name in node.input if not name.startswith("^")]

    def controls(self, node: Any) -> list[str]:
        """Returns the names of a node's control inputs, which run before it."""
        return [name[1:] for name in node.input if name.startswith("^")]


class Wiring:
    """Wires of a graph and of its functions."""

    def __init__(self, graph: Any) -> None:
        self.graph = Body("", graph.node)
        self._functions = {function.signature.name: function for function in graph.library.function}
        self._bodies: dict[str, Body] = {}

    def function(self, name: str) -> Body:
        """Returns the body of a function.

        Raises:
          KeyError: There is no such function.
        """
        if name not in self._bodies:
            function = self._functions[name]
            stateful = [node.name for node in function.node_def if _is_stateful(node)]
            self._bodies[name] = Body(
                name,
                function.node_def,
                arguments=[argument.name for argument in function.signature.input_arg],
                results=[function.ret[result.name] for result in function.signature.output_arg],
                effects=sorted({*function.control_ret.values(), *stateful}),
            )
        return self._bodies[name]

    def called_functions(self, node: Any) -> Iterator[Body]:
        """Yields the functions that a node may run.

        They are named in the attributes of a call, loop, branch or data set, or as its operation.
        """
        if node.op in self._functions:
            yield self.function(node.op)
        for attribute in node.attr.values():
            for function in (attribute.func, *attribute.list.func):
                if function.name in self._functions:
                    yield self.function(function.name)


def unchanged_source(wiring: Wiring, tensor: str) -> Optional[str]:
    """Returns the top-level node whose output a tensor is, unchanged.

    Returns None if the tensor may be computed.

    Identities, calls, branches that agree, and loops that pass a value through are followed.
    """
    body = wiring.graph
    wire = _source(wiring, body, body.wire(tensor))
    if wire is None or wire.node is None or body.inputs(body.nodes[wire.node]):
        return None
    return wire.node


def _source(wiring: Wiring, body: Body, wire: Wire) -> Optional[Wire]:
    """Returns the argument or the node of `body` that a wire's unchanged value originates from."""
    while wire.node is not None:
        node = body.nodes[wire.node]
        if node.op == "Merge":  # joins the branches of a condition that `Switch` opens
            sources = {_source(wiring, body, branch) for branch in body.inputs(node)}
            return sources.pop() if len(sources) == 1 and wire.index == 0 else None
        if node.op not in _UNCHANGING:
            return wire
        at = _input_of(wiring, node, wire.index)
        if at is None:
            return None
        wire = body.inputs(node)[at]
    return wire


def _input_of(wiring: Wiring, node: Any, output: int) -> Optional[int]:
    """Returns the position of the input that an operation passes through as its `output`.

    Returns None if the operation computes that output.
    """
    if node.op in PASS_THROUGH_OPS:
        return output
    if node.op == "Switch":
        return 0
    if node.op in CALL_OPS:
        return _argument(wiring, next(wiring.called_functions(node), None), output)
    if node.op in _BRANCHES:
        positions = {_argument(wiring, branch, output) for branch in wiring.called_functions(node)}
        position = positions.pop() if len(positions) == 1 else None
        return None if position is None else position + 1  # the first input is the condition
    carried = _argument(wiring, wiring.function(node.attr["body"].func.name), output)
    return output if carried == output else None


def _argument(wiring: Wiring, function: Optional[Body], result: int) -> Optional[int]:
    """Returns the position of the argument that a function returns as its `result`.

    Returns None if the function computes that result.
    """
    wire = None if function is None else _source(wiring, function, function.results[result])
    return wire.index if wire is not None and wire.node is None else None


def _is_stateful(node: Any) -> bool:
    definition = op_def_registry.get(node.op)
    return definition is None or definition.is_stateful


def _offset(node: Any, output: str) -> int:
    """Returns the position of a named output among all of a node's outputs.

    Raises:
      KeyError: The operation is not TensorFlow's, or has no output of that name.
    """
    definition = op_def_registry.get(node.op)
    offset = 0
    for argument in definition.output_arg if definition is not None else ():
        if argument.name == output:
            return offset
        if argument.number_attr:
            offset += node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            offset += len(node.attr[argument.type_list_attr].list.type)
        else:
            offset += 1
    raise KeyError(f"{node.name}:{output}")
