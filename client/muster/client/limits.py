"""What a device's owner allows: how much may come and go, for how long, and when at all. Checked here, whatever a plan says."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any, Callable, Optional

from muster.client.machine import WorkFailed
from muster.transport.failures import MAX_WAIT, bounded_wait
from muster.wire.manifest import PlanManifest
from muster.wire.messages import Assignment, FailureReason

LIMIT_RULES = frozenset(
    f"limits.{name}" for name in ("max_download_bytes", "max_update_bytes", "max_seconds")
)  # the reasons that a `LimitError` may report
INELIGIBLE_PAUSE = 60.0  # seconds until a device asks itself again
BUSY_PAUSE = 10.0  # seconds between checks whether work that could not be stopped has ended
STOPPED = "the client was stopped"


class LimitError(Exception):
    """Error raised when an assignment exceeds a limit of this device.

    Attributes:
      detail: The limit and the exceeding value; it stays on the device.
      rule: The limit's name, such as `limits.max_seconds`; reported to the coordinator.
      reason: The reason reported to the coordinator.
    """

    def __init__(self, detail: str, *, rule: str, reason: FailureReason = FailureReason.PLAN_REFUSED) -> None:
        super().__init__(detail)
        self.detail = detail
        self.rule = rule
        self.reason = reason

    @property
    def failure(self) -> WorkFailed:
        """Returns the failure of the work. Only the reason and the rule are reported to the coordinator."""
        return WorkFailed(self.reason, self.detail, kind=self.rule)


@dataclass(frozen=True)
class Limits:
    """Limits of one assignment on this device. None: only the coordinator's limits apply.

    Attributes:
      max_download_bytes: Bytes of plan and broadcast together, downloaded or cached.
      max_update_bytes: Bytes of the update.
      max_seconds: From the assignment to the end of its work, and never longer than the assignment is valid. Work that
        takes longer is stopped and the assignment given back. A data callback or a worker that can't be stopped is
        abandoned, and the client checks in again once it has ended.
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

    def seconds_left(self, since: float, now: float, *, valid: Optional[float] = None) -> Optional[float]:
        """Returns the seconds that the work may still take, or None if nothing bounds it.

        Args:
          since: When the assignment arrived, on a monotonic clock.
          now: The present, on the same clock.
          valid: Seconds that the assignment is valid from `since` on; None: unknown.

        Raises:
          LimitError: no time is left.
        """
        bounds = [bound for bound in (self.max_seconds, valid) if bound is not None]
        if not bounds:
            return None
        left = since + min(bounds) - now
        if left <= 0:
            raise self.too_long(valid=valid)
        return left

    def too_long(self, *, valid: Optional[float]) -> LimitError:
        """Returns the error for work that exceeded its time limit; `valid` is as in `seconds_left`."""
        own = self.max_seconds is not None and (valid is None or self.max_seconds <= valid)
        bound = (
            f"this device's limit of {self.max_seconds:g} s (max_seconds)" if own else f"its assignment, {valid:g} s"
        )
        return LimitError(
            f"The work took longer than {bound}", rule="limits.max_seconds", reason=FailureReason.CANCELLED
        )

    def stricter(self, other: Limits) -> Limits:
        """Returns the smaller one of each limit."""
        pairs = {item.name: (getattr(self, item.name), getattr(other, item.name)) for item in fields(self)}
        given = {name: [value for value in pair if value is not None] for name, pair in pairs.items()}
        return Limits(**{name: min(values) if values else None for name, values in given.items()})


def seconds_valid(assignment: Assignment, answered_at: Optional[datetime]) -> Optional[float]:
    """Returns the seconds for which an assignment is valid from its arrival on, or None if unknown.

    This device's clock is not read: it may be wrong.

    Args:
      assignment: The assignment.
      answered_at: The `Date` of the answer.
    """
    seconds = assignment.seconds
    if seconds is None and answered_at is not None:
        until = assignment.expires_at
        seconds = ((until if until.tzinfo else until.replace(tzinfo=timezone.utc)) - answered_at).total_seconds()
    return bounded_wait(seconds, at_most=MAX_WAIT)


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
            return STOPPED
        if self.eligible is not None and not self.eligible():
            return "the device is not eligible now"
        return None
