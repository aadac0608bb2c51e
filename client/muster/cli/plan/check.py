"""`muster plan check`: compares a plan with its computation in TFF."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muster.cli.failures import FAILED
from muster.cli.loading import load_function
from muster.cli.options import Data
from muster.cli.options import Json as JsonOption
from muster.cli.plan import check_text
from muster.cli.plan.compiling import (
    CLEAR_SUMS_OPTION,
    ClearSums,
    Computation,
    InitialState,
    load_in_tff,
    load_state,
)
from muster.cli.warning_lines import warnings_as_lines
from muster.terminal import write_json

if TYPE_CHECKING:
    from muster.author import PlanCheck

SAME_BUT_RANDOM = 4  # exit code


def check(
    computation: Computation,
    *,
    data: Data,
    rounds: Annotated[int, typer.Option(help="Number of rounds to compare.", min=1)] = 3,
    tolerance: Annotated[float, typer.Option(help="Largest relative difference that passes.", min=0.0)] = 1e-5,
    initial_state: InitialState = None,
    allow_clear_secure_sums: ClearSums = False,
    as_json: JsonOption = False,
) -> None:
    """Run a computation in TFF and as a plan, and compare the results.

    Exits with 0 if they are the same, with 1 if they differ, and with 4 if they are the same except
    for random draws and clock reads, which are listed.

    The function of --data returns a sequence or mapping of client data sets, or a TFF ClientData.
    Its optional argument is the number of the round.
    """
    loaded = load_in_tff(computation)
    from muster.author import SecureSumsError, check_plan

    try:
        with warnings_as_lines():
            comparison = check_plan(
                loaded,
                load_function(data),
                rounds=rounds,
                initial_state=load_state(initial_state),
                allow_clear_secure_sums=allow_clear_secure_sums,
                tolerance=tolerance,
            )
    except SecureSumsError as error:
        raise error.for_option(CLEAR_SUMS_OPTION) from None
    if as_json:
        write_json(_finite(check_text.to_dict(comparison)))
    else:
        check_text.show(comparison)
    code = _exit_code(comparison)
    if code:
        raise typer.Exit(code)


def _exit_code(comparison: PlanCheck) -> int:
    from muster.author import Verdict

    return {Verdict.SAME: 0, Verdict.SAME_BUT_RANDOM: SAME_BUT_RANDOM, Verdict.DIFFERENT: FAILED}[comparison.verdict]


def _finite(value: Any) -> Any:
    """Replaces infinity and NaN in a document by text, since JSON has neither."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
