"""What happens to rounds and updates, as one line of JSON each, for a monitoring system to count.

Cloud Logging takes a line on standard output that is a JSON object as a structured entry, `severity` and `message` included;
`infra/terraform/modules/monitoring` makes metrics of them by their `event`. Nothing here names a client or holds a token, and
nothing is written until `write_to` says where: in a test, a simulation or a library there is silence.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal, TextIO

from muster.wire.problems import ProblemType
from muster_coordinator.domain.rounds import Abandoned, Aggregating, Collecting, Committed

LOG = logging.getLogger(__name__)
LOG.addHandler(logging.NullHandler())

LATE = 120.0  # seconds after which a round that should have gone on is logged; what is too late, the alert says


def write_to(stream: TextIO | None = None) -> None:
    """Has events written to `stream` (standard output if none), once however often it is called."""
    if any(isinstance(handler, logging.StreamHandler) for handler in LOG.handlers):
        return
    handler = logging.StreamHandler(sys.stdout if stream is None else stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def round_committed(round_: Committed) -> None:
    """A round has ended with a new state. Times in seconds, `update_bytes` in bytes."""
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
    """A round's attempt was given up: with too few updates, or, not `below_minimum`, because somebody ended or moved the task."""
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


def round_late(round_: Collecting | Aggregating, *, now: float) -> None:
    """Says so if a round is open though its deadline, or its close, is more than `LATE` seconds ago. `now` in POSIX seconds."""
    due = round_.terms.deadline if isinstance(round_, Collecting) else round_.closed_at
    if now - due <= LATE:
        return
    key = round_.key
    _emit(
        logging.ERROR,
        "round_stuck",
        f"Round {key.number} of task {key.task} is {round_.phase} {now - due:.0f} seconds after it should have gone on",
        task=key.task,
        round=key.number,
        epoch=key.epoch,
        phase=round_.phase,
        seconds_late=round(now - due, 3),
    )


def update_refused(problem: ProblemType | str, *, at: Literal["upload", "fold"]) -> None:
    """An update was refused when it came, or left out when it was folded."""
    name = problem.value if isinstance(problem, ProblemType) else problem
    _emit(logging.WARNING, "update_refused", f"An update was refused at the {at}: {name}", problem=name, at=at)


def task_unreadable(name: str, reason: str) -> None:
    """The tick left a task out, since a document of it can't be read; at every tick."""
    _emit(logging.ERROR, "task_unreadable", f"The tick left out task {name}: {reason}", task=name)


def updates_stored(count: int, *, oldest_seconds: float) -> None:
    """How many single updates are in the store, and the age of the oldest in seconds; at every tick."""
    _emit(
        logging.INFO,
        "updates_stored",
        f"{count} single updates are stored, the oldest for {oldest_seconds:.0f} seconds",
        count=count,
        oldest_seconds=round(oldest_seconds, 3),
    )


def _emit(level: int, event: str, message: str, **fields: str | float | bool) -> None:
    if LOG.isEnabledFor(level):
        line = {"severity": logging.getLevelName(level), "message": message, "event": event, **fields}
        LOG.log(level, "%s", json.dumps(line, separators=(",", ":")))
