"""Builds the call graph of a TFF computation: its calls in order, with their dependencies.

In TFF's call-dominant form, every call of a federated operator or of local code is bound to a name
in a separate line. The form therefore shows which draw of a random number, or which aggregate, a
value depends on. The graphs of a `MapReduceForm` do not show this: TFF builds them later, with
copies.
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
    """Call of a federated operator or of local code.

    Attributes:
      name: TFF's generated name of the call; for look-ups only.
      intrinsic: The federated operator's name, such as `federated_mean`; None for local code.
      type: The type of the call's result.
      dependencies: The names of the calls that it depends on.
      operators: The names of all operators in it, including those in the functions that it maps.
      local_computations: The local computations in it (`building_blocks.CompiledComputation`).
    """

    name: str
    intrinsic: Optional[str]
    type: Any
    dependencies: frozenset[str]
    operators: tuple[str, ...]
    local_computations: tuple[Any, ...]

    @property
    def is_broadcast(self) -> bool:
        """True if the call sends a value from the server to the clients."""
        definition = intrinsic_defs.uri_to_intrinsic_def(self.intrinsic)
        return definition is not None and definition.broadcast_kind is not None

    @property
    def is_aggregate(self) -> bool:
        """True if the call aggregates values from the clients at the server."""
        definition = intrinsic_defs.uri_to_intrinsic_def(self.intrinsic)
        return definition is not None and definition.aggregation_kind is not None

    @property
    def is_unplaced(self) -> bool:
        """True if the result is placed neither at the server nor at the clients."""
        return not type_analysis.contains_federated_types(self.type)


@dataclass(frozen=True)
class CallGraph:
    """Calls of a computation.

    Attributes:
      calls: All calls by name, in order.
      results: For each element of the computation's result, the names of the calls that it uses.
    """

    calls: dict[str, FederatedCall]
    results: tuple[frozenset[str], ...]

    def upstream(self, names: Iterable[str], *, within_server: bool = False) -> dict[str, FederatedCall]:
        """Returns the calls `names` and all calls that they depend on.

        Args:
          names: The names of the calls to start from.
          within_server: Stop at broadcasts and aggregates, and leave them out. What remains is
            computed again by every stage that needs it.
        """
        reached: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            call = self.calls.get(name)
            if call is None or name in reached or (within_server and (call.is_broadcast or call.is_aggregate)):
                continue
            reached.add(name)
            pending.extend(call.dependencies)
        return {name: call for name, call in self.calls.items() if name in reached}


def build_call_graph(computation: Any) -> CallGraph:
    """Returns the call graph of a federated computation.

    Args:
      computation: A `tff.Computation` that TFF can transform to call-dominant form.
    """
    block = computation.to_building_block()
    block = transformations.to_call_dominant(block)
    body = block.result if isinstance(block, building_blocks.Lambda) else block
    locals_, result = (body.locals, body.result) if isinstance(body, building_blocks.Block) else ([], body)
    calls = {name: _call(name, value) for name, value in locals_}
    elements = list(result) if isinstance(result, building_blocks.Struct) else [result]
    return CallGraph(calls=calls, results=tuple(_references(element) for element in elements))


def _call(name: str, value: Any) -> FederatedCall:
    function = value.function if isinstance(value, building_blocks.Call) else None
    operators: list[str] = []
    local_computations: list[Any] = []

    def collect(block: Any) -> None:
        if isinstance(block, building_blocks.CompiledComputation):
            local_computations.append(block)
        elif isinstance(block, building_blocks.Intrinsic):
            operators.append(block.uri)

    tree_analysis.visit_preorder(value, collect)
    return FederatedCall(
        name=name,
        intrinsic=function.uri if isinstance(function, building_blocks.Intrinsic) else None,
        type=value.type_signature,
        dependencies=_references(value),
        operators=tuple(operators),
        local_computations=tuple(local_computations),
    )


def _references(value: Any) -> frozenset[str]:
    """Returns the names that a value refers to.

    Names in call-dominant form are unique, so a name that is bound within the value matches no
    call.
    """
    names: set[str] = set()

    def collect(block: Any) -> None:
        if isinstance(block, building_blocks.Reference):
            names.add(block.name)

    tree_analysis.visit_preorder(value, collect)
    return frozenset(names)
