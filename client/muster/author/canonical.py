"""Rewrites process-dependent names in a graph, so that equal computations yield equal bytes.

TensorFlow, Keras and TFF draw names from counters and random identifiers: functions
(`__inference_step_123`), nodes (`dense_4/MatMul`), arguments of functions
(`sequential_lstm_while_cond_18566_placeholder`), tables (`hash_table_afc5d9d2…`). `canonicalize`
replaces all of them by the operation's type and a position. The new function names also avoid
collisions with the functions that a client's process creates itself.

Two things are unchanged: the order of the nodes, which is the order of tracing, and the values of
constants. A model that is built with randomly drawn weights therefore differs from build to build.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tensorflow.python.framework import op_def_registry

_FUNCTION = "plan_function_"
# Attributes that are unused when a graph runs: how to differentiate a call (a plan's graphs are
# never differentiated), display names, placement hints, and Keras' choice between implementations,
# which grappler's meta optimizer would make.
_UNREAD_ATTRIBUTES = (
    "_gradient_op_type",
    "forward_function_name",
    "backward_function_name",
    "_user_specified_name",
    "_class",
    "debug_name",
    "api_implements",
    "api_preferred_device",
)
# Attributes that name a resource or a loop. Equal names mean the same one, in the whole graph.
_RESOURCE_ATTRIBUTES = ("shared_name", "var_name", "tensor_array_name", "stack_name", "frame_name")
# Of these, the ones for which TensorFlow takes the node's name where the attribute is empty.
_NODE_NAMED_ATTRIBUTES = ("shared_name", "var_name")
_ANONYMOUS = b"cd2c89b7-88b7-44c8-ad83-06c2a9158347"  # `ResourceHandle::ANONYMOUS_NAME`: a variable without a name


@dataclass(frozen=True)
class CanonicalGraph:
    """Rewritten graph.

    Attributes:
      graph: The `GraphDef`.
      names: The new name of each top-level node, by its old one.
    """

    graph: Any
    names: Mapping[str, str]

    def tensor(self, name: str) -> str:
        """Returns the new name of a top-level tensor (`node:0`) or operation (`node`)."""
        node, colon, output = name.partition(":")
        return f"{self.names[node]}{colon}{output}"


def canonicalize(graph_def: Any) -> CanonicalGraph:
    """Returns a renamed copy of a `GraphDef`.

    Its functions stand in order of use; unused ones are removed.
    """
    result = type(graph_def)()
    result.CopyFrom(graph_def)
    library = {function.signature.name: function for function in result.library.function}
    gradients = {item.function_name: item for item in result.library.gradient}
    functions = _functions_by_use(result.node, library, gradients)
    used_gradients = [gradients[name] for name in functions if name in gradients]
    bodies = {name: _Body.of_function(library[name]) for name in functions}
    resources: dict[bytes, bytes] = {}
    top = _Body(result.node, new_names=_node_names(result.node, functions))
    for body in (top, *bodies.values()):
        body.rewrite(functions=functions, bodies=bodies, resources=resources)
    for name, body in bodies.items():
        body.rewrite_signature(library[name], functions[name], bodies)
    for item in used_gradients:
        item.function_name, item.gradient_func = functions[item.function_name], functions[item.gradient_func]
    copies = [type(library[name]).FromString(library[name].SerializeToString()) for name in functions]
    copied_gradients = [type(item).FromString(item.SerializeToString()) for item in used_gradients]
    result.library.Clear()
    result.library.function.extend(copies)
    result.library.gradient.extend(copied_gradients)
    return CanonicalGraph(result, top.new_names)


def _functions_by_use(nodes: Any, library: Mapping[str, Any], gradients: Mapping[str, Any]) -> dict[str, str]:
    """Returns the new name of each function that a graph can run, by its old one."""
    names: dict[str, str] = {}
    pending = [nodes]

    def use(name: str) -> None:
        names[name] = f"{_FUNCTION}{len(names)}"
        pending.append(library[name].node_def)

    while pending:
        for node in pending.pop(0):
            for name in _calls(node, library):
                if name not in names:
                    use(name)
                    if name in gradients and gradients[name].gradient_func not in names:
                        use(gradients[name].gradient_func)
    return names


def _calls(node: Any, library: Mapping[str, Any]) -> Iterator[str]:
    """Yields the names of the functions that a node calls: as its operation, or in an attribute."""
    if node.op in library:
        yield node.op
    for key in sorted(node.attr):
        for reference in _references(node.attr[key]):
            if reference.name in library:
                yield reference.name


def _references(value: Any) -> Iterator[Any]:
    """Yields the references to functions in an attribute, nested references included."""
    kind = value.WhichOneof("value")
    functions = [value.func] if kind == "func" else list(value.list.func) if kind == "list" else []
    for reference in functions:
        yield reference
        for key in sorted(reference.attr):
            yield from _references(reference.attr[key])


def _node_names(nodes: Any, functions: Mapping[str, str]) -> dict[str, str]:
    """Returns the new name of each node, by its old one: `MatMul_0`, `MatMul_1`."""
    count: Counter[str] = Counter()
    names = {}
    for node in nodes:
        op = functions.get(node.op, node.op)
        names[node.name] = f"{op}_{count[op]}"
        count[op] += 1
    return names


class _Body:
    """Nodes of a graph or of a function, with their new names.

    Args:
      nodes: The `NodeDef`s, which are rewritten in place.
      new_names: The new name of each node and argument, by its old one.
      outputs: A function's results: the new name of each, by its old one.
    """

    def __init__(self, nodes: Any, *, new_names: dict[str, str], outputs: Mapping[str, str] | None = None) -> None:
        self._nodes = nodes
        self.new_names = new_names
        self.outputs = outputs or {}
        self._op_of: dict[str, str] = {node.name: node.op for node in nodes}

    @classmethod
    def of_function(cls, function: Any) -> _Body:
        """Returns the body of a `FunctionDef`.

        `rewrite` names its nodes, once the names of functions are known.
        """
        arguments = {item.name: f"arg_{at}" for at, item in enumerate(function.signature.input_arg)}
        outputs = {item.name: f"out_{at}" for at, item in enumerate(function.signature.output_arg)}
        return cls(function.node_def, new_names=arguments, outputs=outputs)

    def rewrite(
        self, *, functions: Mapping[str, str], bodies: Mapping[str, _Body], resources: dict[bytes, bytes]
    ) -> None:
        """Renames the nodes, their inputs, the functions that they name, and resources."""
        self.new_names.update(_node_names(self._nodes, functions))
        position = {name: at for at, name in enumerate(self.new_names)}
        for node in self._nodes:
            inputs = [name for name in node.input if not name.startswith("^")]
            controls = sorted(
                (name for name in node.input if name.startswith("^")), key=lambda name: position[name[1:]]
            )
            node.input[:] = [self.tensor(name, bodies) for name in (*inputs, *controls)]
            _rewrite_attributes(node, functions=functions, resources=resources)
        for node in self._nodes:
            node.name = self.new_names[node.name]
            node.op = functions.get(node.op, node.op)
            node.ClearField("experimental_debug_info")

    def tensor(self, name: str, bodies: Mapping[str, _Body]) -> str:
        """Returns the new name of an input.

        The name is `^node`, `node`, `node:1`, or in a function `node:output:0`.
        """
        control = "^" if name.startswith("^") else ""
        node, *output = name[len(control) :].split(":")
        called = bodies.get(self._op_of.get(node, ""))
        if called is not None and len(output) == 2:  # noqa: PLR2004  of a call by name, the output is named by the function
            output[0] = called.outputs.get(output[0], output[0])
        return control + ":".join([self.new_names[node], *output])

    def rewrite_signature(self, function: Any, name: str, bodies: Mapping[str, _Body]) -> None:
        """Renames a function, its arguments and its results."""
        signature = function.signature
        results = {self.outputs[key]: self.tensor(value, bodies) for key, value in function.ret.items()}
        controls = [self.new_names[function.control_ret[key]] for key in signature.control_output]
        signature.name = name
        signature.ClearField("description")
        for at, item in enumerate(signature.input_arg):
            item.name = f"arg_{at}"
        for at, item in enumerate(signature.output_arg):
            item.name = f"out_{at}"
        function.ret.clear()
        function.ret.update(results)
        signature.control_output[:] = [f"control_{at}" for at in range(len(controls))]
        function.control_ret.clear()
        function.control_ret.update({f"control_{at}": node for at, node in enumerate(controls)})
        for attributes in (function.attr, *(item.attr for item in function.arg_attr.values())):
            _strip(attributes)


def _rewrite_attributes(node: Any, *, functions: Mapping[str, str], resources: dict[bytes, bytes]) -> None:
    _strip(node.attr)
    for key in sorted(node.attr):
        for reference in list(_references(node.attr[key])):
            reference.name = functions.get(reference.name, reference.name)
    definition = op_def_registry.get(node.op)
    declared = {attribute.name for attribute in definition.attr} if definition is not None else set()
    for key in _RESOURCE_ATTRIBUTES:
        if key not in declared:
            continue
        name = node.attr[key].s if key in node.attr else b""
        if not name and key in _NODE_NAMED_ATTRIBUTES and _takes_node_name(node, declared):
            name = node.name.encode()
        if name and name != _ANONYMOUS:
            node.attr[key].s = resources.setdefault(name, f"resource_{len(resources)}".encode())


def _takes_node_name(node: Any, declared: set[str]) -> bool:
    """Returns whether an unnamed resource is identified by its node's name."""
    if node.op == "VarHandleOp":
        return False
    if "use_node_name_sharing" not in declared:
        return True
    return "use_node_name_sharing" in node.attr and bool(node.attr["use_node_name_sharing"].b)


def _strip(attributes: Any) -> None:
    for name in _UNREAD_ATTRIBUTES:
        if name in attributes:
            del attributes[name]
