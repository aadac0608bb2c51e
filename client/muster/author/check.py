"""Runs a computation in TFF itself and as a plan, side by side: how an author comes to trust the compilation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Union

import numpy as np

from muster.runtime.data import adapt
from muster.runtime.fold import Accumulator, Fold
from muster.runtime.stages import Runtime, UpdateResult
from muster.wire.tensors import Array

from . import native
from .build import build_plan, subject_of
from .restore import restore_state

Clients = Sequence[Any]  # one entry of data for each client
RoundData = Union[Clients, Callable[[int], Clients]]
_CHUNK = 3  # updates to a partial: small, so that a few clients already make several merges


@dataclass(frozen=True)
class Difference:
    """How far two values are apart.

    Attributes:
      absolute: The largest absolute difference of any element; infinite where a shape, a string or a finiteness differs.
      relative: The largest difference of a tensor's element over the tensor's largest magnitude.
      path: The tensor with the largest relative difference; empty where there is none.
    """

    absolute: float = 0.0
    relative: float = 0.0
    path: str = ""


@dataclass(frozen=True)
class RoundDifference:
    """How far the plan is from TFF after one round (counted from 1)."""

    round: int
    state: Difference
    result: Difference


def check_plan(
    computation: Any,
    data: RoundData,
    *,
    rounds: int = 3,
    initial_state: Any = None,
    allow_clear_secure_sums: bool = False,
) -> list[RoundDifference]:
    """Compares, round by round; each round starts from the state that its own side has reached.

    Args:
      computation: See `build_plan`.
      data: The clients' data of every round, or a function of the round's number (from 1) that gives it.
      rounds: How many rounds.
      initial_state: See `build_plan`.
      allow_clear_secure_sums: See `build_plan`.

    Returns:
      One difference for each round. A computation that draws at random differs by what it draws.

    Raises:
      ProblemError: see `build_plan`; or data that does not match.
    """
    plan = build_plan(computation, initial_state=initial_state, allow_clear_secure_sums=allow_clear_secure_sums)
    runtime = Runtime(plan)
    tensors = plan.initial_state()
    subject = subject_of(computation)
    found = []
    with native.running():
        state = restore_state(subject.next, tensors)
        for number in range(1, rounds + 1):
            clients = list(data(number) if callable(data) else data)
            state, result = subject.next(state, clients)
            update = run_round(runtime, tensors, clients)
            tensors = update.state
            found.append(
                RoundDifference(
                    round=number,
                    state=difference(adapt(state, plan.manifest.state_type, root="state").tensors, update.state),
                    result=difference(adapt(result, plan.manifest.result_type, root="result").tensors, update.result),
                )
            )
    return found


def run_round(runtime: Runtime, state: Mapping[str, Array], clients: Clients, *, chunk: int = _CHUNK) -> UpdateResult:
    """One round as the coordinator runs it: each chunk of updates into a partial, the partials into one, the update.

    Args:
      runtime: The plan's.
      state: The server state by name.
      clients: The clients' data.
      chunk: Updates to a partial.

    Returns:
      The next state and the result.
    """
    broadcast = runtime.prepare(state)
    fold = Fold(runtime.plan.manifest, zero=runtime.plan.zero(), tensorflow=lambda: runtime)
    total: Accumulator = fold.start()
    for first in range(0, len(clients), chunk):
        partial = fold.start()
        for client in clients[first : first + chunk]:
            partial.add(runtime.work(client, broadcast))
        total.merge(partial.tensors())
    folded = fold.split(total.tensors())
    return runtime.update(state, runtime.report(folded.accumulator), folded.clear_sums)


def difference(expected: Mapping[str, Array], found: Mapping[str, Array]) -> Difference:
    """The largest difference of two values, tensor by tensor."""
    worst = Difference()
    absolute = 0.0
    for path in expected.keys() | found.keys():
        one = _difference(expected.get(path), found.get(path))
        absolute = max(absolute, one.absolute)
        if one.relative > worst.relative:
            worst = Difference(relative=one.relative, path=path)
    return Difference(absolute=absolute, relative=worst.relative, path=worst.path)


def _difference(expected: Any, found: Any) -> Difference:
    infinite = Difference(absolute=np.inf, relative=np.inf)
    if expected is None or found is None or expected.shape != found.shape or expected.dtype != found.dtype:
        return infinite
    if expected.dtype.kind in "Ob":
        return Difference() if np.array_equal(expected, found) else infinite
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = expected.astype(wide), found.astype(wide)
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True) or not np.isfinite(right[finite]).all():
        return infinite
    if not finite.any():
        return Difference()
    absolute = float(np.abs(left[finite] - right[finite]).max())
    scale = float(max(np.abs(left[finite]).max(), np.abs(right[finite]).max()))
    return Difference(absolute=absolute, relative=absolute / scale if absolute else 0.0)
