"""Says in plain words why a computation does not fit one MapReduce round, where, and what to do instead.

What the signature tells is checked before TFF compiles anything; the rest is looked up in the computation once TFF has
refused it, since TFF's own texts are made of generated names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.computation.polymorphic_computation import PolymorphicComputation

from muster.author.call_graph import CallGraph, FederatedCall, build_call_graph
from muster.wire.problems import ProblemError, ProblemType

_ROUND = "(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)"
_WANTED = f"A round is {_ROUND}, or {{D}}@CLIENTS -> R@SERVER without a state"
_TYPE_LENGTH = 200  # characters of a type in a message
_EMPTY = "tff.federated_value((), tff.SERVER)"
# Placeholder names in TFF's texts for unnamed computations: `_var1`, `comp#d344cd56`, `fc_f_symbol_0`, `Identity:0`.
_GENERATED = re.compile(
    r"_[a-z]*\d|#[0-9a-f]|\b[a-z]+_symbol\b|->|<lambda>|\(let\b|building_block|_blocks?\.|\w:\d|Tensor\("
)

# What MapReduceForm has, under the names that TFF's Python functions have; federated_mean and its like are made of these.
_SELECTS = frozenset({"federated_select", "federated_secure_select"})


def check_signature(computation: Any) -> None:
    """Checks what the type of a computation tells: the arguments, the results, their placements, the state.

    Args:
      computation: A process's `next`, a computation `(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)`, or one without server state,
        `{D}@CLIENTS -> R@SERVER`, whose result may be a structure of values at the server.

    Raises:
      ProblemError: `plan_invalid`, with the argument or the result by its name, the reason and what to do instead.
    """
    if isinstance(computation, PolymorphicComputation):
        raise _refusal(
            "The types of the computation's arguments are not given. Give one for each argument to the decorator: "
            "@tff.federated_computation(tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(data_type, tff.CLIENTS)), or "
            "the clients' alone where there is no server state"
        )
    if not isinstance(computation, tff.Computation):
        raise _refusal(
            f"What was given is a {type(computation).__name__}, not a TFF computation. "
            "Give a tff.learning process, a tff.templates.IterativeProcess or a function with @tff.federated_computation"
        )
    signature = computation.type_signature
    parameter = signature.parameter
    if parameter is None:
        raise _refusal(f"The computation takes no argument, so there is nothing for clients to do. {_WANTED}")
    if isinstance(parameter, tff.FederatedType):
        _check_stateless(parameter, signature.result)
        return
    _check_arguments(_elements(parameter))
    if not is_evaluation(signature):
        _check_results(parameter[0], signature.result)
        _check_state(parameter[0], signature.result[0])


def is_evaluation(signature: Any) -> bool:
    """Returns whether a computation returns only results of the clients' data: `(S@SERVER, {D}@CLIENTS) -> R@SERVER`.

    No part of its result may be the state: neither a value of the state's type, nor the first of two values that could
    be a state whose type changes.

    Args:
      signature: A type whose arguments `check_signature` has passed.
    """
    state = signature.parameter[0].member
    parts = [item for _, item in _elements(signature.result)]
    if not parts or not all(_is_at(item, tff.SERVER) for item in parts):
        return False
    values = [item.member for item in parts]
    fields = [item for _, item in _elements(values[0])] if len(values) == 1 else values
    if any(state.is_assignable_from(value) for value in (*values, *fields)):
        return False
    return not (len(fields) == 2 and _resembles(state, fields[0]))  # noqa: PLR2004


def _resembles(before: Any, after: Any) -> bool:
    """Returns whether `after` may be the state `before` with another type: equal names, or tensors of equal rank."""
    if isinstance(before, tff.StructType) and isinstance(after, tff.StructType):
        return [name for name, _ in _elements(before)] == [name for name, _ in _elements(after)]
    if isinstance(before, tff.TensorType) and isinstance(after, tff.TensorType):
        return len(before.shape or ()) == len(after.shape or ())
    return False


def explain_compilation_error(error: Exception, computation: Any) -> ProblemError:
    """The reason why TFF did not compile a computation.

    Args:
      error: What `get_map_reduce_form_for_computation` raised.
      computation: What it was given.

    Returns:
      `plan_invalid`. Where the computation shows no reason that is known here, it quotes the first line of TFF's own.
    """
    if isinstance(error, ProblemError):
        return error
    try:
        calls = build_call_graph(computation)
    except (
        TypeError,
        ValueError,
        NotImplementedError,
    ):  # TFF refuses what this form would show: its own reason must do
        calls = CallGraph(lines={}, results=())
    for finding in (_select, _unknown_operator, _several_passes, _other_code):
        for reason in finding(calls):
            return _refusal(reason)
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
    if not first or _GENERATED.search(first):
        return _refusal(
            f"TFF can't bring the computation into one MapReduce round ({type(error).__name__}). A round broadcasts once, lets each "
            "client work, aggregates once and then computes at the server. To find the step that does not fit, build it with "
            "fewer steps; TFF's own text is the __context__ of this exception"
        )
    return _refusal(
        f"TFF can't bring the computation into one MapReduce round and gives as its reason: {type(error).__name__}: {first}"
    )


def _check_stateless(parameter: Any, result: Any) -> None:
    if parameter.placement is not tff.CLIENTS:
        raise _refusal(
            f"The only argument, {type_text(parameter)}, is at the server, so there is nothing for clients to do. {_WANTED}"
        )
    parts = [(name, item) for name, item in _elements(result)] if isinstance(result, tff.StructType) else [("", result)]
    if not parts:
        raise _refusal("The computation has no result: return what the server shall get from the clients")
    if len(parts) == 1:
        _check_at_server(parts[0][1], "the result", instead="")
        return
    for at, (name, item) in enumerate(parts):
        _check_at_server(item, f"result {at + 1}" + (f" ({name})" if name else ""), instead=", or leave it out")


def _check_arguments(arguments: list[tuple[str, Any]]) -> None:
    at_clients = [_argument(at, name) for at, (name, item) in enumerate(arguments) if _is_at(item, tff.CLIENTS)]
    if len(at_clients) > 1:
        raise _refusal(
            f"The computation takes {len(at_clients)} arguments from clients, {_list(at_clients)}: a client brings one value to a "
            "round. Make them one argument: a structure placed at clients with a field for each"
        )
    if len(arguments) != 2:  # noqa: PLR2004
        raise _refusal(
            f"The computation takes {len(arguments)} arguments{_listed(arguments)}, and a round takes two: the server state, then the "
            f"clients' data. {_WANTED}. Put what else the server needs into its state"
        )
    (state_name, state), (data_name, data) = arguments
    if _is_at(state, tff.CLIENTS):
        raise _refusal(
            f"{_argument(0, state_name)} is at the clients, {type_text(state)}, where a round has the server state. "
            "Take the server state first and the clients' data second"
        )
    for at, (name, item) in enumerate(arguments):
        if not isinstance(item, tff.FederatedType):
            raise _refusal(
                f"{_argument(at, name)} has no placement: {type_text(item)}. A round takes the server state placed at the server "
                "and the data placed at the clients: declare it with tff.FederatedType"
            )
    if not _is_at(data, tff.CLIENTS):
        raise _refusal(
            f"{_argument(1, data_name)} is at the server, {type_text(data)}, where a round has the clients' data, so there is nothing "
            f"for clients to do. {_WANTED}. Put what else the server needs into its state"
        )


def _check_results(state: Any, result: Any) -> None:
    if not isinstance(result, tff.StructType):
        _check_at_server(result, "the result", instead="")
        raise _one_value(state.member, result)
    results = _elements(result)
    if not results:
        raise _refusal(
            "The computation returns nothing, and a round returns two values: the next state and a result. Return the state and what "
            f"the clients' data are aggregated to; without a result, return {_EMPTY} in its place"
        )
    fitting = [at for at, (_, item) in enumerate(results) if state.is_assignable_from(item)]
    if fitting and 0 not in fitting:
        misplaced = _result(fitting[0], results[fitting[0]][0], of=len(results))
        raise _refusal(
            f"{misplaced[0].upper()}{misplaced[1:]} has the state's type, and the first has not. "
            "A round returns the next state first: put it first"
            + ("" if len(results) == 2 else " and join the others with tff.federated_zip")  # noqa: PLR2004
        )
    if len(results) != 2:  # noqa: PLR2004
        raise _refusal(
            f"The computation returns {len(results)} values{_listed(results)}, and a round returns two: the next state and a "
            "result. Join what belongs to the result with tff.federated_zip"
            if len(results) > 1
            else f"The computation returns one value in a structure{_listed(results)}, and a round returns two: the next state and a "
            f"result. Return the state beside it; without a result, return {_EMPTY} as the second"
        )
    _check_at_server(
        results[0][1],
        _result(0, results[0][0]),
        instead=", or return the state that was given",
    )
    _check_at_server(results[1][1], _result(1, results[1][0]), instead=f", or return {_EMPTY} in its place")


def _one_value(state: Any, result: Any) -> ProblemError:
    """Returns the error for one value at the server that may be the next state, hold it, or be a result."""
    beside = "If it is a result, return the state that was given beside it, (state, result)"
    fields = [item for _, item in _elements(result.member)]
    if state.is_assignable_from(result.member):
        return _refusal(
            f"The computation returns one value, {type_text(result)}, and a round returns two: the next state and a result. If it is the "
            f"next state, return it with an empty result, (state, {_EMPTY}). {beside}"
        )
    pair = len(fields) == 2  # noqa: PLR2004
    first = state.is_assignable_from(fields[0]) or (pair and _resembles(state, fields[0]))
    rest = "" if pair else " and join the others with tff.federated_zip"
    return _refusal(
        f"The computation returns one value with {'two' if pair else len(fields)} fields, {type_text(result)}, and a round returns two "
        "values, the next state and the result, each placed at the server. If one field is the next state, return "
        + ("them as a pair, without tff.federated_zip" if pair and first else f"that field first{rest}")
        + f". {beside}"
    )


def _check_at_server(item: Any, what: str, *, instead: str) -> None:
    upper = what[0].upper() + what[1:]
    if _is_at(item, tff.CLIENTS):
        raise _refusal(
            f"{upper} is at the clients, {type_text(item)}: a round gives only aggregates away, and nothing that a client has for itself. "
            f"Aggregate it (tff.federated_sum, tff.federated_mean, …){instead}"
        )
    if not _is_at(item, tff.SERVER):
        raise _refusal(
            f"{upper} has no placement: {type_text(item)}. Place it at the server with tff.federated_value or tff.federated_eval, and join "
            "several values with tff.federated_zip"
        )


def _check_state(before: Any, after: Any) -> None:
    if before.is_assignable_from(after):
        return
    where, one, other = next(_differences(before.member, after.member, "the state"))
    raise _refusal(
        f"The server state changes its type from round to round: {where} is {one} in the argument and {other} in the result, so the "
        "next round could not take what this one gives. Return the state with the type that it came with"
        + (". A dimension that changes is declared as None" if _same_but_shape(before.member, after.member) else "")
    )


def _differences(before: Any, after: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """The first places where `after` can't stand for `before`, with both types."""
    if isinstance(before, tff.StructType) and isinstance(after, tff.StructType):
        left, right = _elements(before), _elements(after)
        if [name for name, _ in left] == [name for name, _ in right]:
            for at, ((name, one), (_, other)) in enumerate(zip(left, right)):
                if not one.is_assignable_from(other):
                    inner = name or str(at)
                    yield from _differences(one, other, inner if path == "the state" else f"{path}/{inner}")
            return
    yield path, type_text(before), type_text(after)


