"""Checks at each update whether its round has reached the goal, mostly by one read or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from muster_coordinator.domain import names
from muster_coordinator.domain.goal_thresholds import first_thresholds, is_due, may_be_due, next_thresholds
from muster_coordinator.domain.rounds import Collecting
from muster_coordinator.ports import AlreadyExistsError, ConflictError, Document
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.round_cache import read_shards

THRESHOLDS = "looks"  # the document's field: each shard's count at which the next check is due


@dataclass(frozen=True)
class GoalChecker:
    """Checker of rounds' goals by the counters of their shards.

    One document holds the thresholds of all shards and is written some dozens of times a round. An
    update increments its counter before it reads the thresholds; a writer of thresholds reads the
    counters after its write. So of two concurrent ones at least one sees the other.

    Attributes:
      platform: The ports.
    """

    platform: Platform

    def reached(self, round_: Collecting, *, shard: int, count: int) -> bool:
        """Returns whether the round has reached its goal, by the counters, which are hints.

        Args:
          round_: The round.
          shard: The shard in which an update was just counted.
          count: The shard's counter, including that update.
        """
        terms = round_.terms
        if terms.shards == 1:
            return count >= terms.goal
        if not may_be_due(count, goal=terms.goal, shards=terms.shards):
            return False
        document = self._document(round_)
        if count < self._thresholds(document, round_)[shard]:
            return False
        while sum(counts := read_shards(self.platform, round_)) < terms.goal:
            document = self._document(round_)
            if not is_due(counts, self._thresholds(document, round_)):
                return False
            self._write(document, round_, next_thresholds(counts, goal=terms.goal))
        return True

    def _document(self, round_: Collecting) -> Document | None:
        return self.platform.documents.get(names.goal_thresholds_path(round_.key))

    def _thresholds(self, document: Document | None, round_: Collecting) -> Sequence[int]:
        if document is None:
            return first_thresholds(goal=round_.terms.goal, shards=round_.terms.shards)
        thresholds: Sequence[int] = document.data[THRESHOLDS]
        return thresholds

    def _write(self, before: Document | None, round_: Collecting, thresholds: Sequence[int]) -> None:
        """Writes the thresholds, unless another instance did so since `before` was read."""
        documents, data = self.platform.documents, {THRESHOLDS: list(thresholds)}
        try:
            if before is None:
                documents.create(names.goal_thresholds_path(round_.key), data)
            else:
                documents.replace(before.path, data, version=before.version)
        except (AlreadyExistsError, ConflictError):
            pass
