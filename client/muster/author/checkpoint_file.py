"""Reads a server state from a file or from the folder of a run.

A file is a checkpoint or a `.npz`; of a run, the last checkpoint is read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import numpy as np

from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array, TensorsError, decode

Tensors = Union[Mapping[str, Any], bytes, str, Path]
_CHECKPOINTS_FOLDER = "checkpoints"  # in the folder of `muster simulate --out` or `muster demo`


def read_tensors(source: Tensors, *, what: str) -> Mapping[str, Any]:
    """Returns tensors by name.

    Args:
      source: The tensors, a checkpoint's bytes, or the path of its file: safetensors, `.npz`, or
        the folder of a run, whose last checkpoint is read.
      what: Description of the tensors, for errors.

    Raises:
      ProblemError: `invalid_request`, if they can't be read.
      OSError: The file can't be opened.
    """
    if isinstance(source, Mapping):
        return source
    try:
        if isinstance(source, bytes):
            return decode(source)
        path = Path(source)
        path = _last_of_run(path) if path.is_dir() else path
        return _npz(path) if path.suffix == ".npz" else decode(path.read_bytes())
    except TensorsError as error:
        where = "" if isinstance(source, bytes) else f" from {source}"
        raise ProblemError(ProblemType.INVALID_REQUEST, f"The {what} can't be read{where}: {error}") from None


def _last_of_run(folder: Path) -> Path:
    """Returns the last checkpoint in the folder of a run, or in its folder of checkpoints.

    Raises:
      TensorsError: There is no checkpoint.
    """
    checkpoints = folder / _CHECKPOINTS_FOLDER if (folder / _CHECKPOINTS_FOLDER).is_dir() else folder
    numbered = {int(file.stem): file for file in checkpoints.glob("*.safetensors") if file.stem.isdecimal()}
    if not numbered:
        raise TensorsError("the folder holds no checkpoints (checkpoints/0.safetensors and so on)")
    return numbered[max(numbered)]


def _npz(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise TensorsError(f"it is not an .npz file of plain arrays ({error})") from None
    return {name: _strings(array) if array.dtype.kind in "SU" else array for name, array in arrays.items()}


def _strings(array: Array) -> Array:
    """Converts numpy's fixed-width strings to the form of a plan's string tensors.

    That is an object array of bytes.
    """
    flat = [item.encode() if isinstance(item, str) else item for item in array.reshape(-1).tolist()]
    result = np.empty(len(flat), dtype=object)
    result[:] = flat
    return result.reshape(array.shape)
