"""Explains why TFF could not compile a computation to one MapReduce round.

TFF's own texts consist of generated names. Therefore the computation's call graph is searched for
the reason, and the error names the operator, the reason and the fix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import tensorflow_federated as tff

from muster.author.call_graph import CallGraph, FederatedCall, build_call_graph
from muster.wire.problems import ProblemError, ProblemType

_MAX_TYPE_LENGTH = 200  # characters of a type in a message
# Placeholder names in TFF's texts for unnamed computations: `_var1`, `comp#d344cd56`,
# `fc_f_symbol_0`, `Identity:0`.
_GENERATED = re.compile(
    r"_[a-z]*\d|#[0-9a-f]|\b[a-z]+_symbol\b|->|<lambda>|\(let\b|building_block|_blocks?\.|\w:\d|Tensor\("
)
# The operators that MapReduceForm supports, by the names of TFF's Python functions.
_SUPPORTED_OPERATORS = frozenset(
    {
        "federated_aggregate",
        "federated_apply",
        "federated_broadcast",
        "federated_eval_at_clients",
        "federated_eval_at_server",
        "federated_map",
        "federated_map_all_equal",
        "federated_max",
        "federated_mean",
        "federated_min",
        "federated_secure_modular_sum",
        "federated_secure_sum",
        "federated_secure_sum_bitwidth",
        "federated_sum",
        "federated_value_at_clients",
        "federated_value_at_server",
        "federated_weighted_mean",
        "federated_zip_at_clients",
        "federated_zip_at_server",
    }
)
_SELECTS = frozenset({"federated_select", "federated_secure_select"})


def explain_compilation_error(error: Exception, computation: Any) -> ProblemError:
    """Returns the error that explains why TFF did not compile a computation.

    Args:
      error: The exception of `get_map_reduce_form_for_computation`.
      computation: The computation that TFF refused.

    Returns:
      The error, `plan_invalid`. If no known reason applies, it quotes the first line of TFF's text.
    """
    if isinstance(error, ProblemError):
        return error
    try:
        call_graph = build_call_graph(computation)
    except (
        TypeError,
        ValueError,
        NotImplementedError,
    ):  # TFF refuses to build the call graph: its own reason must suffice
        call_graph = CallGraph(calls={}, results=())
    for find_reasons in (_select, _unknown_operator, _several_passes, _other_code):
        for reason in find_reasons(call_graph):
            return refusal(reason)
    first_line = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
    if not first_line or _GENERATED.search(first_line):
        return refusal(
            f"TFF can't compile the computation to one MapReduce round ({type(error).__name__}). A round broadcasts "
            "once, runs the clients' work, aggregates once and then computes at the server. To find the step that "
            "does not fit, build the computation with fewer steps. TFF's own text is the __context__ of this exception"
        )
    return refusal(
        f"TFF can't compile the computation to one MapReduce round. Its reason: {type(error).__name__}: {first_line}"
    )


def _select(call_graph: CallGraph) -> Iterator[str]:
    for call in call_graph.calls.values():
        if call.intrinsic in _SELECTS:
            yield (
                f"The computation calls tff.{call.intrinsic}, which sends each client a different selection of slices, "
                f"{type_text(call.type)}. A round has one broadcast, the same for all clients. Broadcast the whole "
                "value with tff.federated_broadcast and select the slices on the client"
            )


def _unknown_operator(call_graph: CallGraph) -> Iterator[str]:
    for call in call_graph.calls.values():
        for operator in call.operators:
            if operator not in _SUPPORTED_OPERATORS and not operator.startswith("generic_"):
                yield (
                    f"The computation calls tff.{operator}, which MapReduceForm does not support. Write that step in "
                    "TensorFlow (@tff.tensorflow.computation) and apply it with tff.federated_map, "
                    "or use another aggregation"
                )


def _several_passes(call_graph: CallGraph) -> Iterator[str]:
    for name, call in call_graph.calls.items():
        earlier = [other for other in call_graph.upstream(call.dependencies).values() if other.is_aggregate]
        if not call.is_broadcast or not earlier:
            continue
        later = [
            other
            for other in call_graph.calls.values()
            if other.is_aggregate and name in call_graph.upstream(other.dependencies)
        ]
        again = f", and tff.{later[0].intrinsic} aggregates their answers again" if later else ""
        yield (
            f"The computation takes more than one pass over the clients: tff.{call.intrinsic} sends them "
            f"{_value(call)} that depends on tff.{earlier[-1].intrinsic}, which needs the values of all of them "
            f"first{again}. A round broadcasts once, then aggregates once. Store the first aggregate in the server "
            "state and use it in the next round"
        )


def _other_code(call_graph: CallGraph) -> Iterator[str]:
    for call in call_graph.calls.values():
        for block in call.local_computations:
            kind = block.proto.WhichOneof("computation")
            if kind != "tensorflow":
                yield (
                    f"A local computation of the type {type_text(block.type_signature)} is compiled to {kind.upper()}, "
                    "but a plan consists of TensorFlow graphs. Write it with @tff.tensorflow.computation"
                )


def _value(call: FederatedCall) -> str:
    return (
        f"a value of the type {type_text(call.type.member if isinstance(call.type, tff.FederatedType) else call.type)}"
    )


def type_text(type_: Any) -> str:
    """Returns a TFF type as text for a message, truncated."""
    text = type_.compact_representation()
    return text if len(text) <= _MAX_TYPE_LENGTH else f"{text[:_MAX_TYPE_LENGTH]}…"


def refusal(reason: str) -> ProblemError:
    """Returns the error `plan_invalid` with `reason` as its text."""
    return ProblemError(ProblemType.PLAN_INVALID, f"{reason}.")
