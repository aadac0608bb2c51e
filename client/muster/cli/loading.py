"""Loads objects by reference, `module:attribute` or `path/to/file.py:attribute`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, cast

from muster.cli.failures import LoadingError


def load(reference: str) -> Any:
    """Returns the object that a reference denotes.

    A file in the working directory takes precedence over an installed module of the same name. It
    is then registered under another name.

    Raises:
      LoadingError: the form, the module or the attribute is wrong. Errors of the module propagate.
    """
    where, colon, attribute = reference.rpartition(":")
    # The colon of a Windows drive (`c:\data.py`) is not a separator.
    if not colon or not where or not all(part.isidentifier() for part in attribute.split(".")):
        raise LoadingError(
            f"{reference!r} should be module:attribute, such as my_model:process or path/to/file.py:process"
        )
    module = _file(Path(where)) if where.endswith(".py") else _module(where)
    loaded: Any = module
    for part in attribute.split("."):
        if not hasattr(loaded, part):
            raise LoadingError(f"{where} has no {attribute!r}; it has {_names(module)}")
        loaded = getattr(loaded, part)
    return loaded


def load_function(reference: str, *, max_arguments: int = 1) -> Callable[..., Any]:
    """Returns the function that a reference denotes.

    Args:
      reference: `module:function` or `path/to/file.py:function`.
      max_arguments: Number of positional arguments that the caller can pass.

    Raises:
      LoadingError: see `load`; or the object is not a function, or requires more arguments.
    """
    function = load(reference)
    if not callable(function):
        raise LoadingError(f"{reference} is a {type(function).__name__}; it should be a function that returns data")
    required = required_arguments(function)
    if required > max_arguments:
        raise LoadingError(f"{reference} requires {required} arguments; it is called with at most {max_arguments}")
    return cast("Callable[..., Any]", function)


def load_computation(reference: str) -> Any:
    """Returns the TFF computation of a reference, and calls a Python function that builds it.

    Raises:
      LoadingError: see `load`; or the function requires arguments.
    """
    loaded = load(reference)
    if not inspect.isfunction(loaded):
        return loaded
    if required_arguments(loaded):
        raise LoadingError(f"{reference} is a function with arguments; it should take none and build the computation")
    return loaded()


def required_arguments(function: Callable[..., Any]) -> int:
    """Returns the number of positional arguments that a function requires."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-ins have none
        return 0
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(item.default is item.empty and item.kind in positional for item in parameters)


def _module(name: str) -> ModuleType:
    """Imports a module of the working directory, or an installed one.

    The working directory is searched last, so that a file there never replaces a module that Muster
    or a library imports.
    """
    here = Path.cwd()
    neighbor = here / f"{name}.py"
    if "." not in name and neighbor.is_file():
        return _file(neighbor)
    _search_last(here)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Not for a missing module that the module itself imports.
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
    imported = sys.modules.get(package.name)
    if imported is None or not package.is_dir():
        return False
    places = [Path(place).resolve() for place in getattr(imported, "__path__", ())]
    return package.resolve() not in places


def _shadowed(name: str, here: Path) -> LoadingError:
    package = name.partition(".")[0]
    return LoadingError(
        f"The folder {package} in {here} has the name of an installed module, which Python imports instead: rename the "
        "folder"
    )


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise LoadingError(f"There is no file {path}")
    _search_last(path.resolve().parent)  # the file may import its neighbors
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

    This is the file's own name, unless another module has it, loaded or not: a user's `queue.py`
    must not replace the `queue` of the standard library.
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
