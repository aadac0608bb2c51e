"""Parts of a task's policy: hours, eligibility, guards and retention."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import Field, StringConstraints, model_validator
from typing_extensions import Self

from muster.wire.base import Message

MAX_WINDOWS = 32
MAX_RULES = 32
MAX_ATTRIBUTES = 32  # of a client

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
TimeOfDay = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$")]
AttributeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.-]{0,62}$")]
AttributeText = Annotated[str, StringConstraints(max_length=128)]
# In this order a JSON boolean stays a boolean, and an integer an integer.
AttributeValue = Union[bool, int, float, AttributeText]
MetricPath = Annotated[str, StringConstraints(min_length=1, max_length=256)]

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}\Z")


class Window(Message):
    """Hours of some days of the week, in a time zone."""

    days: Annotated[tuple[Day, ...], Field(max_length=7)] = Field(
        default=(), description="Days of the week on which the window begins. By default every day."
    )
    start: TimeOfDay = Field(description="Time of day at which the window begins, such as `22:00`.")
    end: TimeOfDay = Field(
        description="Time of day at which it ends, such as `06:00`: on the next day if it is not after `start`."
    )
    time_zone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")] = Field(
        default="UTC", description="Time zone of both, by its IANA name, such as `Europe/Berlin`."
    )


class Operation(str, Enum):
    """Comparison of an eligibility rule.

    - `in`, `not_in`: the attribute is, or is not, one of the values. `not_in` holds for a client
      without the attribute.
    - `exists`: the client states the attribute. It takes no values.
    - `gte`, `lte`: the attribute is a number of at least, or at most, the one value.
    - `version_gte`, `version_lt`: the attribute is a version such as `2.10.1`, at least, or below,
      the one value.
    """

    IN = "in"
    NOT_IN = "not_in"
    EXISTS = "exists"
    GTE = "gte"
    LTE = "lte"
    VERSION_GTE = "version_gte"
    VERSION_LT = "version_lt"


class EligibilityRule(Message):
    """Rule about one attribute that a client states at its check-in."""

    key: AttributeName = Field(description="Name of the attribute, such as `app_version`.")
    op: Operation = Field(description="Comparison of the attribute with the values.")
    values: Annotated[tuple[AttributeValue, ...], Field(max_length=256)] = Field(
        default=(), description="Values to compare with: none for `exists`, one for an order, else one or more."
    )

    @model_validator(mode="after")
    def _has_fitting_values(self) -> Self:
        if self.op is Operation.EXISTS:
            if self.values:
                raise ValueError("exists takes no values")
        elif self.op in (Operation.IN, Operation.NOT_IN):
            if not self.values:
                raise ValueError(f"{self.op.value} needs at least one value")
        elif len(self.values) != 1:
            raise ValueError(f"{self.op.value} needs exactly one value")
        elif self.op in (Operation.GTE, Operation.LTE):
            if not _is_number(self.values[0]):
                raise ValueError(f"{self.op.value} needs a number")
        elif _version(self.values[0]) is None:
            raise ValueError(f"{self.op.value} needs a version such as 2.10.1")
        return self

    def admits(self, attributes: Mapping[str, AttributeValue]) -> bool:
        """Returns whether a client with these attributes satisfies the rule."""
        value = attributes.get(self.key)
        if self.op is Operation.EXISTS:
            return value is not None
        if self.op is Operation.NOT_IN:
            return not any(_is_same(value, item) for item in self.values)
        if value is None:
            return False
        if self.op is Operation.IN:
            return any(_is_same(value, item) for item in self.values)
        if self.op in (Operation.GTE, Operation.LTE):
            return _compares(self.op, value, self.values[0])
        stated, bound = _version(value), _version(self.values[0])
        if stated is None or bound is None:
            return False
        return stated >= bound if self.op is Operation.VERSION_GTE else stated < bound


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)  # which raises for an integer beyond the range of a float
    return isinstance(value, int) and not isinstance(value, bool)


def _is_same(left: object, right: object) -> bool:
    """Returns whether two values are equal. A boolean equals no number, unlike in Python."""
    return isinstance(left, bool) is isinstance(right, bool) and left == right


def _compares(op: Operation, value: Any, bound: Any) -> bool:
    if not _is_number(value):
        return False
    return bool(value >= bound if op is Operation.GTE else value <= bound)


def _version(value: object) -> Optional[tuple[int, ...]]:
    """Returns a version's numbers without trailing zeros, or None for any other value."""
    if not isinstance(value, str) or not _VERSION.match(value):
        return None
    numbers = [int(number) for number in value.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


class WorseningGuard(Message):
    """Guard that trips when a metric gets worse several rounds in a row."""

    metric: MetricPath = Field(description="Path of the metric in the result, such as `client_work/train/loss`.")
    rounds: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3, description="Number of rounds in a row, each worse than the one before."
    )
    better: Literal["lower", "higher"] = Field(
        default="lower", description="Whether a `lower` or a `higher` value is better."
    )


class Guards(Message):
    """Conditions of a round's result under which the coordinator pauses the task."""

    non_finite: bool = Field(
        default=True,
        description="Pause if the new state contains NaN or infinity where its base did not, or a metric does.",
    )
    no_examples: bool = Field(
        default=True,
        description="Pause if a round's result counts no example. TFF's learning algorithms count no examples of a "
        "client whose update is not finite.",
    )
    worsening: Optional[WorseningGuard] = Field(
        default=None, description="Pause if a metric gets worse several rounds in a row. By default it is not checked."
    )


class Retention(Message):
    """Checkpoints and results that are stored after newer ones exist.

    Version 0, the newest checkpoint, the base of the open round and tagged checkpoints are always
    stored.
    """

    last: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1, description="Number of newest checkpoints to store."
    )
    every: Optional[Annotated[int, Field(ge=1, le=1_000_000)]] = Field(
        default=None, description="Store every checkpoint whose version is a multiple of this. By default none is."
    )
