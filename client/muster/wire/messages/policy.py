"""Policy of a task: how large its rounds are, how long they take, and which updates they accept."""

from __future__ import annotations

import math
from typing import Annotated, Any, Optional

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from muster.wire.base import Message, without_defaults
from muster.wire.messages.policy_parts import MAX_RULES, MAX_WINDOWS, EligibilityRule, Guards, Retention, Window
from muster.wire.times import Seconds, Time

# During an upgrade, instances of the earlier version read the tasks of this one.
_SINCE_0_2 = ("weight", "windows", "eligibility", "guards", "retention")


class TaskPolicy(Message):
    """Policy of a task's rounds."""

    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=10, description="Number of rounds to commit.")
    goal: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=10, description="Number of updates that closes a round."
    )
    minimum: Annotated[int, Field(ge=1)] = Field(
        default=10,
        description="Fewest updates in a result. A round with fewer at its deadline is abandoned and tried again; "
        "nothing of it is computed or released. By default equal to `goal`.",
    )
    over_selection: Annotated[float, Field(ge=1.0, le=10.0)] = Field(
        default=1.0,
        description="Slots per update of the goal. A round has `ceil(goal × over_selection)` slots.",
    )
    round_seconds: Annotated[Seconds, Field(gt=0, le=30 * 86400)] = Field(
        default=600.0, description="Seconds from a round's opening to its deadline, at most 30 days."
    )
    assignment_seconds: Annotated[Seconds, Field(gt=0, le=86400)] = Field(
        default=300.0, description="Seconds that a client has for its work and upload, at most one day."
    )
    chunk: Annotated[int, Field(ge=2, le=10_000)] = Field(
        default=32, description="Number of updates that are folded into one partial."
    )
    shards: Optional[Annotated[int, Field(ge=1, le=1000)]] = Field(
        default=None,
        description="Number of groups of clients that are counted and folded separately. By default one per 500 slots, "
        "at most 1,000.",
    )
    interval_seconds: Annotated[float, Field(ge=0, le=366 * 86400)] = Field(
        default=0.0, description="Least seconds between the openings of two rounds."
    )
    starts_at: Optional[Time] = Field(
        default=None, description="Time at which the first round opens, with its UTC offset. By default at once."
    )
    separation_seconds: Annotated[float, Field(ge=0, le=366 * 86400)] = Field(
        default=0.0,
        description="Least seconds between a client's last contribution and its next assignment. Contributions to all "
        "tasks of the population that set a separation count.",
    )
    allow_non_finite: bool = Field(
        default=False, description="Accept updates that contain NaN and infinity. By default they are refused."
    )
    max_update_norm: Optional[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=None,
        description="Largest L2 norm of an update's floating-point tensors, scalars excluded. A larger update is "
        "dropped. By default any norm is accepted.",
    )
    clip: bool = Field(
        default=False,
        description="Scale an update above `max_update_norm` down to it. By default it is dropped.",
    )
    max_update_age: Annotated[float, Field(ge=1.0, le=30 * 86400)] = Field(
        default=60.0,
        description="Seconds after which a stored update is folded although its chunk is not full: with at least one "
        "other update, or onto an earlier partial.",
    )
    graph_seconds: Annotated[float, Field(ge=0.001, le=3000)] = Field(
        default=600.0,
        description="Most seconds of one run of one of the plan's graphs in the coordinator. A graph that takes longer "
        "is stopped, and the task is paused.",
    )

    weight: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = Field(
        default=1.0,
        description="Share of the check-ins to which this task is offered first, relative to the other tasks of the "
        "population. With weights of 99 and 1 the second task gets 1 % of them.",
    )
    windows: Annotated[tuple[Window, ...], Field(max_length=MAX_WINDOWS)] = Field(
        default=(), description="Hours in which clients are assigned. By default at any time."
    )
    eligibility: Annotated[tuple[EligibilityRule, ...], Field(max_length=MAX_RULES)] = Field(
        default=(),
        description="Rules that a client's attributes must all satisfy to be assigned. By default every client is "
        "eligible.",
    )
    guards: Guards = Field(
        default=Guards(), description="Conditions of a result under which the task is paused, with a note."
    )
    retention: Optional[Retention] = Field(
        default=None, description="Checkpoints and results that are stored. By default all of them."
    )

    @model_serializer(mode="wrap")
    def _omit_new_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits defaults of fields that coordinators before 0.2 refuse."""
        return without_defaults(self, serialize(self), names=_SINCE_0_2)

    @model_validator(mode="after")
    def _consistent(self) -> TaskPolicy:
        if "minimum" not in self.model_fields_set:
            # Stored too, since older coordinators read it. A frozen model allows no assignment.
            self.__dict__["minimum"] = self.goal
            self.__pydantic_fields_set__.add("minimum")
        if self.minimum > self.goal:
            raise ValueError(
                f"minimum ({self.minimum}) is above goal ({self.goal}): no round could reach it by its goal"
            )
        if self.clip and self.max_update_norm is None:
            raise ValueError("clip is set and max_update_norm is not: there is nothing to clip to")
        return self

    @property
    def cap(self) -> int:
        """Number of slots of a round, that is, of assignments that may be outstanding or used."""
        return math.ceil(self.goal * self.over_selection)
