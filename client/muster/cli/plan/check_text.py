"""Formats the outcome of `muster plan check`, as a table with a verdict and as JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from muster.cli.plan.text import titled_table
from muster.terminal import console

if TYPE_CHECKING:
    from muster.author import DrawSource, PlanCheck

_MAX_SHOWN_TENSORS = 4  # in a line


def to_dict(check: PlanCheck) -> dict[str, Any]:
    """Returns the document that `--json` writes."""
    from muster.author import Verdict

    return {
        "verdict": check.verdict.value,
        "same": check.verdict is Verdict.SAME,
        "tolerance": check.tolerance,
        "worst": check.worst,
        "rounds": [dataclasses.asdict(difference) for difference in check.rounds],
        "fixed": [dataclasses.asdict(difference) for difference in check.fixed],
        "random": [dataclasses.asdict(source) for source in check.sources],
        "unordered": list(check.unordered),
        "not_compared": list(check.not_compared),
    }


def show(check: PlanCheck) -> None:
    """Prints a table of the differences, the verdict and its premises."""
    fixed = ", with the draws fixed on both sides" if check.sources else ""
    table = titled_table(f"Largest relative difference to TFF{fixed}", "round", "state", "at", "result", "at")
    for difference in check.fixed or check.rounds:
        state, result = difference.state, difference.result
        table.add_row(str(difference.round), f"{state.relative:.1e}", state.path, f"{result.relative:.1e}", result.path)
    screen = console()
    screen.print(table)
    screen.print(_verdict(check), soft_wrap=True)
    for line in _premises(check):
        screen.print(f"  {line}", soft_wrap=True)


def _verdict(check: PlanCheck) -> str:
    from muster.author import Verdict

    tolerance = f"(tolerance {check.tolerance:.0e})"
    if check.verdict is Verdict.SAME:
        return f"[green]Same[/]: at most {check.worst:.1e} {tolerance}"
    if check.verdict is Verdict.DIFFERENT:
        return f"[bold red]Different[/]: up to {check.worst:.1e} {tolerance}"
    return (
        f"[yellow]Same except for random draws[/]: at most {check.worst:.1e} "
        f"with the draws fixed on both sides {tolerance}"
    )


def _premises(check: PlanCheck) -> list[str]:
    """Returns the premises of the verdict, one per line."""
    lines = [_source(source) for source in check.sources]
    if check.unordered:
        lines.append(f"Compared in any order of their rows: {_names(check.unordered)}")
    if check.not_compared:
        lines.append(f"Not compared, because their draws can't be fixed: {_names(check.not_compared)}")
    return lines


def _source(source: DrawSource) -> str:
    operations = ", ".join(source.operations)
    where = f" ({', '.join(source.names)})" if source.names else ""
    clock = ", which reads the clock" if source.reads_clock else ""
    reaches = [
        f"{value} {_names(paths)}" for value, paths in (("state", source.state), ("result", source.result)) if paths
    ]
    return f"{operations} in {source.stage}{where}{clock}: may change {'; '.join(reaches)}"


def _names(paths: tuple[str, ...]) -> str:
    more = f" and {len(paths) - _MAX_SHOWN_TENSORS} more" if len(paths) > _MAX_SHOWN_TENSORS else ""
    return ", ".join(paths[:_MAX_SHOWN_TENSORS]) + more
