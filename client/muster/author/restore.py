"""A plan's tensors back in the containers that TFF and the author's own code know (`LearningAlgorithmState`, …)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

import tensorflow_federated as tff

from muster.runtime.paths import leaves
from muster.runtime.values import check_tensors
from muster.wire.manifest import TensorSpec, TensorType
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array, TensorsError, decode

from .types import pack, to_type

Tensors = Union[Mapping[str, Any], bytes, str, Path]


def restore_state(computation: Any, checkpoint: Tensors) -> Any:
    """The server state in a checkpoint.

    Args:
      computation: What the plan was built from: a process, or its `next`.
      checkpoint: The state's tensors by name, the bytes of a checkpoint, or the path of its file.

    Returns:
      What `process.next` and `process.get_model_weights` accept; () for a computation without server state.

    Raises:
      ProblemError: `invalid_request`, if the tensors are not those of the computation's state.
    """
    signature = getattr(computation, "next", computation).type_signature
    if isinstance(signature.parameter, tff.FederatedType):
        return ()
    return _restore(signature.parameter[0], checkpoint, root="state")


def restore_result(computation: Any, result: Tensors) -> Any:
    """A round's result, like `restore_state`: the metrics of a learning process, what a computation gives beside its state."""
    signature = getattr(computation, "next", computation).type_signature
    stateless = isinstance(signature.parameter, tff.FederatedType)
    return _restore(signature.result if stateless else signature.result[1], result, root="result")


def _restore(type_: tff.Type, source: Tensors, *, root: str) -> Any:
    specs = [
        TensorSpec(path=path, dtype=leaf.dtype, shape=leaf.shape)
        for path, leaf in leaves(to_type(type_), root=root)
        if isinstance(leaf, TensorType)
    ]
    tensors = check_tensors(_read(source, root), specs, what=root)
    # A scalar as numpy's scalar (or bytes), as TFF itself gives it.
    return pack(type_, (array if array.ndim else array[()] for array in tensors.values()))


def _read(source: Tensors, what: str) -> Mapping[str, Array]:
    if isinstance(source, Mapping):
        return source
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        return decode(data)
    except TensorsError as error:
        raise ProblemError(ProblemType.INVALID_REQUEST, f"The {what} can't be read: {error}") from error
