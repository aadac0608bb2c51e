"""Messages about tasks, rounds and checkpoints, between operators and the coordinator."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated, Optional

from pydantic import Field

from muster.wire.base import Answer, Message
from muster.wire.messages.fields import Name, Sha256
from muster.wire.messages.policy import TaskPolicy

_SUMS_IN_THE_CLEAR = (
    "Whether sums that the plan declares as secure are computed in the clear. By default there are none."
)


class TaskSpec(Message):
    """Specification of a task that an operator creates."""

    name: Name = Field(description="Name of the task, unique in the deployment.")
    population: Name = Field(description="Population whose clients do the work.")
    plan: Sha256 = Field(description="Address of the plan: the SHA-256 of its manifest, in hex.")
    policy: TaskPolicy = Field(
        default=TaskPolicy(), description="Policy of the task's rounds. By default that of every field's default."
    )


class TaskStatus(str, Enum):
    """Status of a task.

    - `opening`: the first broadcast is being computed.
    - `active`: rounds open and accept clients.
    - `paused`: no assignments and no new rounds; updates of outstanding assignments are accepted.
    - `completed`: all rounds are committed.
    - `cancelled`: an operator ended the task.
    """

    OPENING = "opening"
    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class Phase(str, Enum):
    """Phase of a round.

    - `COLLECTING`: the round is open and accepts updates.
    - `AGGREGATING`: the round is closed; its updates are folded and the next state is computed.
    - `COMMITTED`: the result and the next checkpoint are stored.
    - `ABANDONED`: the round had too few updates at its deadline, or an operator ended it.
    """

    COLLECTING = "COLLECTING"
    AGGREGATING = "AGGREGATING"
    COMMITTED = "COMMITTED"
    ABANDONED = "ABANDONED"


class RoundView(Answer):
    """One attempt at a round. Counts and metrics are of the updates that were folded."""

    task: Name = Field(description="Name of the task.")
    round: int = Field(description="Number of the round, from 1.")
    epoch: int = Field(description="Number of the attempt at the round, from 0.")
    phase: Phase = Field(description="Phase of the attempt.")
    opened_at: datetime = Field(description="Time at which the attempt opened.")
    deadline: datetime = Field(description="Time at which the attempt closes, if its goal is not reached before.")
    ended_at: Optional[datetime] = Field(
        default=None, description="Time at which the attempt was committed or abandoned. Missing before."
    )
    goal: int = Field(description="Number of updates that closes the round.")
    minimum: int = Field(description="Fewest updates in the result.")
    cap: int = Field(description="Number of slots.")
    assigned: int = Field(default=0, description="Number of slots that are taken.")
    reported: Optional[int] = Field(
        default=None,
        description="Number of accepted updates. Missing while a round with a goal below 20 is open, since it would "
        "reveal when a client contributes.",
    )
    failed: dict[str, int] = Field(
        default_factory=dict, description="Number of assignments that clients gave back, by reason."
    )
    folded: int = Field(default=0, description="Number of updates in the result.")
    dropped: dict[str, int] = Field(
        default_factory=dict, description="Number of updates that were left out of the result, by reason."
    )
    clipped: int = Field(
        default=0, description="Number of folded updates that were scaled down to the task's `max_update_norm`."
    )
    update_bytes: int = Field(default=0, description="Total size of the folded updates in bytes.")
    broadcast_bytes: int = Field(default=0, description="Size of the broadcast in bytes.")
    sums_in_the_clear: bool = Field(default=False, description=_SUMS_IN_THE_CLEAR)
    reason: str = Field(default="", description="Reason why the attempt was abandoned. Empty otherwise.")
    metrics: dict[str, float] = Field(default_factory=dict, description="Scalars of the result, by path.")


class TaskView(Answer):
    """Task with its progress."""

    spec: TaskSpec = Field(description="Specification of the task.")
    plan_name: str = Field(description="Name of the plan.")
    status: TaskStatus = Field(description="Status of the task.")
    created_at: datetime = Field(description="Time at which the task was created.")
    checkpoint: int = Field(description="Newest version of the server state; 0 is the initial state.")
    sums_in_the_clear: bool = Field(default=False, description=_SUMS_IN_THE_CLEAR)
    current: Optional[RoundView] = Field(
        default=None, description="The open round, or else the last one. Missing before the first round opens."
    )
    note: str = Field(
        default="",
        description="Note for operators, such as the reason why the task can't continue. Empty if all is well.",
    )


class TaskList(Answer):
    """All tasks."""

    tasks: tuple[TaskView, ...] = Field(description="Tasks, by name.")
    unreadable: tuple[str, ...] = Field(
        default=(), description="Names of tasks that a newer version of the coordinator wrote and this one can't read."
    )


class RoundList(Answer):
    """Page of a task's attempts."""

    rounds: tuple[RoundView, ...] = Field(description="Attempts, oldest first.")
    unreadable: tuple[str, ...] = Field(
        default=(), description="Ids of attempts that a newer version of the coordinator wrote and this one can't read."
    )
    next: Optional[str] = Field(
        default=None, description="Value of `after` for the next page. Missing on the last page."
    )


class CheckpointView(Answer):
    """Version of a task's server state."""

    version: int = Field(description="Version: 0 is the initial state, n the state after round n.")
    sha256: Sha256 = Field(description="SHA-256 of the state's file, in hex.")
    size: int = Field(description="Size of the state's file in bytes.")
    created_at: datetime = Field(description="Time at which the version was stored.")
    url: str = Field(description="URL of the state's file, relative to the coordinator's.")


class CheckpointList(Answer):
    """All checkpoints of a task."""

    checkpoints: tuple[CheckpointView, ...] = Field(description="Checkpoints, oldest first.")
    unreadable: tuple[str, ...] = Field(
        default=(),
        description="Ids of rounds that a newer version of the coordinator wrote and this one can't read. Their "
        "checkpoints may be missing.",
    )


class Rollback(Message):
    """Request to continue from an earlier checkpoint. The open round is abandoned and retried."""

    version: Annotated[int, Field(ge=0, le=999_999_999)] = Field(
        description="Version to continue from; 0 is the initial state."
    )
