"""Extracts the round from an author's process, computation or evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import tensorflow_federated as tff

from muster.author.signature import check_signature, is_evaluation


@dataclass(frozen=True)
class RoundComputation:
    """Round to compile.

    Attributes:
      next: The round, `(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)`.
      initialize: The computation of the first state, `() -> S@SERVER`; None if the author must
        provide that state.
      is_evaluation: Whether the round returns the state unchanged, because the computation returns
        only results.
    """

    next: Any
    initialize: Optional[Any]
    is_evaluation: bool = False


def extract_round(computation: Any) -> RoundComputation:
    """Returns the round of a process, or wraps a computation to return the state that it omits.

    Raises:
      ProblemError: `plan_invalid`, if the signature of `computation` is not that of a round.
    """
    is_process = hasattr(computation, "next") and hasattr(computation, "initialize")
    round_ = computation.next if is_process else computation
    initialize = computation.initialize if is_process else None
    check_signature(round_)
    signature = round_.type_signature
    if isinstance(signature.parameter, tff.FederatedType):
        return _without_state(round_)
    if is_evaluation(signature):
        return RoundComputation(_with_state(round_), initialize, is_evaluation=True)
    return RoundComputation(round_, initialize)


def _with_state(computation: Any) -> Any:
    """Wraps `(S@SERVER, {D}@CLIENTS) -> R@SERVER` so that it also returns its state."""
    parameter = computation.type_signature.parameter

    def evaluate(state: Any, data: Any) -> Any:
        return state, _one_value(computation(state, data))

    return tff.federated_computation(evaluate, parameter[0], parameter[1])


def _without_state(computation: Any) -> RoundComputation:
    """Wraps `{D}@CLIENTS -> R@SERVER` in a computation with an empty state."""
    empty = tff.FederatedType(tff.StructWithPythonType([], tuple), tff.SERVER)

    def stateless(state: Any, data: Any) -> Any:
        return state, _one_value(computation(data))

    return RoundComputation(
        next=tff.federated_computation(stateless, empty, computation.type_signature.parameter),
        initialize=tff.federated_computation(lambda: tff.federated_value((), tff.SERVER)),
    )


def _one_value(result: Any) -> Any:
    return result if isinstance(result.type_signature, tff.FederatedType) else tff.federated_zip(result)
