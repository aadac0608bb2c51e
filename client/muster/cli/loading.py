"""Finds what `module:attribute` or `path/to/file.py:attribute` names."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

from muster.cli.failures import LoadingError


def load(reference: str) -> Any:
    """Returns the object that `reference` names.

    A file of the working directory takes precedence over an installed module of the same name, and is then registered
    under another name.

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
    """Imports a module of the working directory, or an installed one.

    The working directory is searched last, so that a file there never replaces a module that Muster or a library
    imports.
    """
    here = Path.cwd()
    neighbor = here / f"{name}.py"
    if "." not in name and neighbor.is_file():
        return _file(neighbor)
    _search_last(here)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only if it is the module itself that is missing, and not one that it imports.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        if _is_shadowed(name, here):
            raise _shadowed(name, here) from None
        raise LoadingError(f"There is no module {error.name!r}, neither in {here} nor installed") from None
    if _is_shadowed(name, here):
        raise _shadowed(name, here)
    return module


def _is_shadowed(name: str, here: Path) -> bool:
    """Returns whether `here` has a package of this name and Python has imported another one."""
    package = here / name.partition(".")[0]
    found = sys.modules.get(package.name)
    if found is None or not package.is_dir():
        return False
    places = [Path(place).resolve() for place in getattr(found, "__path__", ())]
    return package.resolve() not in places


def _shadowed(name: str, here: Path) -> LoadingError:
    package = name.partition(".")[0]
    return LoadingError(
        f"The folder {package} in {here} has the name of an installed module, which Python imports instead: rename the folder"
    )


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise LoadingError(f"There is no file {path}")
    _search_last(path.resolve().parent)  # so that it may import its neighbors
    name = _free_name(path)
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise LoadingError(f"{path} can't be loaded as Python")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _search_last(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _free_name(path: Path) -> str:
    """Returns the name under which to register the module of a user's file.

    This is the file's own name, unless another module has it, loaded or not: a user's `queue.py` must not become the
    `queue` that the standard library imports.
    """
    name, file = path.stem, path.resolve()
    loaded = sys.modules.get(name)
    if loaded is not None:
        return name if _is_of(getattr(loaded, "__file__", None), file) else f"_user_{name}"
    if name in sys.builtin_module_names:
        return f"_user_{name}"
    try:
        known = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        known = None
    return name if known is None or _is_of(known.origin, file) else f"_user_{name}"


def _is_of(origin: Any, file: Path) -> bool:
    return isinstance(origin, str) and Path(origin).resolve() == file


def _names(module: ModuleType) -> str:
    return ", ".join(name for name in vars(module) if not name.startswith("_")) or "nothing"
