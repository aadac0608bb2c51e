"""What a device's owner allows: how much may come and go, for how long, and when at all. Checked here, whatever a plan says."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, fields
from typing import Any, Callable, Optional

from muster.wire.manifest import PlanManifest
from muster.wire.messages import Assignment, FailureReason

from .machine import WorkFailed

LIMIT_RULES = frozenset(
    f"limits.{name}" for name in ("max_download_bytes", "max_update_bytes", "max_seconds")
)  # what a `LimitError` may tell
INELIGIBLE_PAUSE = 60.0  # seconds until a device asks itself again


class LimitError(Exception):
    """An assignment goes over a limit that is set on this device.

    Attributes:
      detail: The limit and what goes over it; it stays on the device.
      rule: The limit's name, such as `limits.max_seconds`, which is all that the coordinator learns.
      reason: What the coordinator is told.
    """

    def __init__(self, detail: str, *, rule: str, reason: FailureReason = FailureReason.PLAN_REFUSED) -> None:
        super().__init__(detail)
        self.detail = detail
        self.rule = rule
        self.reason = reason

    @property
    def failure(self) -> WorkFailed:
        """How the work ends."""
        return WorkFailed(self.reason, self.detail, told=self.rule)


@dataclass(frozen=True)
class Limits:
    """What one assignment may take of this device. None: no limit but those of the coordinator.

    Attributes:
      max_download_bytes: Bytes of plan and broadcast together, whether they come from the network or were kept.
      max_update_bytes: Bytes of the update.
      max_seconds: From the assignment to the end of its work. When they are over the work is stopped, at the next element of the
        data at the latest. What reads no data, a callback or an endless loop of the graph, is noticed when it returns.
    """

    max_download_bytes: Optional[int] = None
    max_update_bytes: Optional[int] = None
    max_seconds: Optional[float] = None

    def check_download(self, assignment: Assignment) -> None:
        """Before anything is fetched. Raises `LimitError`."""
        size = assignment.plan.size + assignment.broadcast.size
        if self.max_download_bytes is not None and size > self.max_download_bytes:
            raise LimitError(
                f"Plan and broadcast have {size} bytes; this device's limit is {self.max_download_bytes} (max_download_bytes)",
                rule="limits.max_download_bytes",
            )

    def check_plan(self, manifest: PlanManifest) -> None:
        """Before anything is computed, of an update whose size the plan fixes. Raises `LimitError`."""
        self.check_update(least_bytes(manifest.update))

    def check_update(self, size: int) -> None:
        """Before anything is uploaded. Raises `LimitError`."""
        if self.max_update_bytes is not None and size > self.max_update_bytes:
            raise LimitError(
                f"The update has {size} bytes; this device's limit is {self.max_update_bytes} (max_update_bytes)",
                rule="limits.max_update_bytes",
            )

    def seconds_left(self, since: float, now: float) -> Optional[float]:
        """Seconds that the work may still take, of `max_seconds` since `since`; None: any time.

        Raises:
          LimitError: there are none left.
        """
        if self.max_seconds is None:
            return None
        left = since + self.max_seconds - now
        if left <= 0:
            raise LimitError(
                f"The work took longer than this device's limit of {self.max_seconds:g} s (max_seconds)",
                rule="limits.max_seconds",
                reason=FailureReason.CANCELLED,
            )
        return left

    def stricter(self, other: Limits) -> Limits:
        """Returns the smaller one of each limit."""
        pairs = {item.name: (getattr(self, item.name), getattr(other, item.name)) for item in fields(self)}
        given = {name: [value for value in pair if value is not None] for name, pair in pairs.items()}
        return Limits(**{name: min(values) if values else None for name, values in given.items()})


def least_bytes(specs: tuple[Any, ...]) -> int:
    """Bytes of the tensors' values at least: open dimensions and strings count nothing."""
    return sum(
        math.prod(spec.shape) * spec.dtype.numpy.itemsize
        for spec in specs
        if spec.shape is not None and None not in spec.shape and spec.dtype.value != "string"
    )


@dataclass(frozen=True)
class Leave:
    """Whether the device may go on: asked before a check-in and between the phases of an assignment.

    Attributes:
      eligible: The device's own say (charging, idle, on a network that costs nothing); None: always.
      stop: Ends the work when set.
    """

    eligible: Optional[Callable[[], bool]] = None
    stop: Optional[threading.Event] = None

    def refused(self) -> Optional[str]:
        """Why the device may not go on; None if it may."""
        if self.stop is not None and self.stop.is_set():
            return "the client was told to stop"
        if self.eligible is not None and not self.eligible():
            return "the device is not eligible now"
        return None
