"""Messages about tasks, rounds and checkpoints, between operators and the coordinator."""

from __future__ import annotations

import json
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Optional

from pydantic import Field, SerializerFunctionWrapHandler, StringConstraints, model_serializer, model_validator
from typing_extensions import Self

from muster.wire.base import Answer, Message, without_defaults
from muster.wire.messages.fields import Name, Sha256
from muster.wire.messages.policy import TaskPolicy

MAX_SELECTOR_BYTES = 1024  # as JSON
MAX_TAGS = 100  # of a task
MAX_LEAVES = 1000  # in a reference to a state
_SINCE_0_2 = ("kind", "selector", "driven", "start", "evaluates")  # fields of TaskSpec

Version = Annotated[int, Field(ge=0, le=999_999_999)]
RequestKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]

_SUMS_IN_THE_CLEAR = (
    "Whether sums that the plan declares as secure are computed in the clear. By default there are none."
)


class TaskKind(str, Enum):
    """Kind of a task's work, which clients and their owners see.

    - `train`: the rounds improve a model.
    - `evaluate`: the rounds measure a model, and do not change it.
    - `analytics`: one round answers a question about the data.
    """

    TRAIN = "train"
    EVALUATE = "evaluate"
    ANALYTICS = "analytics"


class StateRef(Message):
    """Reference to a server state: a stored state, or a checkpoint.

    Either `state` or `version` is set.
    """

    state: Optional[Sha256] = Field(
        default=None, description="SHA-256 of a stored state, in hex. By default a checkpoint is meant."
    )
    task: Optional[Name] = Field(
        default=None, description="Task of the checkpoint. By default the task that the request names."
    )
    version: Optional[Version] = Field(
        default=None, description="Version of the checkpoint. By default a stored state is meant."
    )
    leaves: Annotated[tuple[Annotated[str, Field(max_length=512)], ...], Field(max_length=MAX_LEAVES)] = Field(
        default=(),
        description="Prefixes of the paths of the tensors to take, such as `global_model_weights/`. The others are "
        "those of the plan's initial state. By default every tensor is taken.",
    )

    @model_validator(mode="after")
    def _names_one_state(self) -> Self:
        if (self.state is None) is (self.version is None):
            raise ValueError("needs either state, or version of a checkpoint")
        if self.task is not None and self.version is None:
            raise ValueError("names a task without the version of its checkpoint")
        return self


class Evaluation(Message):
    """Evaluation of the checkpoints of a training task, in rounds beside its own."""

    task: Name = Field(description="Training task whose checkpoints are evaluated.")
    every: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1, description="Evaluate each checkpoint whose version is a multiple of this, and the last one."
    )
    leaves: Annotated[tuple[Annotated[str, Field(max_length=512)], ...], Field(max_length=MAX_LEAVES)] = Field(
        default=("global_model_weights/",),
        description="Prefixes of the paths of the tensors to take from a checkpoint. The others are those of the "
        "plan's initial state.",
    )
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Part of the clients that evaluate, chosen by a keyed hash of their identity. While an evaluation "
        "is due, they do not train, and the others do not evaluate. With 1, training waits for evaluations.",
    )


