"""Converts TFF's types and bindings to the manifest's."""

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
    """Converts a TFF type to the manifest's, without placements.

    A named structure without a Python container is a mapping, since TFF makes an `OrderedDict` of
    it.

    Raises:
      ProblemError: `plan_invalid`, for a type that has no tensors (a function, an abstract type).
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
        ProblemType.PLAN_INVALID, f"A value of the type {type_} can't be sent: it does not consist of tensors"
    )


def _dtype(dtype: Any) -> DType:
    numpy_dtype = np.dtype(dtype)
    return DType.STRING if numpy_dtype.kind in "OSU" else DType(numpy_dtype.name)


def tensor_names(binding: Any) -> list[str]:
    """Returns the names of the graph's tensors in a `TensorFlow.Binding`, in order.

    For a sequence, that is the name of its variant tensor. Source: `proto/v0/computation.proto` of
    TFF.
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
    """Returns the bindings of a structure's fields; an empty list for a value without fields."""
    return list(binding.struct.element)


def bind_leaves(value_leaves: Sequence[Leaf], binding: Any) -> tuple[Binding, ...]:
    """Binds a value's leaves to the tensors of a graph."""
    names = tensor_names(binding)
    return tuple(
        SequenceBinding(path=path, element=leaf.element, tensor=name)
        if isinstance(leaf, SequenceType)
        else TensorBinding(path=path, dtype=leaf.dtype, shape=leaf.shape, tensor=name)
        for (path, leaf), name in _zip_strict(value_leaves, names)
    )


def bind_tensors(value_leaves: Sequence[Leaf], binding: Any) -> tuple[TensorBinding, ...]:
    """Binds the leaves of a value that may not hold data sets.

    Raises:
      ProblemError: `plan_invalid`, if the value holds a data set.
    """
    bound = []
    for item in bind_leaves(value_leaves, binding):
        if not isinstance(item, TensorBinding):
            raise ProblemError(
                ProblemType.PLAN_INVALID, f"{item.path} is a data set: only a client's data may hold one"
            )
        bound.append(item)
    return tuple(bound)


def _zip_strict(value_leaves: Sequence[Leaf], names: Sequence[str]) -> Iterator[tuple[Leaf, str]]:
    if len(value_leaves) != len(names):
        paths = [path for path, _ in value_leaves]
        raise AssertionError(f"TFF bound {len(names)} tensors to the {len(paths)} leaves {paths}")
    return zip(value_leaves, names)


def pack_leaves(type_: tff.Type, values: Iterator[Any]) -> Any:
    """Builds a value of `type_` from its leaves, in the Python containers that the type names."""
    if isinstance(type_, tff.FederatedType):
        return pack_leaves(type_.member, values)
    if isinstance(type_, tff.StructType):
        fields = [(name, pack_leaves(item, values)) for name, item in tff.structure.iter_elements(type_)]
        return tff.types.type_to_py_container(tff.structure.Struct(fields), type_)
    return next(values)
