"""One computation of a plan as a TensorFlow graph in a session of its own. Imports TensorFlow."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from muster.wire.dtypes import DType
from muster.wire.manifest import Binding, SequenceBinding, Stage, TensorBinding
from muster.wire.problems import ProblemError, ProblemType

from .data import Elements
from .paths import element_leaves
from .seeds import seed_graph
from .values import Array

_PREFIX = "plan"  # apart from the nodes that feed the data sets
# Resources that outlive a call in a session and that no initialize op empties: a graph with one gets a new session each time.
_KEEPS_STATE = (
    "MutableHashTable",
    "MutableDenseHashTable",
    "Queue",
    "Barrier",
    "Stack",
    "ConditionalAccumulator",
    "Stage",
)


class StageGraph:
    """A graph, built once, that runs for any number of inputs. For several threads, one at a time.

    The meta optimizer is off, as in TFF's own equivalence tests: it clashes with the duplicate functions of merged graphs.
    """

    def __init__(self, graph_def: Any, *, stage: Stage, name: str, seed: Optional[int] = None) -> None:
        if seed is not None:
            seed_graph(graph_def, seed=seed, stage=name)
        self._name = name
        self._stage = stage
        self._lock = threading.Lock()
        self._graph = tf.Graph()
        self._sources: dict[str, _Source] = {}
        input_map: dict[str, Any] = {}
        with self._graph.as_default():
            for binding in itertools.chain.from_iterable(stage.inputs.values()):
                if isinstance(binding, SequenceBinding):
                    source = _Source(binding)
                    self._sources[binding.path] = source
                    input_map[binding.tensor] = source.variant
            try:
                tf.import_graph_def(graph_def, input_map=input_map, name=_PREFIX)
            except (ValueError, TypeError, tf.errors.OpError) as error:
                raise ProblemError(
                    ProblemType.PLAN_INVALID, f"TensorFlow {tf.__version__} can't load the plan's {name}: {error}"
                ) from error
        self._graph.finalize()
        ops = {node.op for node in graph_def.node}
        ops.update(node.op for function in graph_def.library.function for node in function.node_def)
        self._keeps_state = any(part in op for op in ops for part in _KEEPS_STATE)
        self._session: Optional[tf.compat.v1.Session] = None if self._keeps_state else self._open()

    def run(
        self,
        inputs: Mapping[str, Mapping[str, Array]],
        *,
        sequences: Optional[Mapping[str, Elements]] = None,
        seconds: Optional[float] = None,
        only: Optional[Collection[str]] = None,
    ) -> dict[str, dict[str, Array]]:
        """Runs the computation on fresh variables.

        Args:
          inputs: The tensors of each input value by name, checked already.
          sequences: What the data sets hold, by name.
          seconds: After so long no data set gives another element, and an operation that waits is woken; None: never. TensorFlow
            can't be stopped within an operation, or in a loop that reads no data.
          only: The paths of the output tensors to compute; all, if it is not given.

        Returns:
          The tensors of each output value by name, in the declared order.

        Raises:
          ProblemError: `computation_failed`, if the graph fails.
          Exception: whatever reading a data set raised.
        """
        feeds: dict[str, Any] = {
            self._tensor(binding): inputs[value][binding.path]
            for value, bindings in self._stage.inputs.items()
            for binding in bindings
            if isinstance(binding, TensorBinding)
        }
        outputs = {
            value: [binding for binding in bindings if only is None or binding.path in only]
            for value, bindings in self._stage.outputs.items()
        }
        with self._lock:
            until = None if seconds is None else time.monotonic() + seconds
            readers = {path: _Reader((sequences or {})[path], until) for path in self._sources}
            feeds.update({source.token: source.register(readers[path]) for path, source in self._sources.items()})
            try:
                fetched = self._execute(feeds, outputs, seconds)
            except tf.errors.OpError as error:
                for reader in readers.values():
                    if reader.error is not None:
                        raise reader.error from None
                raise ProblemError(
                    ProblemType.COMPUTATION_FAILED, f"The plan's {self._name} failed: {_reason(error.message)}"
                ) from error
            finally:
                for source in self._sources.values():
                    source.clear()
        return {
            value: {binding.path: _as_array(got, binding.dtype) for binding, got in zip(bindings, fetched[value])}
            for value, bindings in outputs.items()
        }

    def _execute(
        self, feeds: Mapping[str, Any], outputs: Mapping[str, Iterable[TensorBinding]], seconds: Optional[float]
    ) -> Any:
        fetches = {value: [self._tensor(binding) for binding in bindings] for value, bindings in outputs.items()}
        options = None if seconds is None else tf.compat.v1.RunOptions(timeout_in_ms=math.ceil(seconds * 1000) + 1)
        session = self._session or self._open()
        try:
            if self._stage.initialize:
                session.run(f"{_PREFIX}/{self._stage.initialize}", feeds)
            return session.run(fetches, feeds, options=options)
        finally:
            if session is not self._session:
                session.close()

    def _tensor(self, binding: Binding) -> str:
        return f"{_PREFIX}/{binding.tensor}"

    def _open(self) -> tf.compat.v1.Session:
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        return tf.compat.v1.Session(graph=self._graph, config=config)


class _Reader:
    """One call's elements. Keeps what reading them raised, since a session hands on no more than its text."""

    def __init__(self, elements: Elements, until: Optional[float]) -> None:
        self._elements = elements
        self._until = until
        self.error: Optional[BaseException] = None

    def __call__(self) -> Iterator[tuple[Array, ...]]:
        try:
            for element in self._elements():
                if self._until is not None and time.monotonic() > self._until:
                    raise ProblemError(ProblemType.COMPUTATION_FAILED, "The work took longer than it may")  # noqa: TRY301
                yield element
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self.error = error
            raise


