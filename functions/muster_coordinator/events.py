"""Logs events of rounds and updates, as one JSON object per line, for a monitoring system to count.

Cloud Logging parses a line of JSON on standard output as a structured entry, with its `severity`
and `message`; `infra/terraform/modules/monitoring` derives metrics from the field `event`. No event
names a client or holds a token. Nothing is written before `write_to` or `propagate` is called, so
tests, simulations and libraries log nothing.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TextIO

from muster.wire.problems import ProblemType
from muster_coordinator.domain.rounds import Abandoned, Aggregating, Collecting, Committed

LOG = logging.getLogger(__name__)
LOG.addHandler(logging.NullHandler())

RECORD_ATTRIBUTE = "muster_event"  # attribute of a log record that holds its `Event`
LATE_SECONDS = 120.0  # seconds after which an overdue round is logged; the alert has its own threshold


@dataclass(frozen=True)
class Event:
    """An event, for handlers that format it themselves.

    Attributes:
      message: One sentence.
      fields: The other fields of its line, without the severity.
    """

    message: str
    fields: Mapping[str, str | float | bool]


def propagate() -> None:
    """Passes events to the handlers of the root logger, which format `Event`."""
    LOG.setLevel(logging.INFO)
    LOG.propagate = True


def write_to(stream: TextIO | None = None) -> None:
    """Writes events to `stream`, or standard output if None. Only the first call has an effect."""
    if any(isinstance(handler, logging.StreamHandler) for handler in LOG.handlers):
        return
    handler = logging.StreamHandler(sys.stdout if stream is None else stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def round_committed(round_: Committed) -> None:
    """Logs that a round was committed."""
    key, tally = round_.key, round_.tally
    _emit(
        logging.INFO,
        "round_committed",
        f"Round {key.number} of task {key.task} is committed: {tally.folded} updates",
        task=key.task,
        round=key.number,
        epoch=key.epoch,
        assigned=tally.assigned,
        folded=tally.folded,
        dropped=sum(tally.dropped.values()),
        failed=sum(tally.failed.values()),
        update_bytes=tally.update_bytes,
        seconds=round(round_.ended_at - round_.terms.opened_at, 3),
        commit_seconds=round(round_.ended_at - round_.closed_at, 3),
    )


def round_abandoned(round_: Abandoned, *, below_minimum: bool) -> None:
    """Logs that an attempt was abandoned: with too few updates, or by an operator's action."""
    key = round_.key
    _emit(
        logging.WARNING if below_minimum else logging.INFO,
        "round_abandoned",
        f"Round {key.number} of task {key.task} is abandoned: {round_.reason}",
        task=key.task,
        round=key.number,
        epoch=key.epoch,
        below_minimum=below_minimum,
        assigned=round_.tally.assigned,
        seconds=round(round_.ended_at - round_.terms.opened_at, 3),
    )


def guard_tripped(round_: Committed, *, paused: str) -> None:
    """Logs that the guards of a round paused a task: its own, or the one that it evaluates.

    Args:
      round_: The round.
      paused: Name of the paused task.
    """
    key, guards = round_.key, ", ".join(round_.tripped)
    _emit(
        logging.WARNING,
        "guard_tripped",
        f"Round {key.number} of task {key.task} tripped {guards}: task {paused} is paused",
        task=key.task,
        round=key.number,
        epoch=key.epoch,
        guards=guards,
        paused=paused,
    )


def round_late(round_: Collecting | Aggregating, *, now: float) -> None:
    """Logs a round that is open more than `LATE` seconds after its deadline or close.

    Args:
      round_: The round.
      now: The time, in POSIX seconds.
    """
    due = round_.terms.deadline if isinstance(round_, Collecting) else round_.closed_at
    if now - due <= LATE_SECONDS:
        return
    key = round_.key
    _emit(
        logging.ERROR,
        "round_stuck",
        f"Round {key.number} of task {key.task} is {round_.phase} {now - due:.0f} seconds after it was due to continue",
        task=key.task,
        round=key.number,
        epoch=key.epoch,
        phase=round_.phase,
        seconds_late=round(now - due, 3),
    )


def update_refused(problem: ProblemType | str, *, at: Literal["upload", "fold"]) -> None:
    """Logs that an update was refused when it was uploaded, or dropped when it was folded."""
    name = problem.value if isinstance(problem, ProblemType) else problem
    _emit(logging.WARNING, "update_refused", f"An update was refused at the {at}: {name}", problem=name, at=at)


def task_unreadable(name: str, reason: str) -> None:
    """Logs, at every tick, that the tick skipped a task with an unreadable document."""
    _emit(logging.ERROR, "task_unreadable", f"The tick skipped task {name}: {reason}", task=name)


def updates_stored(count: int, *, oldest_seconds: float) -> None:
    """Logs, at every tick, the number of stored updates and the age of the oldest in seconds."""
    _emit(
        logging.INFO,
        "updates_stored",
        f"{count} single updates are stored, the oldest for {oldest_seconds:.0f} seconds",
        count=count,
        oldest_seconds=round(oldest_seconds, 3),
    )


def _emit(level: int, event: str, message: str, **fields: str | float | bool) -> None:
    if LOG.isEnabledFor(level):
        values = {"event": event, **fields}
        line = {"severity": logging.getLevelName(level), "message": message, **values}
        LOG.log(level, "%s", json.dumps(line, separators=(",", ":")), extra={RECORD_ATTRIBUTE: Event(message, values)})
