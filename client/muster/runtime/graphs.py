"""Runs one stage of a plan as a TensorFlow graph in separate sessions. Imports TensorFlow."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from typing import Any, Optional

import numpy as np

# The warning that a failing kernel logs may quote client data.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from muster.runtime.calls import Cancellation, cancelled_error, run_in_thread, time_limit_error
from muster.runtime.data import Elements
from muster.runtime.paths import element_leaves
from muster.runtime.values import Array
from muster.wire.dtypes import DType
from muster.wire.manifest import Binding, SequenceBinding, Stage, TensorBinding
from muster.wire.problems import ProblemError, ProblemType

_PREFIX = "plan"  # of the plan's nodes, so that they don't collide with those that feed the data sets
# Operations that TensorFlow marks stateful because they call functions. The operations of these
# functions are checked separately.
_CALLERS = frozenset({"StatefulPartitionedCall", "If", "While", "Case", "For"})


class StageGraph:
    """Graph of a stage, loaded once, that runs for any number of inputs and from several threads.

    Variables, tables and data sets live in a session. Each run has a separate session, so that no
    state carries over to the next one. A session is reused only if no operation of the graph can
    hold state.

    The meta optimizer is off, as in TFF's own equivalence tests: it conflicts with the duplicate
    functions of merged graphs.

    Args:
      graph_def: The `GraphDef`.
      stage: The stage, as the manifest describes it.
      name: The stage's name, for errors.
      data_sets: The data sets of an earlier graph of the same stage; None to create them.

    Raises:
      ProblemError: `plan_invalid`, if TensorFlow can't load the graph or a bound output is missing.
    """

    def __init__(self, graph_def: Any, *, stage: Stage, name: str, data_sets: Optional[StageDataSets] = None) -> None:
        self._name = name
        self._stage = stage
        self._graph = tf.Graph()
        self._data_sets = StageDataSets(stage) if data_sets is None else data_sets
        with self._graph.as_default():
            input_map = self._data_sets.load()
            try:
                tf.import_graph_def(graph_def, input_map=input_map, name=_PREFIX)
            except (ValueError, TypeError, tf.errors.OpError) as error:
                raise ProblemError(
                    ProblemType.PLAN_INVALID, f"TensorFlow {tf.__version__} can't load the plan's {name}: {error}"
                ) from error
        self._check_outputs()
        self._graph.finalize()
        reusable = stage.initialize is None and name != "work" and not holds_state(graph_def)
        self._idle: Optional[list[tf.compat.v1.Session]] = [] if reusable else None

    def run(
        self,
        inputs: Mapping[str, Mapping[str, Array]],
        *,
        sequences: Optional[Mapping[str, Elements]] = None,
        seconds: Optional[float] = None,
        stop: Optional[threading.Event] = None,
        only: Optional[Collection[str]] = None,
    ) -> dict[str, dict[str, Array]]:
        """Runs the computation on fresh variables, in a separate thread.

        Args:
          inputs: The tensors of each input value by name, already checked.
          sequences: The elements of the data sets, by name.
          seconds: The time limit; None: none.
          stop: Ends the run when it is set.
          only: The paths of the output tensors to compute; None: all.

        Returns:
          The tensors of each output value by name, in the declared order.

        Raises:
          TimeLimitError: the limit was reached.
          CancelledError: `stop` was set.
          ProblemError: `computation_failed`, if the graph fails.
          Exception: raised by reading a data set.
        """
        return run_in_thread(
            lambda cancellation: self.execute(inputs, sequences=sequences, only=only, cancellation=cancellation),
            name=self._name,
            seconds=seconds,
            stop=stop,
        )

    def execute(
        self,
        inputs: Mapping[str, Mapping[str, Array]],
        *,
        cancellation: Cancellation,
        sequences: Optional[Mapping[str, Elements]] = None,
        only: Optional[Collection[str]] = None,
    ) -> dict[str, dict[str, Array]]:
        """Runs the computation in this thread, until `cancellation` ends it; see `run`."""
        outputs = {
            value: [binding for binding in bindings if only is None or binding.path in only]
            for value, bindings in self._stage.outputs.items()
        }
        try:
            feeds: dict[str, Any] = {
                _tensor(binding): inputs[value][binding.path]
                for value, bindings in self._stage.inputs.items()
                for binding in bindings
                if isinstance(binding, TensorBinding)
            }
            readers = {
                path: _ElementReader((sequences or {})[path], cancellation, name=self._name)
                for path in self._data_sets.paths
            }
        except KeyError as error:
            raise ProblemError(
                ProblemType.PLAN_INVALID,
                f"The plan's {self._name} can't be used: it takes {error.args[0]}, which the plan does not provide. "
                "Build the plan anew.",
            ) from error
        tokens = self._data_sets.register(readers)
        feeds.update(tokens)
        try:
            fetched = self._fetch(feeds, outputs, cancellation)
        except tf.errors.OpError as error:
            for reader in readers.values():
                if reader.error is not None:
                    raise reader.error from None
            if isinstance(error, tf.errors.DeadlineExceededError) and cancellation.remaining() == 0.0:
                raise time_limit_error(self._name, cancellation.seconds) from None
            raise ProblemError(
                ProblemType.COMPUTATION_FAILED, f"The plan's {self._name} failed: {_reason(error.message)}"
            ) from error
        finally:
            self._data_sets.unregister(tokens)
        return {
            value: {binding.path: _as_array(tensor, binding.dtype) for binding, tensor in zip(bindings, fetched[value])}
            for value, bindings in outputs.items()
        }

    def _fetch(
        self,
        feeds: Mapping[str, Any],
        outputs: Mapping[str, Iterable[TensorBinding]],
        cancellation: Cancellation,
    ) -> Any:
        fetches = {value: [_tensor(binding) for binding in bindings] for value, bindings in outputs.items()}
        session = self._acquire_session()
        try:
            cancellation.on_cancel(session.close)
            initializers = [f"{_PREFIX}/{self._stage.initialize}"] if self._stage.initialize else []
            for step in [*initializers, fetches]:
                if cancellation.cancelled:
                    raise cancelled_error(self._name)
                fetched = session.run(step, feeds, options=_options(cancellation.remaining()))
        finally:
            if cancellation.release() and self._idle is not None:
                self._idle.append(session)
            else:
                session.close()
        return fetched

    def _check_outputs(self) -> None:
        for binding in itertools.chain.from_iterable(self._stage.outputs.values()):
            try:
                dtype = self._graph.get_tensor_by_name(_tensor(binding)).dtype
            except (KeyError, ValueError):
                dtype = None
            if dtype != tf.as_dtype(binding.dtype.value):
                raise ProblemError(
                    ProblemType.PLAN_INVALID,
                    f"The plan's {self._name} can't be used: its graph has no {binding.dtype.value} tensor "
                    f"{binding.tensor}, which the manifest names for {binding.path}. Build the plan anew.",
                )

    def _acquire_session(self) -> tf.compat.v1.Session:
        try:
            return self._idle.pop() if self._idle else self._open_session()
        except IndexError:  # another thread took the last one
            return self._open_session()

    def _open_session(self) -> tf.compat.v1.Session:
        # Separate threads: a stuck graph blocks no other.
        config = tf.compat.v1.ConfigProto(allow_soft_placement=True, use_per_session_threads=True)
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        return tf.compat.v1.Session(graph=self._graph, config=config)


def holds_state(graph_def: Any) -> bool:
    """Returns whether a graph has an operation that may hold state between two runs."""
    nodes = itertools.chain(graph_def.node, *(function.node_def for function in graph_def.library.function))
    functions = {function.signature.name for function in graph_def.library.function}
    return any(_is_stateful(op) for op in {node.op for node in nodes} - functions)


def _is_stateful(op: str) -> bool:
    definition = op_def_registry.get(op)
    return op not in _CALLERS and (definition is None or definition.is_stateful or "Cache" in op)


def _options(seconds: Optional[float]) -> Any:
    return None if seconds is None else tf.compat.v1.RunOptions(timeout_in_ms=max(1, math.ceil(seconds * 1000)))


def _tensor(binding: Binding) -> str:
    return f"{_PREFIX}/{binding.tensor}"


class _ElementReader:
    """Reader of one call's elements.

    Attributes:
      error: The exception that reading raised; None if there was none. A session passes on only
        its text.
    """

    def __init__(self, elements: Elements, cancellation: Cancellation, *, name: str) -> None:
        self._elements = elements
        self._cancellation = cancellation
        self._name = name
        self.error: Optional[BaseException] = None

    def __call__(self) -> Iterator[tuple[Array, ...]]:
        elements = self._elements()
        try:
            for element in elements:
                self._check()
                yield element
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                self.error = error
            raise
        finally:
            # The garbage collector would not close it: the error's traceback refers to the
            # generator.
            if isinstance(elements, Generator):
                elements.close()

    def _check(self) -> None:
        if self._cancellation.cancelled:
            raise cancelled_error(self._name)
        if self._cancellation.remaining() == 0.0:
            raise time_limit_error(self._name, self._cancellation.seconds)


class StageDataSets:
    """Data sets of a stage, as nodes of a graph.

    Each run feeds a token for every data set, which identifies the reader of its elements. The data
    sets are traced once, in a separate graph, which is loaded into every graph of the stage.
    """

    def __init__(self, stage: Stage) -> None:
        self._readers: dict[int, _ElementReader] = {}
        self._next = itertools.count()
        self._tensors: dict[str, tuple[str, str, str]] = {}  # path: the plan's tensor, the token, the variant
        self._graph = tf.Graph()  # referenced here, since it owns the Python functions that its nodes call
        with self._graph.as_default():
            for binding in itertools.chain.from_iterable(stage.inputs.values()):
                if isinstance(binding, SequenceBinding):
                    self._add(binding)
        self._graph_def = self._graph.as_graph_def()

    @property
    def paths(self) -> Iterable[str]:
        """Returns the names of the data sets."""
        return self._tensors

    def load(self) -> dict[str, Any]:
        """Loads the data sets into the default graph.

        Returns the replacements of the plan's tensors, by name.
        """
        names = [variant for _, _, variant in self._tensors.values()]
        variants = tf.import_graph_def(self._graph_def, return_elements=names, name="") if names else []
        return {tensor: variant for (tensor, _, _), variant in zip(self._tensors.values(), variants)}

    def register(self, readers: Mapping[str, _ElementReader]) -> dict[str, int]:
        """Registers the readers of one run. Returns the feeds."""
        feeds = {}
        for path, reader in readers.items():
            number = next(self._next)
            self._readers[number] = reader
            feeds[self._tensors[path][1]] = number
        return feeds

    def unregister(self, feeds: Mapping[str, int]) -> None:
        """Unregisters the readers of one run."""
        for number in feeds.values():
            del self._readers[number]

    def _add(self, binding: SequenceBinding) -> None:
        signature = tuple(
            tf.TensorSpec(leaf.shape, tf.as_dtype(leaf.dtype.value)) for leaf in element_leaves(binding.element)
        )
        token = tf.compat.v1.placeholder(tf.int64, [])
        dataset = tf.data.Dataset.from_generator(self._read, args=[token], output_signature=signature)
        variant = tf.data.experimental.to_variant(dataset)
        self._tensors[binding.path] = (binding.tensor, token.name, variant.name)

    def _read(self, token: Any) -> Iterator[tuple[Array, ...]]:
        return self._readers[int(token)]()


def load_graph(data: bytes) -> Any:
    """Parses a serialized graph to TensorFlow's `GraphDef`.

    Raises:
      ProblemError: `plan_invalid`, if it can't be parsed.
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
    """Returns the line of TensorFlow's message that states the error.

    Headings and positions are skipped.
    """
    noise = ("Graph execution error", "Detected at node", "File ", "Node: ", "[[", "Original stack trace")
    lines = [line.strip() for line in message.splitlines()]
    return next((line for line in lines if line and not line.startswith(noise)), message.strip())
