"""Seeds the unseeded random operations of a graph, so that a simulation can be repeated."""

from __future__ import annotations

import hashlib
from typing import Any

# Where the seed is an input and not an attribute (tf.data): the positions of `seed` and `seed2`.
_SEED_INPUTS: dict[str, tuple[int, int]] = {
    "AnonymousRandomSeedGenerator": (0, 1),
    "AnonymousSeedGenerator": (0, 1),
    "RandomDataset": (0, 1),
    "RandomDatasetV2": (0, 1),
    "ShuffleDataset": (2, 3),
    "ShuffleDatasetV3": (2, 3),
    "ShuffleAndRepeatDataset": (2, 3),
    "ShuffleAndRepeatDatasetV2": (2, 3),
}


def seed_graph(graph_def: Any, *, seed: int, stage: str, draw: str = "") -> bool:
    """Seeds `graph_def` in place.

    Every operation gets a separate seed, derived from `seed`, the stage, `draw` and the operation's
    name. Seeds that the author has set are unchanged. Operations that read the clock or the
    system's entropy (`Timestamp`, `NonDeterministicInts`) can't be seeded and are unchanged.

    Args:
      graph_def: A `GraphDef`; function bodies are seeded too.
      seed: Any integer.
      stage: The name of the plan's stage.
      draw: Identifies the random numbers. Equal draws yield equal numbers, different ones
        independent numbers.

    Returns:
      Whether the graph has an operation to seed.
    """
    scope = f"{stage}/{draw}/" if draw else stage
    seeded = _seed_nodes(graph_def.node, seed=seed, scope=scope, suffix="")
    for function in graph_def.library.function:
        inner = f"{scope}/{function.signature.name}"
        seeded += _seed_nodes(function.node_def, seed=seed, scope=inner, suffix=":output:0")
    return seeded > 0


def _seed_nodes(nodes: Any, *, seed: int, scope: str, suffix: str) -> int:
    """Seeds nodes in place. Returns the number of seeded operations."""
    seeded = 0
    constants = {node.name: node for node in nodes if node.op == "Const"}
    added = []
    for node in nodes:
        if "seed" in node.attr and "seed2" in node.attr and not node.attr["seed"].i and not node.attr["seed2"].i:
            node.attr["seed"].i = _derive(seed, scope, node.name, "seed")
            node.attr["seed2"].i = _derive(seed, scope, node.name, "seed2")
            seeded += 1
        positions = _SEED_INPUTS.get(node.op, ())
        if positions and all(_is_zero(constants.get(node.input[at].split(":")[0])) for at in positions):
            for at, attribute in zip(positions, ("seed", "seed2")):
                # A separate constant: the zero may be shared with operations that need a zero.
                source = constants[node.input[at].split(":")[0]]
                constant = type(source)()
                constant.CopyFrom(source)
                constant.name = f"{node.name}_muster_{attribute}"
                constant.attr["value"].tensor.tensor_content = b""
                constant.attr["value"].tensor.int64_val[:] = [_derive(seed, scope, node.name, attribute)]
                node.input[at] = constant.name + suffix
                added.append(constant)
            seeded += 1
    nodes.extend(added)
    return seeded


def _is_zero(node: Any) -> bool:
    """Returns whether a node is a constant that holds only zeros."""
    if node is None:
        return False
    tensor = node.attr["value"].tensor
    return not any(tensor.int64_val) and not any(tensor.tensor_content)


def _derive(seed: int, scope: str, name: str, attribute: str) -> int:
    """Derives a positive 31-bit seed for one attribute of a node."""
    digest = hashlib.sha256(f"{seed}/{scope}/{name}/{attribute}".encode()).digest()
    return int.from_bytes(digest[:4], "little") % (2**31 - 1) + 1
