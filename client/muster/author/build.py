"""Compiles a TFF computation to a plan via `MapReduceForm` (`tff.backends.mapreduce`).

Runs nothing in TFF's own runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import compiler

import muster
from muster.author import folds, randomness
from muster.author.canonical import CanonicalGraph, canonicalize
from muster.author.first_state import FirstState
from muster.author.map_reduce_form import run_without_arguments, tensor_specs, tensorflow_proto, type_leaves
from muster.author.refusals import explain_compilation_error
from muster.author.round_computation import RoundComputation, extract_round
from muster.author.secure import SECURE_SLOTS, SecureSumsError, build_clear_sums, escape_secure_names
from muster.author.types import bind_leaves, bind_tensors, field_bindings, to_type
from muster.runtime.graph_check import check_plan_graphs
from muster.runtime.graphs import load_graph
from muster.runtime.ops import check_graph
from muster.runtime.paths import leaves
from muster.wire.manifest import (
    Binding,
    Part,
    PlanManifest,
    Release,
    Stage,
    Stages,
    TensorBinding,
    Type,
)
from muster.wire.plan import Plan, part_of
from muster.wire.tensors import encode

# Exceptions of TFF 0.87 for a computation that does not fit the form. Each has several causes.
_COMPILATION_ERRORS = (
    TypeError,
    ValueError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
    LookupError,
    compiler.MapReduceFormCompilationError,
)


def build_plan(
    computation: Any,
    *,
    name: Optional[str] = None,
    initial_state: Any = None,
    allow_clear_secure_sums: bool = False,
    release: Optional[Release] = None,
    seed: Optional[int] = None,
) -> Plan:
    """Compiles a computation.

    **Addresses.** Tracing a computation again, in this process or another, yields the same graphs
    byte for byte: names that TensorFlow, Keras and TFF draw from counters and random identifiers
    are replaced. The plan's address is then the same too, if its initial state is: pass
    `initial_state` or `seed`. Exceptions: initial states that read the clock (rotations,
    distributed and tree-aggregated differential privacy), values that the author's own Python code
    draws during tracing (a Keras model draws its weights then: `tf.keras.utils.set_random_seed`
    fixes them), and other versions of TFF or TensorFlow.

    Args:
      computation: A `tff.learning.templates.LearningProcess`, a `tff.templates.IterativeProcess`, a
        computation `(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)`, one without server state,
        `{D}@CLIENTS -> R@SERVER`, or an evaluation, `(S@SERVER, {D}@CLIENTS) -> R@SERVER`, whose
        state stays as it is.
      name: The plan's name, for display.
      initial_state: The state before the first round: a value of the type `S`, a computation `() ->
        S@SERVER`, a checkpoint's tensors by name (as `Operator.download_checkpoint` returns them),
        or the `Path` of a checkpoint's file. It replaces the state that a process initializes. A
        plain computation with a state and an evaluation require it. It is drawn once, here, and
        stored in the plan.
      allow_clear_secure_sums: Whether secure sums may be summed in the clear. Muster has no secure
        aggregation, so without this a computation with secure sums is refused.
      release: The floor for every task of the plan: the fewest updates in a result, the most
        rounds, the separation. The plan's address covers it, and coordinators apply the stricter of
        it and the task's policy. None: no floor.
      seed: Seed of a random initial state.

    Returns:
      The plan.

    Raises:
      ProblemError: `plan_invalid`, if the computation does not fit one MapReduce round, with the
        reason and the place.
      SecureSumsError: The computation requests secure sums.

    Warns:
      HyperparameterWarning: `initial_state` holds other hyperparameters than the process.
    """
    round_computation = extract_round(computation)
    try:
        form = tff.backends.mapreduce.get_map_reduce_form_for_computation(round_computation.next)
    except _COMPILATION_ERRORS as error:
        # `from None` suppresses TFF's traceback, which would be printed above this message. It is
        # still available as `__context__`.
        raise explain_compilation_error(error, round_computation.next) from None
    first = FirstState(computation, round_computation, given=initial_state, seed=seed)
    return _Builder(round_computation, form, name=name or "computation").build(
        first, allow_clear_secure_sums=allow_clear_secure_sums, release=release
    )


class _Builder:
    """Builder of one plan: collects its parts and its manifest.

    Args:
      round_computation: The round to compile.
      form: Its `MapReduceForm`.
      name: The plan's name.
    """

    def __init__(self, round_computation: RoundComputation, form: Any, *, name: str) -> None:
        self._round_computation = round_computation
        self._form = form
        self._name = name
        self._parts: dict[str, bytes] = {}
        signature = round_computation.next.type_signature
        self._state_type: Type = to_type(signature.parameter[0])
        self._data_type: Type = to_type(signature.parameter[1])
        self._result_type: Type = to_type(signature.result[1])
        self._state = type_leaves(form.prepare.type_signature.parameter, root="state")
        self._data = list(leaves(self._data_type, root="data"))
        self._broadcast = type_leaves(form.prepare.type_signature.result, root="broadcast")
        plain, *self._slots = [
            to_type(item) for _, item in tff.structure.iter_elements(form.work.type_signature.result)
        ]
        self._plain = list(leaves(escape_secure_names(plain), root="update"))
        self._secure = [list(leaves(slot, root="", prefix=kind)) for slot, (kind, _) in zip(self._slots, SECURE_SLOTS)]
        self._accumulator = type_leaves(form.accumulate.type_signature.parameter[0], root="accumulator")
        self._aggregate = type_leaves(form.report.type_signature.result, root="aggregate")
        self._result = list(leaves(self._result_type, root="result"))

    def build(self, first: FirstState, *, allow_clear_secure_sums: bool, release: Optional[Release]) -> Plan:
        secure = [leaf for slot in self._secure for leaf in slot]
        if secure and not allow_clear_secure_sums:
            raise SecureSumsError(self._name, [path for path, _ in secure])
        stages = self._stages()
        randomness.check_draws_not_duplicated(
            self._graph(stages.prepare),
            self._graph(stages.update),
            prepare_stage=stages.prepare,
            update_stage=stages.update,
            computation=self._round_computation.next,
        )
        zero = run_without_arguments(self._form.zero, value="accumulator", result=self._accumulator)
        rules = folds.prove_folds(
            self._graph(stages.accumulate),
            self._graph(stages.merge),
            accumulate_stage=stages.accumulate,
            merge_stage=stages.merge,
            zero=zero,
        )
        manifest = PlanManifest(
            name=self._name,
            made_by=f"muster {muster.__version__}, tensorflow-federated {tff.__version__}, tensorflow {tf.__version__}",
            stages=stages,
            state=tensor_specs(self._state),
            broadcast=tensor_specs(self._broadcast),
            update=tensor_specs(self._plain + secure),
            accumulator=tensor_specs(self._accumulator),
            result=tensor_specs(self._result),
            data=self._data_type,
            state_type=self._state_type,
            result_type=self._result_type,
            folds=rules,
            clear_sums=build_clear_sums(self._form, self._slots, self._secure),
            initial_state=self._add_part(encode(first.tensors(self._name, self._graph(stages.update), stages.update))),
            zero=self._add_part(encode(zero)),
            release=release,
        )
        plan = Plan(manifest, self._parts)
        plan.check_complete()
        check_plan_graphs(plan)
        return plan

    def _stages(self) -> Stages:
        """Returns the seven stages, with the bindings of their inputs and outputs."""
        graph = {name: tensorflow_proto(getattr(self._form, name)) for name in Stages.model_fields}
        work_inputs, work_outputs = field_bindings(graph["work"].parameter), field_bindings(graph["work"].result)
        update_inputs = field_bindings(graph["update"].parameter)
        update_outputs = field_bindings(graph["update"].result)
        accumulate_inputs, merge_inputs = (field_bindings(graph[name].parameter) for name in ("accumulate", "merge"))
        # The aggregate and the three secure sums are one argument of `update`, a structure of four.
        aggregate_input, *sum_inputs = field_bindings(update_inputs[1])
        uploaded = bind_tensors(self._plain, work_outputs[0])
        for slot, binding in zip(self._secure, work_outputs[1:]):
            uploaded += bind_tensors(slot, binding)
        sums = tuple(item for slot, binding in zip(self._secure, sum_inputs) for item in bind_leaves(slot, binding))
        inputs: dict[str, dict[str, tuple[Binding, ...]]] = {
            "prepare": {"state": bind_leaves(self._state, graph["prepare"].parameter)},
            "work": {
                "data": bind_leaves(self._data, work_inputs[0]),
                "broadcast": bind_leaves(self._broadcast, work_inputs[1]),
            },
            "zero": {},
            "accumulate": {
                "accumulator": bind_leaves(self._accumulator, accumulate_inputs[0]),
                "update": bind_leaves(self._plain, accumulate_inputs[1]),
            },
            "merge": {
                "left": bind_leaves(self._accumulator, merge_inputs[0]),
                "right": bind_leaves(self._accumulator, merge_inputs[1]),
            },
            "report": {"accumulator": bind_leaves(self._accumulator, graph["report"].parameter)},
            "update": {
                "state": bind_leaves(self._state, update_inputs[0]),
                "aggregate": bind_leaves(self._aggregate, aggregate_input),
                "clear_sums": sums,
            },
        }
        folded = {
            name: {"accumulator": bind_tensors(self._accumulator, graph[name].result)}
            for name in ("zero", "accumulate", "merge")
        }
        outputs = {
            **folded,
            "prepare": {"broadcast": bind_tensors(self._broadcast, graph["prepare"].result)},
            "work": {"update": uploaded},
            "report": {"aggregate": bind_tensors(self._aggregate, graph["report"].result)},
            "update": {
                "state": bind_tensors(self._state, update_outputs[0]),
                "result": bind_tensors(self._result, update_outputs[1]),
            },
        }
        return Stages(
            **{
                name: self._stage(name, graph[name], inputs=inputs[name], outputs=outputs[name])
                for name in Stages.model_fields
            }
        )

    def _stage(
        self,
        name: str,
        computation: Any,
        *,
        inputs: Mapping[str, tuple[Binding, ...]],
        outputs: Mapping[str, tuple[TensorBinding, ...]],
    ) -> Stage:
        canonical = _canonical(computation.graph_def.value, stage=name)
        return Stage(
            graph=self._add_part(canonical.graph.SerializeToString(deterministic=True)),
            inputs={value: tuple(_rename(item, canonical) for item in bindings) for value, bindings in inputs.items()},
            outputs={
                value: tuple(_rename(item, canonical) for item in bindings) for value, bindings in outputs.items()
            },
            initialize=canonical.tensor(computation.initialize_op) if computation.initialize_op else None,
        )

    def _add_part(self, data: bytes) -> Part:
        part = part_of(data)
        self._parts[part.sha256] = data
        return part

    def _graph(self, stage: Stage) -> Any:
        return load_graph(self._parts[stage.graph.sha256])


def _rename(binding: Any, canonical: CanonicalGraph) -> Any:
    """Returns the same binding with the tensor's new name."""
    return binding.model_copy(update={"tensor": canonical.tensor(binding.tensor)})


def _canonical(graph: bytes, *, stage: str) -> CanonicalGraph:
    """Returns a stage's graph in canonical form, after a check for forbidden operations."""
    graph_def = load_graph(graph)
    check_graph(graph_def, stage=stage)
    return canonicalize(graph_def)
