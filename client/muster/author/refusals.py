"""Says in plain words why a computation does not fit one MapReduce round, where, and what to do instead.

What the signature tells is checked before TFF compiles anything; the rest is looked up in the computation once TFF has
refused it, since TFF's own texts are made of generated names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.computation.polymorphic_computation import PolymorphicComputation

from muster.wire.problems import ProblemError, ProblemType

from .calls import Call, Calls, calls_of

_ROUND = "(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)"
_WANTED = f"A round is {_ROUND}, or {{D}}@CLIENTS -> R@SERVER without a state"
_TYPE_LENGTH = 200  # characters of a type in a message

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
            "The types of the computation's arguments are not given. Give them to the decorator: "
            "@tff.federated_computation(state_type, data_type)"
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
    _check_results(signature.result)
    _check_state(parameter[0], signature.result[0])


def explain(error: Exception, computation: Any) -> ProblemError:
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
        calls = calls_of(computation)
    except (
        TypeError,
        ValueError,
        NotImplementedError,
    ):  # TFF refuses what this form would show: its own reason must do
        calls = Calls(lines={}, results=())
    for finding in (_select, _unknown_operator, _several_passes, _other_code):
        for reason in finding(calls):
            return _refusal(reason)
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".:")
    return _refusal(
        f"TFF can't bring the computation into one MapReduce round and gives as its reason: {type(error).__name__}: {first}"
    )


def _check_stateless(parameter: Any, result: Any) -> None:
    if parameter.placement is not tff.CLIENTS:
        raise _refusal(
            f"The only argument, {_type(parameter)}, is at the server, so there is nothing for clients to do. {_WANTED}"
        )
    parts = [(name, item) for name, item in _elements(result)] if isinstance(result, tff.StructType) else [("", result)]
    if not parts:
        raise _refusal("The computation has no result: return what the server shall get from the clients")
    for at, (name, item) in enumerate(parts):
        what = "the result" if len(parts) == 1 else _result(at, name)
        _check_at_server(item, what)


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
            f"{_argument(0, state_name)} is at the clients, {_type(state)}, where a round has the server state. "
            "Take the server state first and the clients' data second"
        )
    for at, (name, item) in enumerate(arguments):
        if not isinstance(item, tff.FederatedType):
            raise _refusal(
                f"{_argument(at, name)} has no placement: {_type(item)}. A round takes the server state placed at the server "
                "and the data placed at the clients: declare it with tff.FederatedType"
            )
    if not _is_at(data, tff.CLIENTS):
        raise _refusal(
            f"{_argument(1, data_name)} is at the server, {_type(data)}, where a round has the clients' data, so there is nothing "
            f"for clients to do. {_WANTED}. Put what else the server needs into its state"
        )


def _check_results(result: Any) -> None:
    if isinstance(result, tff.FederatedType) and isinstance(result.member, tff.StructType) and len(result.member) == 2:  # noqa: PLR2004
        raise _refusal(
            f"The computation returns one value with two fields, {_type(result)}, and a round returns two values, the next "
            "state and the result, each placed at the server. Return them as a pair, without tff.federated_zip"
        )
    if not isinstance(result, tff.StructType):
        raise _refusal(
            f"The computation returns one value, {_type(result)}, and a round returns two: the next state and a result. If there is no "
            "result, return the state and tff.federated_value((), tff.SERVER)"
        )
    results = _elements(result)
    if len(results) != 2:  # noqa: PLR2004
        raise _refusal(
            f"The computation returns {len(results)} values{_listed(results)}, and a round returns two: the next state and a "
            "result. Join what belongs to the result with tff.federated_zip"
        )
    for at, (name, item) in enumerate(results):
        _check_at_server(item, _result(at, name))


def _check_at_server(item: Any, what: str) -> None:
    upper = what[0].upper() + what[1:]
    if _is_at(item, tff.CLIENTS):
        raise _refusal(
            f"{upper} is at the clients, {_type(item)}: a round gives only aggregates away, and nothing that a client has for itself. "
            "Aggregate it (tff.federated_sum, tff.federated_mean, …), or leave it out"
        )
    if not _is_at(item, tff.SERVER):
        raise _refusal(
            f"{upper} has no placement: {_type(item)}. Place it at the server with tff.federated_value or tff.federated_eval, and join "
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
    yield path, _type(before), _type(after)


def _same_but_shape(before: Any, after: Any) -> bool:
    found = [before, after]
    while all(isinstance(item, tff.StructType) for item in found) and len(found[0]) == len(found[1]):
        pairs = [(one, other) for one, other in zip(found[0], found[1]) if not one.is_assignable_from(other)]
        if not pairs:
            return False
        found = list(pairs[0])
    return all(isinstance(item, tff.TensorType) for item in found) and found[0].dtype == found[1].dtype


def _select(calls: Calls) -> Iterator[str]:
    for call in calls.lines.values():
        if call.intrinsic in _SELECTS:
            yield (
                f"The computation calls tff.{call.intrinsic}, with which each client fetches slices of its own choice, {_type(call.type)}. A round "
                "has one broadcast, the same for all clients. Broadcast the whole value with tff.federated_broadcast and let the "
                "client take its slices"
            )


def _unknown_operator(calls: Calls) -> Iterator[str]:
    for call in calls.lines.values():
        for operator in call.operators:
            if operator not in _KNOWN and not operator.startswith("generic_"):
                yield (
                    f"The computation calls tff.{operator}, which MapReduceForm does not know. Write that step in TensorFlow "
                    "(@tff.tensorflow.computation) and apply it with tff.federated_map, or use another aggregation"
                )


def _several_passes(calls: Calls) -> Iterator[str]:
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


def _other_code(calls: Calls) -> Iterator[str]:
    for call in calls.lines.values():
        for block in call.compiled:
            kind = block.proto.WhichOneof("computation")
            if kind != "tensorflow":
                yield (
                    f"A local computation of the type {_type(block.type_signature)} is made of {kind.upper()}, and a plan is made of TensorFlow "
                    "graphs. Write it with @tff.tensorflow.computation"
                )


def _value(call: Call) -> str:
    return f"a value of the type {_type(call.type.member if isinstance(call.type, tff.FederatedType) else call.type)}"


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


def _result(at: int, name: str) -> str:
    return ("the state that is returned" if at == 0 else "the second result") + (f" ({name})" if name else "")


def _listed(items: list[tuple[str, Any]]) -> str:
    names = [name for name, _ in items if name]
    return f" ({', '.join(names)})" if len(names) == len(items) and names else ""


def _list(items: list[str]) -> str:
    lower = [item[0].lower() + item[1:] for item in items]
    return " and ".join([", ".join(lower[:-1]), lower[-1]])


def _type(type_: Any) -> str:
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
