"""Describes rounds and tasks as text, for `muster task show` and `muster task watch`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from muster.cli.options import updates_of
from muster.terminal import size
from muster.wire.messages import Phase, RoundView, TaskStatus, TaskView

_MAX_METRICS = 4  # of a line
_COUNTS = ("num_examples", "num_batches")  # metrics that count data; listed after the others


def short_names(metrics: Mapping[str, float]) -> dict[str, str]:
    """Returns the metrics to show, by path, each with its shortest unambiguous name."""
    paths = sorted(metrics, key=lambda path: path.rpartition("/")[2] in _COUNTS)[:_MAX_METRICS]
    names: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        depth = 1
        while depth < len(parts) and any(
            other != path and other.split("/")[-depth:] == parts[-depth:] for other in metrics
        ):
            depth += 1
        names[path] = "/".join(parts[-depth:])
    return names


def counted(reasons: Mapping[str, int]) -> str:
    """Returns counts by reason, the most frequent first: `data 3, cancelled 1`."""
    return ", ".join(
        f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]) if count
    )


def attempt(view: RoundView) -> str:
    """Returns the round's number and, from the second on, its attempt: `round 4 (attempt 2)`."""
    return f"round {view.round}" + (f" (attempt {view.epoch + 1})" if view.epoch else "")


def open_round(view: RoundView) -> str:
    """Describes an open round: `round 4, COLLECTING: 2 of 3 updates; 5 assignments, of which 2 were given back`."""
    text = f"{attempt(view)}, {view.phase.value}: {updates_of(view)}; {_many(view.assigned, 'assignment')}"
    returned = sum(view.failed.values())
    if returned:
        text += f", {returned} given back ({counted(view.failed)})"
    return f"{text}, at most {view.cap} at a time"


def ended_round(view: RoundView) -> str:
    """Describes a round that has ended in one line, with its counts, the reasons of failures and its first metrics."""
    head = f"{attempt(view)} {view.phase.value.lower()}"
    if view.phase is Phase.ABANDONED:
        parts = [view.reason or "no reason was recorded"]
    else:
        parts = [f"{_many(view.folded, 'update')}, {size(view.update_bytes)}"]
    parts += troubles(view)
    parts += [f"{name} {view.metrics[path]:.4g}" for path, name in short_names(view.metrics).items()]
    return f"{head}: {'; '.join(parts)}"


def troubles(view: RoundView) -> list[str]:
    """Describes a round's failures: those that clients reported and updates that the fold dropped, by reason."""
    found = []
    if any(view.failed.values()):
        found.append(f"failed at clients: {counted(view.failed)}")
    if any(view.dropped.values()):
        found.append(f"dropped by the fold: {counted(view.dropped)}")
    return found


def progress(view: TaskView) -> str:
    """Returns a task's progress as text: `digits: 3/12 rounds, active`."""
    return f"{view.spec.name}: {view.checkpoint}/{view.spec.policy.rounds} rounds, {view.status.value}"


def warnings_of(view: TaskView) -> list[str]:
    """Returns what an operator should know of a task's privacy."""
    warnings = []
    if view.spec.policy.minimum == 1:
        warnings.append("MINIMUM 1: a round's result may be the update of a single client.")
    if view.sums_in_the_clear:
        warnings.append("SUMS IN THE CLEAR: the plan asks for secure sums, and they are not secure here.")
    return warnings


def waiting_for(view: TaskView) -> Optional[str]:
    """Returns the condition that a task waits for and that may need an operator; None if nothing is amiss."""
    if view.status is TaskStatus.OPENING:
        return "The committer computes the first broadcast."
    current = view.current
    if view.status is not TaskStatus.ACTIVE or current is None or current.phase is not Phase.COLLECTING:
        return None
    if not current.assigned:
        return (
            f"No client of population {view.spec.population} has taken an assignment yet. The round closes with {current.goal} updates, "
            f"or with {current.minimum} or more at its deadline."
        )
    return None


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