class TaskSpec(Message):
    """Specification of a task that an operator creates."""

    name: Name = Field(description="Name of the task, unique in the deployment.")
    population: Name = Field(description="Population whose clients do the work.")
    plan: Sha256 = Field(description="Address of the plan: the SHA-256 of its manifest, in hex.")
    policy: TaskPolicy = Field(
        default=TaskPolicy(), description="Policy of the task's rounds. By default that of every field's default."
    )
    kind: TaskKind = Field(default=TaskKind.TRAIN, description="Kind of the work.")
    selector: Optional[dict[str, Any]] = Field(
        default=None,
        description='Value that the data callbacks of the clients receive, such as `{"split": "test"}`, at most '
        f"{MAX_SELECTOR_BYTES} bytes of JSON. By default none.",
    )
    driven: bool = Field(
        default=False, description="Run rounds only on request (`:run`). By default rounds follow one another."
    )
    start: Optional[StateRef] = Field(
        default=None, description="State of version 0. By default the plan's initial state."
    )
    evaluates: Optional[Evaluation] = Field(
        default=None, description="Training task to evaluate. Only with kind `evaluate`. By default none."
    )

    @model_serializer(mode="wrap")
    def _omit_new_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits defaults of fields that coordinators before 0.2 refuse."""
        return without_defaults(self, serialize(self), names=_SINCE_0_2)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.selector is not None and len(json.dumps(self.selector).encode()) > MAX_SELECTOR_BYTES:
            raise ValueError(f"selector is longer than {MAX_SELECTOR_BYTES} bytes of JSON")
        if self.start is not None and self.start.version is not None and self.start.task is None:
            raise ValueError("start.version needs start.task, since a new task has no checkpoint")
        if self.evaluates is not None:
            if self.kind is not TaskKind.EVALUATE:
                raise ValueError("evaluates needs kind evaluate")
            if self.driven:
                raise ValueError("evaluates and driven exclude each other: the training task requests the rounds")
            if self.evaluates.task == self.name:
                raise ValueError("a task can't evaluate itself")
        if self.kind is TaskKind.ANALYTICS:
            if self.driven:
                raise ValueError("kind analytics has one round, so it can't be driven")
            if self.policy.rounds != 1:
                raise ValueError("kind analytics has one round: set policy.rounds to 1")
        return self


class TaskStatus(str, Enum):
    """Status of a task.

    - `opening`: the first broadcast is being computed.
    - `active`: rounds open and accept clients.
    - `idle`: a driven task waits for a request, or an evaluation for its next checkpoint.
    - `paused`: no assignments and no new rounds; updates of outstanding assignments are accepted.
    - `completed`: all rounds are committed.
    - `cancelled`: an operator ended the task.
    - `deleting`: its documents and blobs are being deleted.
    """

    OPENING = "opening"
    ACTIVE = "active"
    IDLE = "idle"
    PAUSED = "paused"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    DELETING = "deleting"


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


class BaseView(Answer):
    """State that a round started from, or that became version 0."""

    task: Optional[Name] = Field(default=None, description="Task of the checkpoint. Missing for a stored state.")
    version: Optional[int] = Field(default=None, description="Version of the checkpoint. Missing for a stored state.")
    state: Optional[Sha256] = Field(
        default=None, description="SHA-256 of the stored state, in hex. Missing for a checkpoint."
    )
    leaves: tuple[str, ...] = Field(
        default=(), description="Prefixes of the paths of the tensors that were taken. Empty if all were."
    )


class Guard(str, Enum):
    """Guard that a round's result tripped.

    - `non_finite`: the new state contains NaN or infinity where its base did not, or a metric does.
    - `no_examples`: the result counts no example, so its metrics describe no data and are left out.
    - `worsening`: the metric of the task's guard got worse too many rounds in a row.
    """

    NON_FINITE = "non_finite"
    NO_EXAMPLES = "no_examples"
    WORSENING = "worsening"


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
        default_factory=dict,
        description="Number of assignments that clients gave back, by code, or by reason if there is no code.",
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
    base: Optional[BaseView] = Field(
        default=None, description="State that the round started from. Missing from a coordinator before 0.2."
    )
    request: str = Field(default="", description="Request that the round answers. Empty unless the task is driven.")
    tripped: tuple[str, ...] = Field(
        default=(), description="Guards that the result tripped: `non_finite`, `no_examples` or `worsening`."
    )


class RunStatus(str, Enum):
    """Status of a requested run of rounds.

    - `running`: not every round is committed.
    - `done`: every round is committed.
    - `cancelled`: the task or the run ended before.
    """

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


class RunView(Answer):
    """Requested run of one or more rounds of a driven task."""

    request: str = Field(description="Request that the run answers.")
    status: RunStatus = Field(description="Status of the run.")
    base: BaseView = Field(description="State that the first round starts from.")
    first_round: int = Field(description="Number of the first round.")
    rounds: int = Field(description="Number of rounds of the run.")
    goal: int = Field(description="Number of updates that closes each round.")
    round: Optional[RoundView] = Field(
        default=None, description="The run's newest attempt. Missing before the first round opens."
    )


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
    line: int = Field(
        default=0,
        description="Number of committed rounds from version 0 to `checkpoint`, along the chain of parents. The task "
        "completes when it reaches the policy's `rounds`.",
    )
    run: Optional[RunView] = Field(
        default=None, description="Newest run of a driven task. Missing otherwise, and before the first request."
    )
    tags: dict[str, int] = Field(default_factory=dict, description="Versions of the tagged checkpoints, by tag.")
    archived: bool = Field(default=False, description="Whether lists of tasks leave the task out by default.")


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
    parent: Optional[BaseView] = Field(
        default=None,
        description="State that the version was made from. Missing for the plan's initial state, and from a "
        "coordinator before 0.2.",
    )
    request: str = Field(default="", description="Request whose round made the version. Empty unless driven.")
    line: int = Field(default=0, description="Number of committed rounds from version 0, along the chain of parents.")
    tags: tuple[str, ...] = Field(default=(), description="Tags of the version.")
    stored: bool = Field(
        default=True, description="Whether the file is stored. Retention deletes the files of older versions."
    )


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

    version: Version = Field(description="Version to continue from; 0 is the initial state.")


class RunRequest(Message):
    """Request to run rounds of a driven task. A repeat returns the same run."""

    request: RequestKey = Field(
        description="Idempotency key of the run, chosen by the caller. Another key on the same base makes another run."
    )
    base: Optional[StateRef] = Field(
        default=None, description="State to start from. By default the task's newest checkpoint."
    )
    goal: Optional[Annotated[int, Field(ge=1, le=10_000_000)]] = Field(
        default=None,
        description="Number of updates that closes each round, at least the task's minimum. By default its goal.",
    )
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1, description="Number of rounds to commit, one from the other."
    )


class TaskChange(Message):
    """Change of a task's policy, from the next round or attempt on."""

    policy: dict[str, Any] = Field(
        description="New values of the policy's fields; null restores a field's default. Other fields stay."
    )


class Tag(Message):
    """Version that a tag names."""

    version: Version = Field(description="Version of the checkpoint.")
