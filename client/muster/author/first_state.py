"""Determines the state before the first round.

A given state is compared with the process's own state: different hyperparameters cause a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

import tensorflow_federated as tff

from muster.author.checkpoint_file import read_tensors
from muster.author.graph_wiring import Wiring, unchanged_source
from muster.author.map_reduce_form import run_without_arguments, tensor_specs, type_leaves
from muster.author.refusals import type_text
from muster.author.round_computation import RoundComputation
from muster.author.types import to_type
from muster.runtime.data import adapt
from muster.runtime.values import check_tensors
from muster.wire.manifest import Stage, TensorSpec
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array

_ADVICE = (
    "To use the process's own values and take only the weights from the state, pass as initial_state (on the command "
    "line, as --initial-state module:function) "
    "process.set_model_weights(process.initialize(), process.get_model_weights(restore_state(process, checkpoint)))"
)
_TAKE_WEIGHTS = (
    "The state of another process can't be used as a whole. To start from its weights, pass initial_state="
    "process.set_model_weights(process.initialize(), "
    "old_process.get_model_weights(restore_state(old_process, checkpoint)))"
)
_MODEL = "global_model_weights/"  # prefix of the model in the state of a tff.learning process
_MAX_SHOWN = 5  # hyperparameters in a warning, fields in an error


@dataclass(frozen=True)
class Hyperparameter:
    """Hyperparameter whose value in the given state differs from the process's.

    Attributes:
      path: Its name in the state, such as `client_work/learning_rate`.
      given: Its value in the given state. The rounds use this one.
      own: Its value in the state that the process initializes.
    """

    path: str
    given: Any
    own: Any


class HyperparameterWarning(UserWarning):
    """Warning that the given initial state holds other hyperparameters than the process.

    The state's are used.

    Attributes:
      differing: The hyperparameters.
    """

    def __init__(self, differing: tuple[Hyperparameter, ...], *, advice: str = "") -> None:
        shown = [
            f"{item.path} is {item.given!s} in the given state, but this process starts with {item.own!s}"
            for item in differing[:_MAX_SHOWN]
        ]
        more = f" (and {len(differing) - _MAX_SHOWN} more)" if len(differing) > _MAX_SHOWN else ""
        super().__init__(f"{'; '.join(shown)}{more}. The rounds use the given state. {advice}".rstrip())
        self.differing = differing


class FirstState:
    """Source of a plan's first state.

    Args:
      computation: The author's computation, for advice in errors.
      subject: The compiled round.
      given: The author's `initial_state`; None for the state that the process initializes.
      seed: Seed of a random state.
    """

    def __init__(
        self, computation: Any, round_computation: RoundComputation, *, given: Any, seed: Optional[int]
    ) -> None:
        self._round_computation = round_computation
        self._given = given
        self._seed = seed
        self._is_learning = hasattr(computation, "set_model_weights")
        state_type = round_computation.next.type_signature.parameter[0]
        self._type = to_type(state_type)
        self._type_text = type_text(state_type.member)
        self._leaves = type_leaves(state_type, root="state")

    @cached_property
    def _specs(self) -> tuple[TensorSpec, ...]:
        return tensor_specs(self._leaves)

    def tensors(self, name: str, update_graph: Any, update_stage: Stage) -> dict[str, Array]:
        """Returns the state by tensor name.

        Args:
          name: The plan's name, for errors.
          update_graph: The `GraphDef` of `update`, which shows the values that a state carries
            unchanged through all rounds.
          update_stage: Binds `state` to `state`.

        Raises:
          ProblemError: `plan_invalid`, if there is no state, or its type is not the computation's.

        Warns:
          HyperparameterWarning: The given state holds other hyperparameters than the process.
        """
        if self._given is None:
            return self._initialized(name)
        given = self._run(self._given) if isinstance(self._given, tff.Computation) else self._adapted(name)
        if self._round_computation.initialize is not None and not self._round_computation.is_evaluation:
            self._warn_of_differences(given, self._initialized(name), constant_scalars(update_graph, update_stage))
        return given

    def _initialized(self, name: str) -> dict[str, Array]:
        if self._round_computation.initialize is not None:
            return self._run(self._round_computation.initialize)
        if not self._leaves:
            return {}
        advice = (
            "an evaluation takes the model that it evaluates, for example a checkpoint of its training"
            if self._round_computation.is_evaluation
            else "a value, a checkpoint or a computation without arguments. Or pass a "
            "tff.templates.IterativeProcess(initialize, next), which computes its own"
        )
        raise ProblemError(
            ProblemType.PLAN_INVALID,
            f"{name} takes a server state of the type {self._type_text} but does not define the first one. "
            f"Pass initial_state (on the command line --initial-state): {advice}",
        )

    def _run(self, computation: Any) -> dict[str, Array]:
        try:
            initialize = tff.backends.mapreduce.get_state_initialization_computation(computation)
        except (TypeError, ValueError) as error:
            raise ProblemError(
                ProblemType.PLAN_INVALID,
                f"initial_state is a computation of the type {type_text(computation.type_signature)}, but it must take "
                f"no argument and return the state placed at the server, {self._type_text}@SERVER",
            ) from error
        return check_tensors(
            run_without_arguments(initialize, value="state", result=self._leaves, seed=self._seed),
            self._specs,
            what="initial state",
            problem=ProblemType.PLAN_INVALID,
        )

    def _adapted(self, name: str) -> dict[str, Array]:
        """Returns the author's state, given as a value, by tensor name or as a file."""
        paths = {spec.path for spec in self._specs}
        source = self._read(paths)
        by_name = isinstance(source, Mapping) and any(str(key) in paths and "/" in str(key) for key in source)
        try:
            if not by_name:
                return adapt(source, self._type, root="state").tensors
        except ProblemError as error:
            by_name = isinstance(source, Mapping) and set(source) == paths
            refusal = error
        if by_name:
            try:
                return check_tensors(source, self._specs, what="state")
            except ProblemError as error:
                refusal = error
        reasons = "; ".join(f"{field.path}: {field.reason}" for field in refusal.fields[:_MAX_SHOWN])
        more = f" (and {len(refusal.fields) - _MAX_SHOWN} more)" if len(refusal.fields) > _MAX_SHOWN else ""
        is_another = isinstance(source, Mapping) and set(source) != paths
        advice = f". {_TAKE_WEIGHTS}" if self._is_learning and is_another else ""
        raise ProblemError(
            ProblemType.PLAN_INVALID,
            f"initial_state does not fit the state of {name}: {reasons}{more}{advice}",
            fields=refusal.fields,
        )

    def _read(self, paths: set[str]) -> Any:
        """Returns the author's state, read if it is a file.

        For an evaluation, only the model of a checkpoint.
        """
        if not isinstance(self._given, (Path, Mapping)):
            return self._given
        try:
            source = read_tensors(self._given, what="initial state")
        except ProblemError as error:
            raise ProblemError(ProblemType.PLAN_INVALID, error.detail) from None
        if self._round_computation.is_evaluation and paths and all(f"{_MODEL}{path}" in source for path in paths):
            return {path: source[f"{_MODEL}{path}"] for path in paths}
        return source

    def _warn_of_differences(self, given: Mapping[str, Array], own: Mapping[str, Array], paths: frozenset[str]) -> None:
        differing = tuple(
            Hyperparameter(path, given[path][()], own[path][()])
            for path in given
            if path in paths and given[path].shape == own[path].shape and not _equal(given[path], own[path])
        )
        if differing:
            advice = _ADVICE if self._is_learning else ""
            warnings.warn(HyperparameterWarning(differing, advice=advice), stacklevel=5)


def constant_scalars(graph: Any, stage: Stage) -> frozenset[str]:
    """Returns the names of the scalars in the state that no round changes.

    Examples are learning rates, momenta and clipping norms.

    Args:
      graph: The `GraphDef` of `update`.
      stage: Binds `state` to `state`.
    """
    wiring = Wiring(graph)
    inputs = {binding.path: binding.tensor.partition(":")[0] for binding in stage.inputs["state"]}
    return frozenset(
        binding.path
        for binding in stage.outputs["state"]
        if binding.shape == () and unchanged_source(wiring, binding.tensor) == inputs[binding.path]
    )


def _equal(one: Array, other: Array) -> bool:
    return bool(one == other) or (one.dtype.kind == "f" and bool(one != one) and bool(other != other))  # noqa: PLR0124  NaN
