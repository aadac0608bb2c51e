"""Reads data by client and by round, in each form that `run` and `check_plan` accept."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable

import numpy as np

from muster.runtime.data import adapt
from muster.wire.manifest import Type
from muster.wire.problems import ProblemError

Source = Callable[[], Any]


class ClientsDataWarning(UserWarning):
    """Warning that a function of clients' data is called without its optional argument."""


class ClientsData:
    """Data of all clients, in the forms that `run` and `check_plan` accept.

    Args:
      data: A sequence or a mapping of clients' data sets, a TFF `ClientData`, or a function that
        returns one of these. A function with a required argument is called for each round, with the
        round's number (from 1). Any other is called once, without optional arguments.

    Raises:
      TypeError, ValueError: see `of_round`.

    Warns:
      ClientsDataWarning: The function has an argument, and a default for it.
    """

    def __init__(self, data: Any) -> None:
        self._function = data if callable(data) else None
        self._every_round = self._function is not None and _takes_argument(self._function)
        self._fixed: dict[str, Source] = {}
        self._data = data
        if self._function is not None and not self._every_round:
            _warn_of_default(self._function)
            self._data = self._function()
        if not self._every_round:
            self._fixed = by_client(self._data)

    def of_round(self, number: int) -> dict[str, Source]:
        """Returns a function that returns the client's data, by client name, in order.

        Raises:
          TypeError: The data is in none of the forms.
          ValueError: There are no clients, or two have one name.
        """
        if self._function is not None and self._every_round:
            self._data = self._function(number)
            return by_client(self._data)
        return self._fixed

    def hint(self, declared: Type) -> str:
        """Returns a fix if the last data, as a whole, is that of one client; else an empty text.

        Args:
          declared: The plan's `manifest.data`.
        """
        if isinstance(self._data, Iterator) or hasattr(self._data, "client_ids"):
            return ""
        try:
            for elements in adapt(self._data, declared).sequences.values():
                next(elements(), None)
        except (ProblemError, TypeError, ValueError):
            return ""
        return "The data is that of one client, where a list of clients' data is needed: put it into a list, [data]"


class _Replayed:
    """Buffer, for several rounds, of a client's data that can be read only once."""

    def __init__(self, data: Iterator[Any]) -> None:
        self._data = data

    def __call__(self) -> Iterator[Any]:
        self._data, copy = itertools.tee(self._data)
        return copy


def by_client(data: Any) -> dict[str, Source]:
    """Returns data sets by client name; in a sequence the name is the position.

    Raises:
      TypeError, ValueError: See `ClientsData.of_round`.
    """
    sources: list[tuple[str, Source]]
    if hasattr(data, "client_ids") and hasattr(data, "create_tf_dataset_for_client"):
        make = data.create_tf_dataset_for_client
        sources = [(str(name), lambda name=name: make(name)) for name in data.client_ids]  # type: ignore[misc]
    elif isinstance(data, Mapping):
        sources = [(str(name), _source(value)) for name, value in data.items()]
    elif isinstance(data, (Sequence, np.ndarray, Iterable)) and not _is_one_client(data):
        sources = [(str(at), _source(value)) for at, value in enumerate(data)]
    else:
        raise TypeError(
            f"The clients' data is a {type(data).__name__}; it should be a sequence or a mapping of data sets, one for "
            "each client (a single client's data set goes into a list: [dataset])"
        )
    clients = dict(sources)
    if not clients:
        raise ValueError("The data has no clients; give at least one client's data set")
    if len(clients) < len(sources):
        raise ValueError("Two clients have the same name; client names must differ as text")
    return clients


def _source(value: Any) -> Source:
    return _Replayed(value) if isinstance(value, Iterator) else lambda: value


def _is_one_client(data: Any) -> bool:
    """Returns whether `data` is a text or a `tf.data.Dataset`, whose elements are not clients."""
    return isinstance(data, (str, bytes)) or hasattr(data, "element_spec")


def _takes_argument(function: Callable[..., Any]) -> bool:
    return any(item.default is item.empty for item in _positional(function))


def _positional(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-ins have none
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [item for item in parameters if item.kind in positional]


def _warn_of_default(function: Callable[..., Any]) -> None:
    arguments = _positional(function)
    if len(arguments) == 1:
        name = arguments[0].name
        text = (
            f"{getattr(function, '__name__', 'The function')} of the clients' data is called once, without its "
            f"argument {name}, which has a default. To get the data for each round, with the round's number, take the "
            "default away"
        )
        warnings.warn(text, ClientsDataWarning, stacklevel=4)
