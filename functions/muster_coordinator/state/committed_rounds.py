"""Finds the committed attempt of a round, and its stored outputs."""

from __future__ import annotations

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Committed
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned

_ATTEMPTS_PAGE = 4  # attempts of a round that are read with one call


def find_committed(platform: Platform, task: str, number: int) -> Versioned[Committed] | None:
    """Returns the committed attempt of a round, or None."""
    after: str | None = RoundKey(task, max(0, number - 1), 9999).id
    while after is not None:
        documents = platform.documents.list(names.rounds_path(task), after=after, limit=_ATTEMPTS_PAGE)
        after = documents[-1].id if len(documents) == _ATTEMPTS_PAGE else None
        for document in documents:
            # Only attempts of this round are parsed: another round may be readable only by a
            # newer version.
            if RoundKey.parse(task, document.id).number != number:
                after = None
            elif isinstance(round_ := platform.rounds.read(document).value, Committed):
                return Versioned(round_, document)
    return None


def require_stored(round_: Committed) -> Committed:
    """Returns the round if its checkpoint and result are stored.

    Raises:
      ProblemError: `not_found`, if the task's retention has removed them.
    """
    if round_.stored:
        return round_
    number, task = round_.key.number, round_.key.task
    raise ProblemError(
        ProblemType.NOT_FOUND,
        f"Checkpoint and result {number} of task {task} are not stored any more: its policy's retention removed them. "
        "Use a version whose `stored` is true in the list of checkpoints; tag those that must stay",
    )
