"""Makes a client's data repeatable, so that both sides of a comparison read the same elements."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from muster.author.randomness import is_random
from muster.runtime.graphs import load_graph


def make_repeatable(data: Any) -> Any:
    """Returns a client's data in a form that yields the same elements each time it is read.

    A `tf.data.Dataset` that shuffles, or draws in another way, is read once; so is an iterator.
    Other data is returned unchanged.

    Args:
      data: The data of one client; a mapping may hold data sets.
    """
    if isinstance(data, tf.data.Dataset):
        return _read_once(data) if _draws(data) else data
    if isinstance(data, Mapping):
        return OrderedDict((name, make_repeatable(value)) for name, value in data.items())
    return list(data) if isinstance(data, Iterator) else data


def _draws(dataset: Any) -> bool:
    try:
        serialized = tf.raw_ops.DatasetToGraphV2(input_dataset=tf.data.experimental.to_variant(dataset))
    except tf.errors.OpError:  # it calls Python, which TFF refuses with its own error
        return False
    graph = load_graph(serialized.numpy())
    nodes = itertools.chain(graph.node, *(function.node_def for function in graph.library.function))
    return any(is_random(node) for node in nodes)


def _read_once(dataset: Any) -> Any:
    elements = list(dataset)
    if not elements or not all(isinstance(leaf, tf.Tensor) for leaf in tf.nest.flatten(elements[0])):
        return dataset
    # Batches of one size can be stacked; the last one is often smaller.
    runs = [list(run) for _, run in itertools.groupby(elements, key=_shapes)]
    stacked = [tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *run) for run in runs]
    first, *others = (tf.data.Dataset.from_tensor_slices(run) for run in stacked)
    for other in others:
        first = first.concatenate(other)
    return first


def _shapes(element: Any) -> list[Any]:
    return [leaf.shape.as_list() for leaf in tf.nest.flatten(element)]
