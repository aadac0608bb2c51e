"""The work that functions hand to one another through the queue, by name."""

from __future__ import annotations

from coordinator.domain.names import RoundKey
from coordinator.ports import Work

AGGREGATOR = "aggregator"
COMMITTER = "committer"


def _payload(key: RoundKey, **more: str | int) -> dict[str, str | int]:
    return {"task": key.task, "round": key.number, "epoch": key.epoch, **more}


def fold_shard(key: RoundKey, shard: int) -> Work:
    """Fold the full chunks of a shard."""
    return Work(AGGREGATOR, "fold", _payload(key, shard=shard))


def fold_part(key: RoundKey, part: str) -> Work:
    """Fold one part of a closed round."""
    return Work(AGGREGATOR, "fold", _payload(key, part=part))


def close(key: RoundKey) -> Work:
    """See whether the round closes; if it does, or has, bring it to its commit."""
    return Work(AGGREGATOR, "close", _payload(key))


def sweep(key: RoundKey) -> Work:
    """Remove what an ended round leaves behind."""
    return Work(AGGREGATOR, "sweep", _payload(key))


def commit(key: RoundKey) -> Work:
    """Compute the next state from a round's partials."""
    return Work(COMMITTER, "commit", _payload(key))


def open_task(task: str) -> Work:
    """Compute a task's first broadcast, or the one after a rollback."""
    return Work(COMMITTER, "open", {"task": task})


def tick() -> Work:
    """Repair what got lost."""
    return Work(AGGREGATOR, "tick", {})
