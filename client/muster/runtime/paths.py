"""Readable names for the tensors of a nested value: `global_model_weights/trainable/0`. No TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Union

from muster.wire.manifest import SequenceType, StructType, TensorType, Type
from muster.wire.problems import ProblemError, ProblemType

Leaf = tuple[str, Union[TensorType, SequenceType]]


def join_path(path: str, name: str) -> str:
    """The path of the field `name` (as `field_names` gives it) of the structure at `path`."""
    return f"{path}/{name}" if path else name


def field_names(struct: StructType) -> list[str]:
    """The names of a structure's fields as paths have them.

    Unnamed fields are counted from 0. A slash in a name is percent-escaped, and so is the first digit of a name that could
    be taken for a position, in a structure that has unnamed fields too.
    """
    names = [item.name for item in struct.fields]
    found = []
    for at, name in enumerate(names):
        escaped = str(at) if name is None else name.replace("%", "%25").replace("/", "%2F")
        found.append(f"%{ord(escaped[0]):02X}{escaped[1:]}" if name and name.isdigit() and None in names else escaped)
    return found


def leaves(declared: Type, *, root: str, prefix: str = "") -> Iterator[Leaf]:
    """The tensors and data sets of a value, each with its path, in the declared order.

    Args:
      declared: The value's type.
      root: The path of a value that is a single leaf, where there is no prefix.
      prefix: Stands before every path.
    """
    if isinstance(declared, StructType):
        for item, name in zip(declared.fields, field_names(declared)):
            yield from leaves(item.type, root=root, prefix=join_path(prefix, name))
    else:
        yield prefix or root, declared


def flat_order(struct: StructType) -> list[int]:
    """The positions of a structure's fields in the order in which TensorFlow flattens it: a mapping's keys sorted."""
    order = list(range(len(struct.fields)))
    if struct.container == "mapping":
        order.sort(key=lambda at: struct.fields[at].name or "")
    return order


def element_leaves(element: Type) -> list[TensorType]:
    """The tensors of a data set's element, in the order in which TensorFlow flattens it."""
    if isinstance(element, TensorType):
        return [element]
    if isinstance(element, SequenceType):
        raise ProblemError(ProblemType.PLAN_INVALID, "A data set of data sets can't be given to a plan")
    return [leaf for at in flat_order(element) for leaf in element_leaves(element.fields[at].type)]
