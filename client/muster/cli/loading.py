"""Finds what `module:attribute` or `path/to/file.py:attribute` names."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

from .failures import LoadingError


def load(reference: str) -> Any:
    """The object that `reference` names. Modules are looked for in the working directory first.

    Raises:
      LoadingError: the form, the module or the attribute is wrong. An error inside the module passes through.
    """
    where, colon, attribute = reference.rpartition(":")
    # A colon inside a Windows drive (`c:\data.py`) is no separator.
    if not colon or not where or not all(part.isidentifier() for part in attribute.split(".")):
        raise LoadingError(
            f"{reference!r} should be module:attribute, such as my_model:process or path/to/file.py:process"
        )
    module = _file(Path(where)) if where.endswith(".py") else _module(where)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise LoadingError(f"{where} has no {attribute!r}; it has {_names(module)}")
        found = getattr(found, part)
    return found


def load_function(reference: str, *, most: int = 1) -> Callable[..., Any]:
    """The function that `reference` names; it may need up to `most` arguments.

    Raises:
      LoadingError: see `load`; or it is no such function.
    """
    found = load(reference)
    if not callable(found):
        raise LoadingError(f"{reference} is a {type(found).__name__}; it should be a function that gives the data")
    needed = arguments_of(found)
    if needed > most:
        raise LoadingError(f"{reference} needs {needed} arguments; it is called with {most} at most")
    function: Callable[..., Any] = found
    return function


def load_computation(reference: str) -> Any:
    """The TFF process or computation that `reference` names, or that the plain Python function of that name builds."""
    found = load(reference)
    if not inspect.isfunction(found):
        return found
    if arguments_of(found):
        raise LoadingError(f"{reference} is a function with arguments; it should take none and build the computation")
    return found()


def arguments_of(function: Callable[..., Any]) -> int:
    """How many positional arguments a function must get."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-ins have none
        return 0
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(item.default is item.empty and item.kind in positional for item in parameters)


def clients_by_round(function: Callable[..., Any]) -> Callable[[int], list[Any]]:
    """Makes a function that gives the clients' data sets, of every round or of a round that it is told, into one of rounds.

    The data sets may come as a sequence, a mapping by client, or a TFF `ClientData`.
    """
    takes_round = arguments_of(function) > 0

    def clients(number: int) -> list[Any]:
        found = function(number) if takes_round else function()
        if hasattr(found, "create_tf_dataset_for_client"):
            return [found.create_tf_dataset_for_client(client) for client in found.client_ids]
        return list(found.values()) if isinstance(found, Mapping) else list(found)

    return clients


def _module(name: str) -> ModuleType:
    here = os.getcwd()  # noqa: PTH109  sys.path takes text
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only if it is the module itself that is missing, and not one that it imports.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise LoadingError(f"There is no module {error.name!r}, neither in {here} nor installed") from None


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise LoadingError(f"There is no file {path}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # so that it may import its neighbours
        sys.path.insert(0, folder)
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise LoadingError(f"{path} can't be loaded as Python")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    specification.loader.exec_module(module)
    return module


def _names(module: ModuleType) -> str:
    return ", ".join(name for name in vars(module) if not name.startswith("_")) or "nothing"
