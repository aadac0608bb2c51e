"""Restores a plan's tensors to values of TFF, such as a `LearningAlgorithmState`."""

from __future__ import annotations

from typing import Any

import tensorflow_federated as tff

from muster.author.checkpoint_file import Tensors, read_tensors
from muster.author.round_computation import extract_round
from muster.author.types import pack_leaves, to_type
from muster.runtime.paths import leaves
from muster.runtime.values import check_tensors
from muster.wire.manifest import TensorSpec, TensorType


def restore_state(computation: Any, checkpoint: Tensors) -> Any:
    """Returns the server state in a checkpoint.

    Args:
      computation: The source of the plan: a process, its `next`, or a computation.
      checkpoint: The state's tensors by name, the bytes of a checkpoint, or the path of its file or
        of a run's folder.

    Returns:
      The state in the form that `process.next` and `process.get_model_weights` accept; () for a
      computation without server state.

    Raises:
      ProblemError: `invalid_request`, if the tensors are not those of the computation's state.
    """
    signature = getattr(computation, "next", computation).type_signature
    if isinstance(signature.parameter, tff.FederatedType):
        return ()
    return _restore(signature.parameter[0], checkpoint, root="state")


def restore_result(computation: Any, result: Tensors) -> Any:
    """Returns a round's result, such as the metrics of a learning process.

    Arguments as in `restore_state`.
    """
    return _restore(extract_round(computation).next.type_signature.result[1], result, root="result")


def _restore(type_: tff.Type, source: Tensors, *, root: str) -> Any:
    tensor_specs = [
        TensorSpec(path=path, dtype=leaf.dtype, shape=leaf.shape)
        for path, leaf in leaves(to_type(type_), root=root)
        if isinstance(leaf, TensorType)
    ]
    tensors = check_tensors(read_tensors(source, what=root), tensor_specs, what=root)
    # A scalar becomes a numpy scalar (or bytes), as in TFF's own results.
    return pack_leaves(type_, (array if array.ndim else array[()] for array in tensors.values()))