class _Source:
    """A data set in a graph that reads, at run time, from whichever reader the fed token names."""

    def __init__(self, binding: SequenceBinding) -> None:
        self._readers: dict[int, _Reader] = {}
        self._next = itertools.count()
        signature = tuple(
            tf.TensorSpec(leaf.shape, tf.as_dtype(leaf.dtype.value)) for leaf in element_leaves(binding.element)
        )
        token = tf.compat.v1.placeholder(tf.int64, [])
        dataset = tf.data.Dataset.from_generator(self._read, args=[token], output_signature=signature)
        self.token: str = token.name
        self.variant: Any = tf.data.experimental.to_variant(dataset)

    def register(self, reader: _Reader) -> int:
        number = next(self._next)
        self._readers[number] = reader
        return number

    def clear(self) -> None:
        self._readers.clear()

    def _read(self, token: Any) -> Iterator[tuple[Array, ...]]:
        return self._readers[int(token)]()


def load_graph(data: bytes) -> Any:
    """The `GraphDef` in `data`.

    Raises:
      ProblemError: `plan_invalid`.
    """
    from google.protobuf.message import DecodeError

    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(data)
    except DecodeError as error:
        raise ProblemError(ProblemType.PLAN_INVALID, f"A graph of the plan can't be read: {error}") from error
    return graph_def


def _as_array(value: Any, dtype: DType) -> Array:
    if dtype is not DType.STRING:
        return np.asarray(value)
    if isinstance(value, np.ndarray):
        return value.astype(object)
    scalar = np.empty((), dtype=object)
    scalar[()] = value
    return scalar


def _reason(message: str) -> str:
    """The line of TensorFlow's message that says what went wrong, without the heading and the places."""
    noise = ("Graph execution error", "Detected at node", "File ", "Node: ", "[[", "Original stack trace")
    lines = [line.strip() for line in message.splitlines()]
    return next((line for line in lines if line and not line.startswith(noise)), message.strip())
