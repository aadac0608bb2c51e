"""Finds the round in what an author gives: a process, a computation with a server state, one without, or an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import tensorflow_federated as tff

from . import refusals


@dataclass(frozen=True)
class Subject:
    """What is compiled.

    Attributes:
      next: The round, `(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)`.
      initialize: The computation of the first state, `() -> S@SERVER`; None if the author has to give that state.
      is_evaluation: Whether the round returns the state as it came, because the computation returns results alone.
    """

    next: Any
    initialize: Optional[Any]
    is_evaluation: bool = False


def subject_of(computation: Any) -> Subject:
    """Finds the round in a process, or adds to a computation the state that it does not return.

    Raises:
      ProblemError: `plan_invalid`, if `computation` does not have a signature that a round can have.
    """
    is_process = hasattr(computation, "next") and hasattr(computation, "initialize")
    round_ = computation.next if is_process else computation
    initialize = computation.initialize if is_process else None
    refusals.check_signature(round_)
    signature = round_.type_signature
    if isinstance(signature.parameter, tff.FederatedType):
        return _without_state(round_)
    if refusals.is_evaluation(signature):
        return Subject(_with_state(round_), initialize, is_evaluation=True)
    return Subject(round_, initialize)


def _with_state(computation: Any) -> Any:
    """Wraps `(S@SERVER, {D}@CLIENTS) -> R@SERVER` so that it returns its state unchanged beside the result."""
    parameter = computation.type_signature.parameter

    def evaluate(state: Any, data: Any) -> Any:
        return state, _one_value(computation(state, data))

    return tff.federated_computation(evaluate, parameter[0], parameter[1])


def _without_state(computation: Any) -> Subject:
    """Wraps `{D}@CLIENTS -> R@SERVER` in a computation with an empty state."""
    empty = tff.FederatedType(tff.StructWithPythonType([], tuple), tff.SERVER)

    def stateless(state: Any, data: Any) -> Any:
        return state, _one_value(computation(data))

    return Subject(
        next=tff.federated_computation(stateless, empty, computation.type_signature.parameter),
        initialize=tff.federated_computation(lambda: tff.federated_value((), tff.SERVER)),
    )


def _one_value(result: Any) -> Any:
    return result if isinstance(result.type_signature, tff.FederatedType) else tff.federated_zip(result)
