"""Compiles a TFF computation to a plan, by way of `MapReduceForm` (`tff.backends.mapreduce`). Runs nothing natively."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.backends.mapreduce import compiler

import muster
from muster.runtime.data import adapt
from muster.runtime.graph_check import check_plan_graphs
from muster.runtime.graphs import load_graph
from muster.runtime.ops import check_graph
from muster.runtime.paths import leaves
from muster.runtime.values import check_tensors
from muster.wire.manifest import Binding, Part, PlanManifest, Release, Stage, Stages, Type
from muster.wire.plan import Plan, part_of
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array, encode

from . import folds, randomness, refusals
from .canonical import canonical
from .form import graph_of, run, specs, to_leaves
from .secure import SECURE_SLOTS, apart_from_secure, clear_sums, refuse
from .types import bind, bind_tensors, elements_of, to_type

# What TFF 0.87 raises where a computation does not fit the form; each class is used for several reasons.
_COMPILATION_ERRORS = (
    TypeError,
    ValueError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
    LookupError,
    compiler.MapReduceFormCompilationError,
)


@dataclass(frozen=True)
class Subject:
    """What is compiled: `next`, `(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)`, and where its first state comes from."""

    next: Any
    initialize: Optional[Any]


def subject_of(computation: Any) -> Subject:
    """Finds the round in a process, or wraps a computation without server state in one with an empty state.

    Raises:
      ProblemError: `plan_invalid`, if `computation` has not a signature that a round can have.
    """
    if hasattr(computation, "next") and hasattr(computation, "initialize"):
        refusals.check_signature(computation.next)
        return Subject(next=computation.next, initialize=computation.initialize)
    refusals.check_signature(computation)
    parameter = computation.type_signature.parameter
    if not isinstance(parameter, tff.FederatedType):
        return Subject(next=computation, initialize=None)
    empty = tff.FederatedType(tff.StructWithPythonType([], tuple), tff.SERVER)

    def stateless(state: Any, data: Any) -> Any:
        result = computation(data)
        return state, result if isinstance(result.type_signature, tff.FederatedType) else tff.federated_zip(result)

    return Subject(
        next=tff.federated_computation(stateless, empty, parameter),
        initialize=tff.federated_computation(lambda: tff.federated_value((), tff.SERVER)),
    )


def build_plan(
    computation: Any,
    *,
    name: Optional[str] = None,
    initial_state: Any = None,
    allow_clear_secure_sums: bool = False,
    release: Optional[Release] = None,
) -> Plan:
    """Compiles a computation.

    Args:
      computation: A `tff.learning.templates.LearningProcess`, a `tff.templates.IterativeProcess`, a computation
        `(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)`, or one without server state, `{D}@CLIENTS -> R@SERVER`.
      name: What people will call the plan.
      initial_state: The state before the first round: a value of the type `S`, or a computation `() -> S@SERVER`. A process
        brings its own, which this replaces; a plain computation with a state needs it. It is drawn once, here, and kept in
        the plan.
      allow_clear_secure_sums: Muster has no secure aggregation. A computation that asks for secure sums is refused unless
        this says that they may be summed in the clear.
      release: The floor for every task of the plan: the fewest updates in a result, the most rounds, the separation. The plan's address
        covers it, and coordinators apply the stricter of it and the task's policy. None: no floor.

    Returns:
      The plan. Compiling the same computation twice gives the same graphs; an initial state that is drawn at random differs.

    Raises:
      ProblemError: `plan_invalid`, if the computation does not fit one MapReduce round, with the reason and the place.
    """
    subject = subject_of(computation)
    try:
        form = tff.backends.mapreduce.get_map_reduce_form_for_computation(subject.next)
    except _COMPILATION_ERRORS as error:
        raise refusals.explain(error, subject.next) from error
    return _Builder(subject, form, name=name or "computation").build(
        initial_state=initial_state, allow_clear_secure_sums=allow_clear_secure_sums, release=release
    )


class _Builder:
    """Gathers one plan's parts."""

    def __init__(self, subject: Subject, form: Any, *, name: str) -> None:
        self._subject = subject
        self._form = form
        self._name = name
        self._parts: dict[str, bytes] = {}
        signature = subject.next.type_signature
        self._state_type: Type = to_type(signature.parameter[0])
        self._data_type: Type = to_type(signature.parameter[1])
        self._result_type: Type = to_type(signature.result[1])
        self._state = to_leaves(form.prepare.type_signature.parameter, root="state")
        self._data = list(leaves(self._data_type, root="data"))
        self._broadcast = to_leaves(form.prepare.type_signature.result, root="broadcast")
        plain, *self._slots = [
            to_type(item) for _, item in tff.structure.iter_elements(form.work.type_signature.result)
        ]
        self._plain = list(leaves(apart_from_secure(plain), root="update"))
        self._secure = [list(leaves(slot, root="", prefix=kind)) for slot, (kind, _) in zip(self._slots, SECURE_SLOTS)]
        self._accumulator = to_leaves(form.accumulate.type_signature.parameter[0], root="accumulator")
        self._aggregate = to_leaves(form.report.type_signature.result, root="aggregate")
        self._result = list(leaves(self._result_type, root="result"))

    def build(self, *, initial_state: Any, allow_clear_secure_sums: bool, release: Optional[Release]) -> Plan:
        secure = [leaf for slot in self._secure for leaf in slot]
        if secure and not allow_clear_secure_sums:
            raise refuse(self._name, secure)
        stages = self._stages()
        randomness.check_not_drawn_twice(
            self._graph(stages.prepare),
            self._graph(stages.update),
            prepare_stage=stages.prepare,
            update_stage=stages.update,
            computation=self._subject.next,
        )
        zero = run(self._form.zero, "accumulator", self._accumulator)
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
            state=specs(self._state),
            broadcast=specs(self._broadcast),
            update=specs(self._plain + secure),
            accumulator=specs(self._accumulator),
            result=specs(self._result),
            data=self._data_type,
            state_type=self._state_type,
            result_type=self._result_type,
            folds=rules,
            clear_sums=clear_sums(self._form, self._slots, self._secure),
            initial_state=self._keep(encode(self._initial_state(initial_state))),
            zero=self._keep(encode(zero)),
            release=release,
        )
        plan = Plan(manifest, self._parts)
        check_plan_graphs(plan)
        return plan

    def _stages(self) -> Stages:
        graph = {name: graph_of(getattr(self._form, name)) for name in Stages.model_fields}
        work_takes, work_gives = elements_of(graph["work"].parameter), elements_of(graph["work"].result)
        update_takes, update_gives = elements_of(graph["update"].parameter), elements_of(graph["update"].result)
        accumulate_takes, merge_takes = (elements_of(graph[name].parameter) for name in ("accumulate", "merge"))
        # The aggregate and the secure sums are one argument of `update`: a structure of four.
        aggregate_takes, *sums_take = elements_of(update_takes[1])
        uploaded = bind_tensors(self._plain, work_gives[0])
        for slot, binding in zip(self._secure, work_gives[1:]):
            uploaded += bind_tensors(slot, binding)
        sums = tuple(item for slot, binding in zip(self._secure, sums_take) for item in bind(slot, binding))
        inputs: dict[str, dict[str, tuple[Binding, ...]]] = {
            "prepare": {"state": bind(self._state, graph["prepare"].parameter)},
            "work": {"data": bind(self._data, work_takes[0]), "broadcast": bind(self._broadcast, work_takes[1])},
            "zero": {},
            "accumulate": {
                "accumulator": bind(self._accumulator, accumulate_takes[0]),
                "update": bind(self._plain, accumulate_takes[1]),
            },
            "merge": {
                "left": bind(self._accumulator, merge_takes[0]),
                "right": bind(self._accumulator, merge_takes[1]),
            },
            "report": {"accumulator": bind(self._accumulator, graph["report"].parameter)},
            "update": {
                "state": bind(self._state, update_takes[0]),
                "aggregate": bind(self._aggregate, aggregate_takes),
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
                "state": bind_tensors(self._state, update_gives[0]),
                "result": bind_tensors(self._result, update_gives[1]),
            },
        }
        return Stages(
            **{
                name: Stage(
                    graph=self._keep(_checked(graph[name].graph_def.value, stage=name)),
                    inputs=inputs[name],
                    outputs=outputs[name],
                    initialize=graph[name].initialize_op or None,
                )
                for name in Stages.model_fields
            }
        )

    def _keep(self, data: bytes) -> Part:
        part = part_of(data)
        self._parts[part.sha256] = data
        return part

    def _graph(self, stage: Stage) -> Any:
        return load_graph(self._parts[stage.graph.sha256])

    def _initial_state(self, initial_state: Any) -> dict[str, Array]:
        source = self._subject.initialize if initial_state is None else initial_state
        if source is None and self._state:
            raise ProblemError(
                ProblemType.PLAN_INVALID,
                f"{self._name} takes a server state of the type {self._subject.next.type_signature.parameter[0].member} and says "
                "not where the first one comes from: give initial_state, a value or a computation without arguments",
            )
        if isinstance(source, tff.Computation):
            made = tff.backends.mapreduce.get_state_initialization_computation(source)
            drawn = run(made, "state", self._state)
            return check_tensors(drawn, specs(self._state), what="initial state", problem=ProblemType.PLAN_INVALID)
        try:
            return adapt(source, self._state_type, root="state").tensors
        except ProblemError as error:
            reasons = "; ".join(f"{field.path}: {field.reason}" for field in error.fields)
            raise ProblemError(
                ProblemType.PLAN_INVALID, f"initial_state is no state of {self._name}: {reasons}", fields=error.fields
            ) from error


def _checked(graph: bytes, *, stage: str) -> bytes:
    """A stage's graph as the plan has it: without operations that no plan may have, and the same for every build."""
    graph_def = load_graph(graph)
    check_graph(graph_def, stage=stage)
    data: bytes = canonical(graph_def).SerializeToString(deterministic=True)
    return data
