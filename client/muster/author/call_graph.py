"""A TFF computation as a list of calls in order, each with the calls that it depends on.

TFF's call-dominant form gives every call of a federated operator, or of local code, a line of its own. That form is where it
can be said which draw of a random number, or which aggregate, a value really comes from: the graphs of a MapReduceForm
are made later, and hold copies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional

from tensorflow_federated.python.core.impl.compiler import (
    building_blocks,
    intrinsic_defs,
    transformations,
    tree_analysis,
)
from tensorflow_federated.python.core.impl.types import type_analysis


@dataclass(frozen=True)
class FederatedCall:
    """One line.

    Attributes:
      name: TFF's generated name of the line, for look-ups alone.
      intrinsic: The federated operator's name, as `federated_mean`; None for local code.
      type: The type of what it gives.
      uses: The names of the lines that it takes values from.
      operators: The names of all operators in it, those in functions that it maps included.
      compiled: The local computations in it (`building_blocks.CompiledComputation`).
    """

    name: str
    intrinsic: Optional[str]
    type: Any
    uses: frozenset[str]
    operators: tuple[str, ...]
    compiled: tuple[Any, ...]

    @property
    def is_broadcast(self) -> bool:
        """Whether it carries a value from the server to the clients."""
        definition = intrinsic_defs.uri_to_intrinsic_def(self.intrinsic)
        return definition is not None and definition.broadcast_kind is not None

    @property
    def is_aggregate(self) -> bool:
        """Whether it carries values from the clients to the server."""
        definition = intrinsic_defs.uri_to_intrinsic_def(self.intrinsic)
        return definition is not None and definition.aggregation_kind is not None

    @property
    def is_unplaced(self) -> bool:
        """Whether its value is neither the server's nor the clients'."""
        return not type_analysis.contains_federated_types(self.type)


@dataclass(frozen=True)
class CallGraph:
    """All lines in order, by name; and the lines that each part of the result takes values from."""

    lines: dict[str, FederatedCall]
    results: tuple[frozenset[str], ...]

    def upstream(self, names: Iterable[str], *, within_server: bool = False) -> dict[str, FederatedCall]:
        """The lines that `names` are or depend on.

        Args:
          names: Where to start.
          within_server: Stop at broadcasts and aggregates (they are left out): what the server computes again where it needs it.
        """
        found: dict[str, FederatedCall] = {}
        todo = list(names)
        while todo:
            name = todo.pop()
            call = self.lines.get(name)
            if call is None or name in found or (within_server and (call.is_broadcast or call.is_aggregate)):
                continue
            found[name] = call
            todo.extend(call.uses)
        return {name: call for name, call in self.lines.items() if name in found}


def build_call_graph(computation: Any) -> CallGraph:
    """The calls of a federated computation.

    Args:
      computation: A `tff.Computation`; anything that TFF can bring to call-dominant form.
    """
    block = computation.to_building_block()
    block = transformations.to_call_dominant(block)
    body = block.result if isinstance(block, building_blocks.Lambda) else block
    locals_, result = (body.locals, body.result) if isinstance(body, building_blocks.Block) else ([], body)
    lines = {name: _call(name, value) for name, value in locals_}
    parts = list(result) if isinstance(result, building_blocks.Struct) else [result]
    return CallGraph(lines=lines, results=tuple(_references(part) for part in parts))


def _call(name: str, value: Any) -> FederatedCall:
    function = value.function if isinstance(value, building_blocks.Call) else None
    operators: list[str] = []
    compiled: list[Any] = []

    def collect(block: Any) -> None:
        if isinstance(block, building_blocks.CompiledComputation):
            compiled.append(block)
        elif isinstance(block, building_blocks.Intrinsic):
            operators.append(block.uri)

    tree_analysis.visit_preorder(value, collect)
    return FederatedCall(
        name=name,
        intrinsic=function.uri if isinstance(function, building_blocks.Intrinsic) else None,
        type=value.type_signature,
        uses=_references(value),
        operators=tuple(operators),
        compiled=tuple(compiled),
    )


def _references(value: Any) -> frozenset[str]:
    """The names in a value. Call-dominant form has every name once, so those that are bound inside it find no line."""
    found: set[str] = set()

    def collect(block: Any) -> None:
        if isinstance(block, building_blocks.Reference):
            found.add(block.name)

    tree_analysis.visit_preorder(value, collect)
    return frozenset(found)
