"""A graph freed of what only the process that traced it knows, so that the same computation gives the same bytes.

TensorFlow numbers the functions of a graph by a counter of the process (`__inference_step_123`). They are renamed in the
order of their use. That also keeps them apart from the functions that a client's process makes itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_PREFIX = "plan_function_"
# Names, by that counter again, that tell TensorFlow how to differentiate a call. A plan's graphs are never differentiated.
_GRADIENT_ATTRIBUTES = ("_gradient_op_type", "forward_function_name", "backward_function_name")


def canonical(graph_def: Any) -> Any:
    """A copy of a `GraphDef` with its functions renamed, ordered by use, and unused ones left out."""
    result = type(graph_def)()
    result.CopyFrom(graph_def)
    library = {function.signature.name: function for function in result.library.function}
    gradients = {item.function_name: item for item in result.library.gradient}
    names: dict[str, str] = {}
    pending = [result.node]
    while pending:
        for node in pending.pop(0):
            for name in _calls(node, library):
                if name not in names:
                    names[name] = f"{_PREFIX}{len(names)}"
                    pending.append(library[name].node_def)
                    if name in gradients and gradients[name].gradient_func not in names:
                        names[gradients[name].gradient_func] = f"{_PREFIX}{len(names)}"
                        pending.append(library[gradients[name].gradient_func].node_def)
    functions = [library[name] for name in names]
    kept_gradients = [gradients[name] for name in names if name in gradients]
    for nodes in (result.node, *(function.node_def for function in functions)):
        for node in nodes:
            _rename(node, names)
    for function in functions:
        function.signature.name = names[function.signature.name]
        _strip(function.attr)
    for item in kept_gradients:
        item.function_name, item.gradient_func = names[item.function_name], names[item.gradient_func]
    copies = [type(function).FromString(function.SerializeToString()) for function in functions]
    copied_gradients = [type(item).FromString(item.SerializeToString()) for item in kept_gradients]
    result.library.Clear()
    result.library.function.extend(copies)
    result.library.gradient.extend(copied_gradients)
    return result


def _calls(node: Any, library: dict[str, Any]) -> Iterator[str]:
    """The functions that a node names: as its op, or in an attribute."""
    if node.op in library:
        yield node.op
    for key in sorted(node.attr):
        for reference in _references(node.attr[key]):
            if reference.name in library:
                yield reference.name


def _references(value: Any) -> Iterator[Any]:
    kind = value.WhichOneof("value")
    found = [value.func] if kind == "func" else list(value.list.func) if kind == "list" else []
    for reference in found:
        yield reference
        for key in sorted(reference.attr):
            yield from _references(reference.attr[key])


def _rename(node: Any, names: dict[str, str]) -> None:
    if node.op in names:
        node.op = names[node.op]
    node.ClearField("experimental_debug_info")
    _strip(node.attr)
    for key in sorted(node.attr):
        for reference in list(_references(node.attr[key])):
            reference.name = names.get(reference.name, reference.name)


def _strip(attributes: Any) -> None:
    for name in _GRADIENT_ATTRIBUTES:
        if name in attributes:
            del attributes[name]
