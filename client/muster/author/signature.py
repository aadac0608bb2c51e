"""Checks that the type of a computation is that of one MapReduce round.

The checks run before TFF compiles anything. Each error names the argument or result, the reason and
the fix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.computation.polymorphic_computation import PolymorphicComputation

from muster.author.refusals import refusal, type_text
from muster.wire.problems import ProblemError

_ROUND = "(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)"
_SHAPE_OF_ROUND = f"A round is {_ROUND}, or {{D}}@CLIENTS -> R@SERVER without a state"
_EMPTY = "tff.federated_value((), tff.SERVER)"


def check_signature(computation: Any) -> None:
    """Checks the type of a computation: its arguments, its results, their placements, the state.

    Args:
      computation: A process's `next`, a computation `(S@SERVER, {D}@CLIENTS) -> (S@SERVER,
        R@SERVER)`, or one without server state, `{D}@CLIENTS -> R@SERVER`, whose result may be a
        structure of values at the server.

    Raises:
      ProblemError: `plan_invalid`, with the name of the argument or result, the reason and the fix.
    """
    if isinstance(computation, PolymorphicComputation):
        raise refusal(
            "The computation declares no types for its arguments. Pass one type for each argument to the decorator: "
            "@tff.federated_computation(tff.FederatedType(state_type, tff.SERVER), "
            "tff.FederatedType(data_type, tff.CLIENTS)), or only the type of the clients' data if there is no "
            "server state"
        )
    if not isinstance(computation, tff.Computation):
        raise refusal(
            f"The argument is a {type(computation).__name__}, not a TFF computation. Pass a tff.learning process, "
            "a tff.templates.IterativeProcess or a function decorated with @tff.federated_computation"
        )
    signature = computation.type_signature
    parameter = signature.parameter
    if parameter is None:
        raise refusal(f"The computation takes no argument, so there is nothing for clients to do. {_SHAPE_OF_ROUND}")
    if isinstance(parameter, tff.FederatedType):
        _check_stateless(parameter, signature.result)
        return
    _check_arguments(_elements(parameter))
    if not is_evaluation(signature):
        _check_results(parameter[0], signature.result)
        _check_state(parameter[0], signature.result[0])


def is_evaluation(signature: Any) -> bool:
    """Returns whether a computation is an evaluation: `(S@SERVER, {D}@CLIENTS) -> R@SERVER`.

    An evaluation returns only results of the clients' data. No value in its result may be the
    state: neither a value of the state's type, nor the first of two values that could be a state
    whose type changes.

    Args:
      signature: A type whose arguments `check_signature` accepts.
    """
    state = signature.parameter[0].member
    results = [item for _, item in _elements(signature.result)]
    if not results or not all(_is_at(item, tff.SERVER) for item in results):
        return False
    values = [item.member for item in results]
    fields = [item for _, item in _elements(values[0])] if len(values) == 1 else values
    if any(state.is_assignable_from(value) for value in (*values, *fields)):
        return False
    return not (len(fields) == 2 and _resembles(state, fields[0]))  # noqa: PLR2004


def _resembles(before: Any, after: Any) -> bool:
    """Returns whether `after` may be the state `before` with another type.

    It may if both have equal names, or are tensors of equal rank.
    """
    if isinstance(before, tff.StructType) and isinstance(after, tff.StructType):
        return [name for name, _ in _elements(before)] == [name for name, _ in _elements(after)]
    if isinstance(before, tff.TensorType) and isinstance(after, tff.TensorType):
        return len(before.shape or ()) == len(after.shape or ())
    return False


def _check_stateless(parameter: Any, result: Any) -> None:
    if parameter.placement is not tff.CLIENTS:
        raise refusal(
            f"The only argument, {type_text(parameter)}, is placed at the server, so there is nothing for clients "
            f"to do. {_SHAPE_OF_ROUND}"
        )
    results = _elements(result)
    if not results:
        raise refusal("The computation returns nothing. Return the aggregate of the clients' data")
    if len(results) == 1:
        _check_at_server(results[0][1], "the result", instead="")
        return
    for at, (name, item) in enumerate(results):
        _check_at_server(item, f"result {at + 1}" + (f" ({name})" if name else ""), instead=", or leave it out")


def _check_arguments(arguments: list[tuple[str, Any]]) -> None:
    at_clients = [_argument(at, name) for at, (name, item) in enumerate(arguments) if _is_at(item, tff.CLIENTS)]
    if len(at_clients) > 1:
        raise refusal(
            f"The computation takes {len(at_clients)} arguments from clients, {_join_names(at_clients)}, but a client "
            "contributes one value to a round. Make them one argument: a structure placed at the clients with a field "
            "for each"
        )
    if len(arguments) != 2:  # noqa: PLR2004
        raise refusal(
            f"The computation takes {len(arguments)} arguments{_names_in_brackets(arguments)}, but a round takes two: "
            f"the server state, then the clients' data. {_SHAPE_OF_ROUND}. Put other inputs of the server into "
            "its state"
        )
    (state_name, state), (data_name, data) = arguments
    if _is_at(state, tff.CLIENTS):
        raise refusal(
            f"{_argument(0, state_name)} is placed at the clients, {type_text(state)}, but a round takes the server "
            "state there. Take the server state first and the clients' data second"
        )
    for at, (name, item) in enumerate(arguments):
        if not isinstance(item, tff.FederatedType):
            raise refusal(
                f"{_argument(at, name)} has no placement: {type_text(item)}. A round takes the server state placed at "
                "the server and the data placed at the clients. Declare the placement with tff.FederatedType"
            )
    if not _is_at(data, tff.CLIENTS):
        raise refusal(
            f"{_argument(1, data_name)} is placed at the server, {type_text(data)}, but a round takes the clients' "
            f"data there, so there is nothing for clients to do. {_SHAPE_OF_ROUND}. "
            "Put other inputs of the server into its state"
        )


def _check_results(state: Any, result: Any) -> None:
    if not isinstance(result, tff.StructType):
        _check_at_server(result, "the result", instead="")
        raise _one_value(state.member, result)
    results = _elements(result)
    if not results:
        raise refusal(
            "The computation returns nothing, but a round returns two values: the next state and a result. Return the "
            f"state and the aggregate of the clients' data; if there is no result, return {_EMPTY} in its place"
        )
    fitting = [at for at, (_, item) in enumerate(results) if state.is_assignable_from(item)]
    if fitting and 0 not in fitting:
        misplaced = _result(fitting[0], results[fitting[0]][0], of=len(results))
        raise refusal(
            f"{misplaced[0].upper()}{misplaced[1:]} has the state's type, and the first does not. "
            "A round returns the next state first: put it first"
            + ("" if len(results) == 2 else " and join the others with tff.federated_zip")  # noqa: PLR2004
        )
    if len(results) != 2:  # noqa: PLR2004
        raise refusal(
            f"The computation returns {len(results)} values{_names_in_brackets(results)}, but a round returns two: the "
            "next state and a result. Join the values of the result with tff.federated_zip"
            if len(results) > 1
            else f"The computation returns one value in a structure{_names_in_brackets(results)}, but a round returns "
            "two: the next state and a result. Return the state beside it; if there is no result, return "
            f"{_EMPTY} as the second"
        )
    _check_at_server(
        results[0][1],
        _result(0, results[0][0]),
        instead=", or return the state argument unchanged",
    )
    _check_at_server(results[1][1], _result(1, results[1][0]), instead=f", or return {_EMPTY} in its place")


def _one_value(state: Any, result: Any) -> ProblemError:
    """Returns the error for a computation that returns one value at the server.

    The value may be the next state, hold it, or be a result.
    """
    beside = "If it is a result, return the state argument beside it, (state, result)"
    fields = [item for _, item in _elements(result.member)]
    if state.is_assignable_from(result.member):
        return refusal(
            f"The computation returns one value, {type_text(result)}, but a round returns two: the next state and a "
            f"result. If it is the next state, return it with an empty result, (state, {_EMPTY}). {beside}"
        )
    pair = len(fields) == 2  # noqa: PLR2004
    first = state.is_assignable_from(fields[0]) or (pair and _resembles(state, fields[0]))
    rest = "" if pair else " and join the others with tff.federated_zip"
    return refusal(
        f"The computation returns one value with {'two' if pair else len(fields)} fields, {type_text(result)}, but a "
        "round returns two values, the next state and the result, each placed at the server. "
        "If one field is the next state, return "
        + ("them as a pair, without tff.federated_zip" if pair and first else f"that field first{rest}")
        + f". {beside}"
    )


def _check_at_server(item: Any, what: str, *, instead: str) -> None:
    upper = what[0].upper() + what[1:]
    if _is_at(item, tff.CLIENTS):
        raise refusal(
            f"{upper} is placed at the clients, {type_text(item)}, but a round returns only aggregates, never the "
            "value "
            f"of a single client. Aggregate it (tff.federated_sum, tff.federated_mean, …){instead}"
        )
    if not _is_at(item, tff.SERVER):
        raise refusal(
            f"{upper} has no placement: {type_text(item)}. Place it at the server with tff.federated_value or "
            "tff.federated_eval, and join several values with tff.federated_zip"
        )


def _check_state(before: Any, after: Any) -> None:
    if before.is_assignable_from(after):
        return
    path, type_before, type_after = next(_differences(before.member, after.member, "the state"))
    raise refusal(
        f"The server state changes its type from round to round: {path} is {type_before} in the argument and "
        f"{type_after} in the result, so the next round could not take this round's state. "
        "Return the state with the type of the argument"
        + (". Declare a dimension that changes as None" if _differ_in_shape(before.member, after.member) else "")
    )


def _differences(before: Any, after: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Yields the paths where `after` is not assignable to `before`, with both types as text."""
    if isinstance(before, tff.StructType) and isinstance(after, tff.StructType):
        left, right = _elements(before), _elements(after)
        if [name for name, _ in left] == [name for name, _ in right]:
            for at, ((name, one), (_, other)) in enumerate(zip(left, right)):
                if not one.is_assignable_from(other):
                    inner = name or str(at)
                    yield from _differences(one, other, inner if path == "the state" else f"{path}/{inner}")
            return
    yield path, type_text(before), type_text(after)


def _differ_in_shape(before: Any, after: Any) -> bool:
    """Returns whether the first fields that differ are tensors that differ only in shape."""
    while isinstance(before, tff.StructType) and isinstance(after, tff.StructType) and len(before) == len(after):
        pairs = [(one, other) for one, other in zip(before, after) if not one.is_assignable_from(other)]
        if not pairs:
            return False
        before, after = pairs[0]
    both_tensors = isinstance(before, tff.TensorType) and isinstance(after, tff.TensorType)
    return both_tensors and before.dtype == after.dtype


def _elements(type_: Any) -> list[tuple[str, Any]]:
    """Returns the elements of a structure with their names ("" for none).

    A type that is not a structure is the only element.
    """
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


def _names_in_brackets(items: list[tuple[str, Any]]) -> str:
    """Returns the names of all items in brackets; empty unless all have one."""
    names = [name for name, _ in items if name]
    return f" ({', '.join(names)})" if len(names) == len(items) and names else ""


def _join_names(items: list[str]) -> str:
    """Returns the items in lower case as text, such as `argument 1, argument 2 and argument 3`."""
    lower = [item[0].lower() + item[1:] for item in items]
    return " and ".join([", ".join(lower[:-1]), lower[-1]])
