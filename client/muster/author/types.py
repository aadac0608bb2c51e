"""TFF's types and bindings as the manifest has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_federated as tff

from muster.runtime.paths import Leaf
from muster.wire.dtypes import DType
from muster.wire.manifest import (
    Binding,
    SequenceBinding,
    SequenceType,
    StructField,
    StructType,
    TensorBinding,
    TensorType,
    Type,
)
from muster.wire.problems import ProblemError, ProblemType


def to_type(type_: tff.Type) -> Type:
    """The manifest's form of a TFF type, placements left out.

    A named structure without a Python container is a mapping, since TFF makes an `OrderedDict` of it.

    Raises:
      ProblemError: `plan_invalid`, for a type that is no value (a function, an abstract type).
    """
    if isinstance(type_, tff.FederatedType):
        return to_type(type_.member)
    if isinstance(type_, tff.TensorType):
        return TensorType(dtype=_dtype(type_.dtype), shape=None if type_.shape is None else tuple(type_.shape))
    if isinstance(type_, tff.SequenceType):
        return SequenceType(element=to_type(type_.element))
    if isinstance(type_, tff.StructType):
        elements = list(tff.structure.iter_elements(type_))
        container = getattr(type_, "python_container", None)
        named = any(name is not None for name, _ in elements)
        mapping = issubclass(container, Mapping) if container is not None else named
        fields = tuple(StructField(name=name, type=to_type(item)) for name, item in elements)
        return StructType(container="mapping" if mapping else "sequence", fields=fields)
    raise ProblemError(
        ProblemType.PLAN_INVALID, f"A value of the type {type_} can't be sent: it is not made of tensors"
    )


def _dtype(dtype: Any) -> DType:
    found = np.dtype(dtype)
    return DType.STRING if found.kind in "OSU" else DType(found.name)


def tensor_names(binding: Any) -> list[str]:
    """The names of the graph's tensors in a `TensorFlow.Binding`, in order; a sequence's is its variant tensor's.

    Source: `proto/v0/computation.proto` of TFF.
    """
    kind = binding.WhichOneof("binding") if binding is not None else None
    if kind is None:
        return []
    if kind == "struct":
        return [name for element in binding.struct.element for name in tensor_names(element)]
    if kind == "sequence":
        return [binding.sequence.variant_tensor_name]
    return [binding.tensor.tensor_name]


def field_bindings(binding: Any) -> list[Any]:
    """The bindings of a structure's fields; none for a value that is nothing."""
    return list(binding.struct.element)


def bind_leaves(found: Sequence[Leaf], binding: Any) -> tuple[Binding, ...]:
    """Joins a value's leaves with the tensors that a graph has for them."""
    names = tensor_names(binding)
    return tuple(
        SequenceBinding(path=path, element=leaf.element, tensor=name)
        if isinstance(leaf, SequenceType)
        else TensorBinding(path=path, dtype=leaf.dtype, shape=leaf.shape, tensor=name)
        for (path, leaf), name in _zip_strict(found, names)
    )


def bind_tensors(found: Sequence[Leaf], binding: Any) -> tuple[TensorBinding, ...]:
    """Like `bind_leaves`, for a value that holds no data set.

    Raises:
      ProblemError: `plan_invalid`, if it does.
    """
    bound = []
    for item in bind_leaves(found, binding):
        if not isinstance(item, TensorBinding):
            raise ProblemError(
                ProblemType.PLAN_INVALID, f"{item.path} is a data set: only a client's data may hold one"
            )
        bound.append(item)
    return tuple(bound)


def _zip_strict(found: Sequence[Leaf], names: Sequence[str]) -> Iterator[tuple[Leaf, str]]:
    if len(found) != len(names):
        raise AssertionError(f"TFF bound {len(names)} tensors to the {len(found)} leaves {[path for path, _ in found]}")
    return zip(found, names)


def pack_leaves(type_: tff.Type, values: Iterator[Any]) -> Any:
    """A value of `type_` in the Python containers that the type remembers, from its leaves in order."""
    if isinstance(type_, tff.FederatedType):
        return pack_leaves(type_.member, values)
    if isinstance(type_, tff.StructType):
        fields = [(name, pack_leaves(item, values)) for name, item in tff.structure.iter_elements(type_)]
        return tff.types.type_to_py_container(tff.structure.Struct(fields), type_)
    return next(values)