def _same_but_shape(before: Any, after: Any) -> bool:
    found = [before, after]
    while all(isinstance(item, tff.StructType) for item in found) and len(found[0]) == len(found[1]):
        pairs = [(one, other) for one, other in zip(found[0], found[1]) if not one.is_assignable_from(other)]
        if not pairs:
            return False
        found = list(pairs[0])
    return all(isinstance(item, tff.TensorType) for item in found) and found[0].dtype == found[1].dtype


def _select(calls: CallGraph) -> Iterator[str]:
    for call in calls.lines.values():
        if call.intrinsic in _SELECTS:
            yield (
                f"The computation calls tff.{call.intrinsic}, with which each client fetches slices of its own choice, {type_text(call.type)}. A round "
                "has one broadcast, the same for all clients. Broadcast the whole value with tff.federated_broadcast and let the "
                "client take its slices"
            )


def _unknown_operator(calls: CallGraph) -> Iterator[str]:
    for call in calls.lines.values():
        for operator in call.operators:
            if operator not in _KNOWN and not operator.startswith("generic_"):
                yield (
                    f"The computation calls tff.{operator}, which MapReduceForm does not know. Write that step in TensorFlow "
                    "(@tff.tensorflow.computation) and apply it with tff.federated_map, or use another aggregation"
                )


