"""Runs a plan's graphs within a task's time limit, and translates failures into `ProblemError`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from muster.wire.manifest import PlanManifest
from muster.wire.problems import ProblemError, ProblemType, TimeLimitError
from muster.wire.tensors import Array, TensorsError, decode, encode
from muster_coordinator.ports import StoreError

if TYPE_CHECKING:
    from muster.runtime import Runtime, UpdateResult

# Problems that a retry can't fix: an invalid plan, failing graphs, and partials that do not match.
FINAL_PROBLEMS = frozenset(
    {
        ProblemType.PLAN_INVALID,
        ProblemType.INVALID_REQUEST,
        ProblemType.NOT_SUPPORTED,
        ProblemType.COMPUTATION_FAILED,
        ProblemType.UPDATE_INVALID,
    }
)
_COPIES_PER_RUN = 4  # of a plan's state and accumulator
_MAX_REASON = 300  # characters of a foreign error's text that a note quotes

T = TypeVar("T")


class MemoryLimitError(ProblemError):
    """Error raised when a plan needs more memory than the function has. A retry does not help."""

    def __init__(self, detail: str) -> None:
        super().__init__(ProblemType.COMPUTATION_FAILED, detail)


@dataclass(frozen=True)
class PlanRunner:
    """Runner of the coordinator's stages, with the interface of `muster.runtime.Runtime`.

    Attributes:
      runtime: The plan's runtime.
      seconds: The longest time of one run of a graph.
    """

    runtime: Runtime
    seconds: float

    def prepare(self, state: Mapping[str, Any]) -> dict[str, Array]:
        """See `Runtime.prepare`."""
        return self._run("prepare", partial(self.runtime.prepare, state))

    def accumulate(
        self, accumulator: Mapping[str, Any], update: Mapping[str, Any], *, only: Collection[str] | None = None
    ) -> dict[str, Array]:
        """See `Runtime.accumulate`."""
        return self._run("accumulate", partial(self.runtime.accumulate, accumulator, update, only=only))

    def merge(
        self, left: Mapping[str, Any], right: Mapping[str, Any], *, only: Collection[str] | None = None
    ) -> dict[str, Array]:
        """See `Runtime.merge`."""
        return self._run("merge", partial(self.runtime.merge, left, right, only=only))

    def report(self, accumulator: Mapping[str, Any]) -> dict[str, Array]:
        """See `Runtime.report`."""
        return self._run("report", partial(self.runtime.report, accumulator))

    def update(
        self, state: Mapping[str, Any], aggregate: Mapping[str, Any], clear_sums: Mapping[str, Any]
    ) -> UpdateResult:
        """See `Runtime.update`."""
        return self._run("update", partial(self.runtime.update, state, aggregate, clear_sums))

    def _run(self, stage: str, run: Callable[..., T]) -> T:
        try:
            with plan_failures(f"The plan's {stage}"):
                return run(seconds=self.seconds)
        except TimeLimitError as error:
            raise TimeLimitError(
                f"The plan's {stage} ran for more than {self.seconds:g} s (graph_seconds) and was stopped"
            ) from error


@contextmanager
def plan_failures(what: str) -> Iterator[None]:
    """Translates the errors of a plan's graphs or tensors into a `ProblemError`.

    For a body that calls no store.

    Args:
      what: The subject of the problem's text: `The plan's update`.

    Raises:
      MemoryLimitError: there is not enough memory.
      ProblemError: `plan_invalid`, for every other error that is not a `ProblemError` yet.
    """
    try:
        yield
    except (ProblemError, StoreError, ImportError):
        raise  # a missing library is the deployment's fault
    except (MemoryError, OSError) as error:
        raise MemoryLimitError(
            f"{what} needs more memory than is available ({_text(error)}). Give the function more memory, or make the "
            "model smaller"
        ) from error
    except Exception as error:  # a graph may raise any error of TensorFlow and numpy
        raise ProblemError(
            ProblemType.PLAN_INVALID, f"{what} does not fit what the plan's manifest declares ({_text(error)})"
        ) from error


def plan_refused(detail: str) -> ProblemError:
    """Returns the problem of a plan that may not run as its task demands."""
    return ProblemError(ProblemType.PLAN_INVALID, detail)


def memory_of_run(manifest: PlanManifest) -> int:
    """Returns the approximate bytes that a run of the coordinator's stages holds at once."""
    return _COPIES_PER_RUN * (manifest.initial_state.size + manifest.zero.size)


def encode_output(tensors: Mapping[str, Array], *, what: str) -> bytes:
    """Returns tensors that a plan computed as safetensors.

    Raises:
      ProblemError: `plan_invalid` if they can't be encoded; see `plan_failures`.
    """
    with plan_failures(f"The plan's {what}"):
        return encode(tensors)


def read_state(data: memoryview) -> dict[str, Array]:
    """Decodes the tensors of a checkpoint.

    Raises:
      ProblemError: `plan_invalid`, if its bytes are damaged.
    """
    try:
        return decode(data)
    except TensorsError as error:
        raise ProblemError(ProblemType.PLAN_INVALID, f"The checkpoint can't be read: {error}") from error


def _text(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:_MAX_REASON]}" if lines else type(error).__name__
