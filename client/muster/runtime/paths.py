"""Builds readable names for the tensors of a nested value: `global_model_weights/trainable/0`.

Imports no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Union

from muster.wire.manifest import SequenceType, StructType, TensorType, Type
from muster.wire.problems import ProblemError, ProblemType

Leaf = tuple[str, Union[TensorType, SequenceType]]


def join_path(path: str, name: str) -> str:
    """Returns the path of the field `name` (from `field_names`) of the structure at `path`."""
    return f"{path}/{name}" if path else name


def field_names(struct: StructType) -> list[str]:
    """Returns the names of a structure's fields as components of paths.

    Unnamed fields are numbered from 0. A slash in a name is percent-escaped. In a structure with
    unnamed fields, the first digit of an all-digit name is escaped as well, since the name would
    otherwise equal a number.
    """
    names = [item.name for item in struct.fields]
    components = []
    for at, name in enumerate(names):
        escaped = str(at) if name is None else name.replace("%", "%25").replace("/", "%2F")
        is_ambiguous = name is not None and name.isdigit() and None in names
        components.append(f"%{ord(escaped[0]):02X}{escaped[1:]}" if is_ambiguous else escaped)
    return components


def leaves(declared: Type, *, root: str, prefix: str = "") -> Iterator[Leaf]:
    """Yields the tensors and data sets of a value with their paths, in the declared order.

    Args:
      declared: The value's type.
      root: The path of a value that is a single leaf, used if there is no prefix.
      prefix: Prefix of every path.
    """
    if isinstance(declared, StructType):
        for item, name in zip(declared.fields, field_names(declared)):
            yield from leaves(item.type, root=root, prefix=join_path(prefix, name))
    else:
        yield prefix or root, declared


def flat_order(struct: StructType) -> list[int]:
    """Returns the positions of a structure's fields in TensorFlow's flattening order.

    TensorFlow sorts the keys of a mapping (`tf.nest`).
    """
    order = list(range(len(struct.fields)))
    if struct.container == "mapping":
        order.sort(key=lambda at: struct.fields[at].name or "")
    return order


def element_leaves(element: Type) -> list[TensorType]:
    """Returns the tensors of a data set's element, in TensorFlow's flattening order."""
    if isinstance(element, TensorType):
        return [element]
    if isinstance(element, SequenceType):
        raise ProblemError(ProblemType.PLAN_INVALID, "A plan can't take a data set of data sets")
    return [leaf for at in flat_order(element) for leaf in element_leaves(element.fields[at].type)]
