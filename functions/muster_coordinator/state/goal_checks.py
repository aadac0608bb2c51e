"""Whether an update brings its round to the goal: asked for every update, answered by one read at most for nearly all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from muster_coordinator.domain import names
from muster_coordinator.domain.goal_thresholds import first_thresholds, is_due, may_be_due, next_thresholds
from muster_coordinator.domain.rounds import Collecting
from muster_coordinator.ports import AlreadyExistsError, ConflictError, Document
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.round_cache import read_shards

LOOKS = "looks"  # the document's field: each shard's count at which the next look is due


@dataclass(frozen=True)
class GoalChecker:
    """Watches rounds' goals over the counters of their shards.

    The looks are in one document, which is written some dozens of times a round. An update that is counted reads them after it has
    been counted; who writes them reads the counters again afterwards. So of the two one sees the other.
    """

    platform: Platform

    def reached(self, round_: Collecting, *, shard: int, count: int) -> bool:
        """Whether the round has its goal, by the counters, which are hints.

        Args:
          round_: The round.
          shard: Where an update was just counted.
          count: The shard's counter, that update included.
        """
        terms = round_.terms
        if terms.shards == 1:
            return count >= terms.goal
        if not may_be_due(count, goal=terms.goal, shards=terms.shards):
            return False
        document = self._document(round_)
        if count < self._looks(document, round_)[shard]:
            return False
        while sum(counts := read_shards(self.platform, round_)) < terms.goal:
            document = self._document(round_)
            if not is_due(counts, self._looks(document, round_)):
                return False
            self._write(document, round_, next_thresholds(counts, goal=terms.goal))
        return True

    def _document(self, round_: Collecting) -> Document | None:
        return self.platform.documents.get(names.goal_thresholds_path(round_.key))

    def _looks(self, document: Document | None, round_: Collecting) -> Sequence[int]:
        if document is None:
            return first_thresholds(goal=round_.terms.goal, shards=round_.terms.shards)
        looks: Sequence[int] = document.data[LOOKS]
        return looks

    def _write(self, before: Document | None, round_: Collecting, looks: Sequence[int]) -> None:
        """Writes the looks, unless somebody was faster: then theirs are read."""
        documents, data = self.platform.documents, {LOOKS: list(looks)}
        try:
            if before is None:
                documents.create(names.goal_thresholds_path(round_.key), data)
            else:
                documents.replace(before.path, data, version=before.version)
        except (AlreadyExistsError, ConflictError):
            pass
