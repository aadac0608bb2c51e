"""Keys of the rounds that open next."""

from __future__ import annotations

from dataclasses import replace

from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Committed
from muster_coordinator.domain.tasks import Task
from muster_coordinator.state.platform import Platform


def next_round_key(platform: Platform, task: Task) -> RoundKey:
    """Returns the key of an opening task's next round: no committed number is used again."""
    if task.current is None:
        return RoundKey(task.name, 1, 0)
    record = platform.round(task.current)
    if record is not None and isinstance(record.value, Committed):
        return RoundKey(task.name, task.number + 1, 0)
    return replace(task.current, epoch=task.epoch + 1)
