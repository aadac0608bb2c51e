"""The clients' data, in whatever form it is given, by client and by round."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable

import numpy as np

Source = Callable[[], Any]


class ClientsData:
    """What `run` takes as data.

    Args:
      data: A sequence or a mapping of clients' data sets, a TFF `ClientData`, or a function that gives one of these; a
        function with an argument is called for each round, with the round's number.
    """

    def __init__(self, data: Any) -> None:
        self._function = data if callable(data) else None
        self._every_round = self._function is not None and _takes_argument(self._function)
        self._fixed: dict[str, Source] = {}
        if self._function is None:
            self._fixed = by_client(data)
        elif not self._every_round:
            self._fixed = by_client(self._function())

    def of_round(self, number: int) -> dict[str, Source]:
        """Each client's name and what gives its data, in order.

        Raises:
          TypeError: The data is in none of the forms.
          ValueError: There are no clients, or two have one name.
        """
        if self._function is not None and self._every_round:
            return by_client(self._function(number))
        return self._fixed


def by_client(data: Any) -> dict[str, Source]:
    """Takes data sets apart by client; those of a sequence are called by their position. Raises as `ClientsData.of_round`."""
    found: list[tuple[str, Source]]
    if hasattr(data, "client_ids") and hasattr(data, "create_tf_dataset_for_client"):
        make = data.create_tf_dataset_for_client
        found = [(str(name), lambda name=name: make(name)) for name in data.client_ids]  # type: ignore[misc]
    elif isinstance(data, Mapping):
        found = [(str(name), lambda value=value: value) for name, value in data.items()]  # type: ignore[misc]
    elif isinstance(data, (Sequence, np.ndarray, Iterable)) and not _is_one_client(data):
        found = [(str(at), lambda value=value: value) for at, value in enumerate(data)]  # type: ignore[misc]
    else:
        raise TypeError(
            f"The clients' data is a {type(data).__name__}; it should be a sequence or a mapping of data sets, one for each "
            "client (a single client's data set goes into a list: [dataset])"
        )
    clients = dict(found)
    if not clients:
        raise ValueError("The data has no clients; give at least one client's data set")
    if len(clients) < len(found):
        raise ValueError("Two clients have the same name; client names must differ as text")
    return clients


def _is_one_client(data: Any) -> bool:
    """Whether it is a `tf.data.Dataset`, whose elements would be taken for clients, or a text."""
    return isinstance(data, (str, bytes)) or hasattr(data, "element_spec")


def _takes_argument(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-ins have none
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(item.default is item.empty and item.kind in positional for item in parameters)
