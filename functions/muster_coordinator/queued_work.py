"""Constructors of the work that functions enqueue for one another."""

from __future__ import annotations

from muster_coordinator.domain.names import RoundKey
from muster_coordinator.ports import WorkItem

AGGREGATOR = "aggregator"
COMMITTER = "committer"


def _payload(key: RoundKey, **fields: str | int) -> dict[str, str | int]:
    return {"task": key.task, "round": key.number, "epoch": key.epoch, **fields}


def fold_shard(key: RoundKey, shard: int) -> WorkItem:
    """Returns the work to fold the full chunks of a shard."""
    return WorkItem(AGGREGATOR, "fold", _payload(key, shard=shard))


def fold_part(key: RoundKey, part: str) -> WorkItem:
    """Returns the work to fold one part of a closed round."""
    return WorkItem(AGGREGATOR, "fold", _payload(key, part=part))


def close(key: RoundKey) -> WorkItem:
    """Returns the work to close a round if it is due, and to bring a closed one to its commit."""
    return WorkItem(AGGREGATOR, "close", _payload(key))


def sweep(key: RoundKey) -> WorkItem:
    """Returns the work to remove what an ended round leaves behind."""
    return WorkItem(AGGREGATOR, "sweep", _payload(key))


def commit(key: RoundKey) -> WorkItem:
    """Returns the work to compute the next state from a round's partials."""
    return WorkItem(COMMITTER, "commit", _payload(key))


def open_task(task: str) -> WorkItem:
    """Returns the work to compute a task's first broadcast, or that after a rollback."""
    return WorkItem(COMMITTER, "open", {"task": task})


def delete_task(task: str) -> WorkItem:
    """Returns the work to delete the documents and blobs of a task that is marked for deletion.

    Once the task is gone, it deletes what late requests have written since.
    """
    return WorkItem(AGGREGATOR, "delete", {"task": task})


def tick() -> WorkItem:
    """Returns the work to repair what was lost."""
    return WorkItem(AGGREGATOR, "tick", {})