def _several_passes(calls: CallGraph) -> Iterator[str]:
    for name, call in calls.lines.items():
        first = [found for found in calls.upstream(call.uses).values() if found.is_aggregate]
        if not call.is_broadcast or not first:
            continue
        second = [found for found in calls.lines.values() if found.is_aggregate and name in calls.upstream(found.uses)]
        again = f", and tff.{second[0].intrinsic} would aggregate what they make of it" if second else ""
        yield (
            f"The computation takes more than one pass over the clients: tff.{call.intrinsic} sends them {_value(call)} that depends on "
            f"tff.{first[-1].intrinsic}, which has to hear from all of them first{again}. A round broadcasts once, then "
            "aggregates once. Keep the first aggregate in the server state and use it in the next round"
        )


def _other_code(calls: CallGraph) -> Iterator[str]:
    for call in calls.lines.values():
        for block in call.compiled:
            kind = block.proto.WhichOneof("computation")
            if kind != "tensorflow":
                yield (
                    f"A local computation of the type {type_text(block.type_signature)} is made of {kind.upper()}, and a plan is made of TensorFlow "
                    "graphs. Write it with @tff.tensorflow.computation"
                )


def _value(call: FederatedCall) -> str:
    return (
        f"a value of the type {type_text(call.type.member if isinstance(call.type, tff.FederatedType) else call.type)}"
    )


