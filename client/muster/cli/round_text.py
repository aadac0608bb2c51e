"""Describes rounds and tasks as text, for `muster task show` and `muster task watch`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Optional

from muster.terminal import size
from muster.wire.messages import Phase, RoundView, StateRef, TaskStatus, TaskView

_MAX_METRICS = 4  # in one line
_COUNTS = ("num_examples", "num_batches")  # metrics that count data; listed after the others


def short_names(metrics: Mapping[str, float]) -> dict[str, str]:
    """Returns the shortest unambiguous name of each metric to show, by path."""
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


def updates_of(view: RoundView) -> str:
    """Returns a round's number of updates as text: `3 of 10 updates`.

    A small round has that number only once it has ended.
    """
    if view.reported is None:
        return f"goal of {view.goal} updates (counted when the round has ended)"
    return f"{view.reported} of {view.goal} updates"


def counted(reasons: Mapping[str, int]) -> str:
    """Returns counts by reason, the most frequent first: `data 3, cancelled 1`."""
    return ", ".join(
        f"{reason} {count}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]) if count
    )


def attempt(view: RoundView) -> str:
    """Returns the number of a round and, after the first, of its attempt: `round 4 (attempt 2)`."""
    return f"round {view.round}" + (f" (attempt {view.epoch + 1})" if view.epoch else "")


def open_round(view: RoundView) -> str:
    """Describes an open round: `round 4, COLLECTING: 2 of 3 updates; 5 assignments, …`."""
    text = f"{attempt(view)}, {view.phase.value}: {updates_of(view)}; {_many(view.assigned, 'assignment')}"
    returned = sum(view.failed.values())
    if returned:
        text += f", {returned} given back ({counted(view.failed)})"
    return f"{text}, at most {view.cap} at a time"


def ended_round(view: RoundView) -> str:
    """Describes an ended round in one line: counts, reasons of failures and some metrics."""
    head = f"{attempt(view)} {view.phase.value.lower()}"
    if view.phase is Phase.ABANDONED:
        parts = [view.reason or "no reason was recorded"]
    else:
        parts = [f"{_many(view.folded, 'update')}, {size(view.update_bytes)}"]
    parts += troubles(view)
    if view.tripped:
        parts.append(f"guards: {', '.join(view.tripped)}")
    parts += [f"{name} {view.metrics[path]:.4g}" for path, name in short_names(view.metrics).items()]
    return f"{head}: {'; '.join(parts)}"


def troubles(view: RoundView) -> list[str]:
    """Describes a round's failed assignments and dropped updates, by reason."""
    lines = []
    if any(view.failed.values()):
        lines.append(f"failed at clients: {counted(view.failed)}")
    if any(view.dropped.values()):
        lines.append(f"dropped by the fold: {counted(view.dropped)}")
    return lines


def progress(view: TaskView) -> str:
    """Returns a task's progress as text: `digits: 3/12 rounds, active`."""
    return f"{view.spec.name}: {short_rounds_of(view)} rounds, {view.status.value}"


def line_of(view: TaskView) -> int:
    """Returns the rounds that count towards the policy's, also of an older coordinator."""
    return view.line or view.checkpoint


def short_rounds_of(view: TaskView) -> str:
    """Returns the number of rounds as text: `3/12`, or `3` of a task without a number to reach."""
    return str(line_of(view)) if _runs_on_request(view) else f"{line_of(view)}/{view.spec.policy.rounds}"


def rounds_of(view: TaskView) -> str:
    """Returns the number of rounds as text: `3 of 12 rounds`."""
    return f"{short_rounds_of(view).replace('/', ' of ')} rounds"


def _runs_on_request(view: TaskView) -> bool:
    return view.spec.driven or view.spec.evaluates is not None


def lineage_of(view: TaskView) -> list[str]:
    """Describes a task's kind, start, evaluated task, tags and newest run, where it has them."""
    spec, lines = view.spec, []
    if spec.evaluates is not None:
        lines.append(
            f"evaluates task {spec.evaluates.task} every {_many(spec.evaluates.every, 'round')}, with "
            f"{spec.evaluates.share:.0%} of the clients"
        )
    if spec.selector is not None:
        lines.append(f"selector {json.dumps(spec.selector)}")
    if spec.start is not None:
        lines.append(f"starts from {_reference(spec.start)}")
    if view.tags:
        lines.append("tags " + ", ".join(f"{tag}={version}" for tag, version in sorted(view.tags.items())))
    if view.run is not None:
        lines.append(f"run {view.run.request}: {view.run.status.value}")
    return lines


def _reference(reference: StateRef) -> str:
    return f"state {reference.state[:12]}" if reference.state is not None else f"{reference.task}@{reference.version}"


def warnings_of(view: TaskView) -> list[str]:
    """Returns warnings about a task's privacy."""
    warnings = []
    if view.spec.policy.minimum == 1:
        warnings.append("MINIMUM 1: a round's result may be the update of a single client.")
    if view.sums_in_the_clear:
        warnings.append("SUMS IN THE CLEAR: the plan declares secure sums, and they are not secure here.")
    return warnings


def waiting_for(view: TaskView) -> Optional[str]:
    """Returns the condition that a task waits for and that may need an operator, or None."""
    if view.status is TaskStatus.OPENING:
        return "The committer computes the first broadcast."
    current = view.current
    if view.status is not TaskStatus.ACTIVE or current is None or current.phase is not Phase.COLLECTING:
        return None
    if not current.assigned:
        return (
            f"No client of population {view.spec.population} has taken an assignment yet. The round closes with "
            f"{current.goal} updates, or with {current.minimum} or more at its deadline."
        )
    return None


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
