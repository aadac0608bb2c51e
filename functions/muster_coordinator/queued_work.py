"""The work that functions hand to one another through the queue, by name."""

from __future__ import annotations

from muster_coordinator.domain.names import RoundKey
from muster_coordinator.ports import WorkItem

AGGREGATOR = "aggregator"
COMMITTER = "committer"


def _payload(key: RoundKey, **more: str | int) -> dict[str, str | int]:
    return {"task": key.task, "round": key.number, "epoch": key.epoch, **more}


def fold_shard(key: RoundKey, shard: int) -> WorkItem:
    """Fold the full chunks of a shard."""
    return WorkItem(AGGREGATOR, "fold", _payload(key, shard=shard))


def fold_part(key: RoundKey, part: str) -> WorkItem:
    """Fold one part of a closed round."""
    return WorkItem(AGGREGATOR, "fold", _payload(key, part=part))


def close(key: RoundKey) -> WorkItem:
    """See whether the round closes; if it does, or has, bring it to its commit."""
    return WorkItem(AGGREGATOR, "close", _payload(key))


def sweep(key: RoundKey) -> WorkItem:
    """Remove what an ended round leaves behind."""
    return WorkItem(AGGREGATOR, "sweep", _payload(key))


def commit(key: RoundKey) -> WorkItem:
    """Compute the next state from a round's partials."""
    return WorkItem(COMMITTER, "commit", _payload(key))


def open_task(task: str) -> WorkItem:
    """Compute a task's first broadcast, or the one after a rollback."""
    return WorkItem(COMMITTER, "open", {"task": task})


def tick() -> WorkItem:
    """Repair what got lost."""
    return WorkItem(AGGREGATOR, "tick", {})