def _elements(type_: Any) -> list[tuple[str, Any]]:
    return (
        [(name or "", item) for name, item in tff.structure.iter_elements(type_)]
        if isinstance(type_, tff.StructType)
        else [("", type_)]
    )


def _is_at(type_: Any, placement: Any) -> bool:
    return isinstance(type_, tff.FederatedType) and type_.placement is placement


def _argument(at: int, name: str) -> str:
    return f"Argument {at + 1}" + (f" ({name})" if name else "")


def _result(at: int, name: str, *, of: int = 2) -> str:
    what = f"result {at + 1}" if of > 2 else "the state that is returned" if at == 0 else "the second result"  # noqa: PLR2004
    return what + (f" ({name})" if name else "")


def _listed(items: list[tuple[str, Any]]) -> str:
    names = [name for name, _ in items if name]
    return f" ({', '.join(names)})" if len(names) == len(items) and names else ""


def _list(items: list[str]) -> str:
    lower = [item[0].lower() + item[1:] for item in items]
    return " and ".join([", ".join(lower[:-1]), lower[-1]])


def type_text(type_: Any) -> str:
    """Returns a TFF type as text for a message, truncated."""
    text = type_.compact_representation()
    return text if len(text) <= _TYPE_LENGTH else f"{text[:_TYPE_LENGTH]}…"


def _refusal(reason: str) -> ProblemError:
    return ProblemError(ProblemType.PLAN_INVALID, f"{reason}.")


_KNOWN = frozenset(
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
