"""Formats the outcome of `muster plan check`, as a table with a verdict and as JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from muster.cli.plan.text import titled
from muster.terminal import console

if TYPE_CHECKING:
    from muster.author import DrawSource, PlanCheck

_SHOWN = 4  # names of tensors in a line


def to_dict(found: PlanCheck) -> dict[str, Any]:
    """Returns the document that `--json` writes."""
    from muster.author import Verdict

    return {
        "verdict": found.verdict.value,
        "same": found.verdict is Verdict.SAME,
        "tolerance": found.tolerance,
        "worst": found.worst,
        "rounds": [dataclasses.asdict(each) for each in found.rounds],
        "fixed": [dataclasses.asdict(each) for each in found.fixed],
        "random": [dataclasses.asdict(each) for each in found.sources],
        "unordered": list(found.unordered),
        "not_compared": list(found.not_compared),
    }


def show(found: PlanCheck) -> None:
    """Shows the differences and the verdict."""
    fixed = ", with the draws fixed on both sides" if found.sources else ""
    table = titled(f"Largest relative difference to TFF{fixed}", "round", "state", "at", "result", "at")
    for each in found.fixed or found.rounds:
        state, result = each.state, each.result
        table.add_row(str(each.round), f"{state.relative:.1e}", state.path, f"{result.relative:.1e}", result.path)
    screen = console()
    screen.print(table)
    screen.print(_verdict(found), soft_wrap=True)
    for line in _premises(found):
        screen.print(f"  {line}", soft_wrap=True)


def _verdict(found: PlanCheck) -> str:
    from muster.author import Verdict

    tolerance = f"(tolerance {found.tolerance:.0e})"
    if found.verdict is Verdict.SAME:
        return f"[green]Same[/]: at most {found.worst:.1e} {tolerance}"
    if found.verdict is Verdict.DIFFERENT:
        return f"[bold red]Different[/]: up to {found.worst:.1e} {tolerance}"
    return f"[yellow]Same but for what is drawn at random[/]: at most {found.worst:.1e} with the draws fixed on both sides {tolerance}"


def _premises(found: PlanCheck) -> list[str]:
    """Returns the premises of the verdict, a line each."""
    lines = [_source(each) for each in found.sources]
    if found.unordered:
        lines.append(f"Compared in any order of their rows: {_names(found.unordered)}")
    if found.not_compared:
        lines.append(f"Not compared, because these draws can't be fixed: {_names(found.not_compared)}")
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
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
