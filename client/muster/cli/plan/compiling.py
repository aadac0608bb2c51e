"""Loads computations and first states for TFF, as the commands that compile a plan share them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from muster.cli.loading import load_computation
from muster.terminal import quiet_tensorflow

CLEAR_SUMS_OPTION = "--allow-clear-secure-sums"

Computation = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:COMPUTATION",
        help="TFF process or computation, or a function without arguments that builds one.",
    ),
]
ClearSums = Annotated[
    bool,
    typer.Option(
        CLEAR_SUMS_OPTION,
        help="Allow secure sums of the computation to be computed in the clear, since Muster has no secure "
        "aggregation. By default such a computation is refused.",
    ),
]
InitialState = Annotated[
    Optional[str],
    typer.Option(
        "--initial-state",
        metavar="FILE|MODULE:FUNCTION",
        help="State before the first round: a checkpoint (.safetensors or .npz), a folder of a run (its last "
        "checkpoint), or a function that returns the state.",
        show_default="the computation's",
    ),
]


def load_in_tff(reference: str, *, seed: Optional[int] = None) -> Any:
    """Starts TFF's worker and returns the computation that a reference denotes.

    Args:
      reference: `module:computation` or `path/to/file.py:computation`.
      seed: Seed of Keras' initial weights; None: random.

    Raises:
      LoadingError: see `muster.cli.loading.load_computation`.
    """
    quiet_tensorflow()
    from muster.author import tff_worker

    # Started before the user's module is imported, since the worker would hold its output open.
    tff_worker.start()
    if seed is not None:
        tff_worker.seed_keras(seed)
    return load_computation(reference)


def load_state(reference: Optional[str]) -> Any:
    """Returns the first state of `--initial-state`: a path, a function's return value, or None.

    Raises:
      typer.BadParameter: the reference is neither a file nor `module:function`.
    """
    if reference is None:
        return None
    path = Path(reference)
    if path.exists():
        return path
    if ":" not in reference:
        raise typer.BadParameter(
            f"there is no file {reference}; pass a checkpoint, a folder of a run or module:function",
            param_hint="--initial-state",
        )
    return load_computation(reference)
