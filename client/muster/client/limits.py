"""Limits that a device sets itself: sizes, time, and the conditions under which it works.

The client checks them whatever the coordinator and the plan demand.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from typing import Any, Callable, Optional

from muster.client.failure_codes import code_of_rule
from muster.client.machine import WorkFailed
from muster.transport.failures import MAX_WAIT, bounded_wait
from muster.wire.manifest import PlanManifest
from muster.wire.messages import Assignment, FailureReason

LIMIT_RULES = frozenset(
    f"limits.{name}" for name in ("max_download_bytes", "max_update_bytes", "max_seconds")
)  # the reasons that a `LimitError` may report
INELIGIBLE_PAUSE = 60.0  # seconds until `eligible` is called again
BUSY_PAUSE = 10.0  # seconds between checks for the end of abandoned work
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
        """Returns the failure of the work. Its detail is not reported to the coordinator."""
        return WorkFailed(self.reason, self.detail, kind=self.rule, code=code_of_rule(self.rule))


@dataclass(frozen=True)
class Limits:
    """Limits of one assignment on this device. None: only the coordinator's limits apply.

    Attributes:
      max_download_bytes: Bytes of plan and broadcast together, downloaded or cached.
      max_update_bytes: Bytes of the update.
      max_seconds: Seconds from the assignment to the end of its work. Work that takes longer is
        stopped and the assignment released. A data callback or a worker that can't be stopped is
        abandoned, and the client checks in again once it has ended.
    """

    max_download_bytes: Optional[int] = None
    max_update_bytes: Optional[int] = None
    max_seconds: Optional[float] = None

    def check_download(self, assignment: Assignment) -> None:
        """Raises `LimitError` if plan and broadcast are too large. Call it before the download."""
        size = assignment.plan.size + assignment.broadcast.size
        if self.max_download_bytes is not None and size > self.max_download_bytes:
            raise LimitError(
                f"Plan and broadcast have {size} bytes; "
                f"this device's limit is {self.max_download_bytes} (max_download_bytes)",
                rule="limits.max_download_bytes",
            )

    def check_plan(self, manifest: PlanManifest) -> None:
        """Raises `LimitError` if the plan's update is too large. Call it before the work."""
        self.check_update(min_bytes(manifest.update))

    def check_update(self, size: int) -> None:
        """Raises `LimitError` if an update of `size` bytes is too large, before its upload."""
        if self.max_update_bytes is not None and size > self.max_update_bytes:
            raise LimitError(
                f"The update has {size} bytes; this device's limit is {self.max_update_bytes} (max_update_bytes)",
                rule="limits.max_update_bytes",
            )

    def seconds_left(self, since: float, now: float, *, valid: Optional[float] = None) -> Optional[float]:
        """Returns the seconds that the work may still take, or None if there is no limit.

        Args:
          since: The arrival of the assignment, in seconds of a monotonic clock.
          now: The present, on the same clock.
          valid: Seconds for which the assignment is valid, from `since` on; None: unknown.

        Raises:
          LimitError: no time is left.
        """
        bounds = [bound for bound in (self.max_seconds, valid) if bound is not None]
        if not bounds:
            return None
        remaining = since + min(bounds) - now
        if remaining <= 0:
            raise self.too_long(valid=valid)
        return remaining

    def too_long(self, *, valid: Optional[float]) -> LimitError:
        """Returns the error for work over its time limit; `valid` is as in `seconds_left`."""
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
        bounds = {name: [value for value in pair if value is not None] for name, pair in pairs.items()}
        return Limits(**{name: min(values) if values else None for name, values in bounds.items()})


def validity_seconds(assignment: Assignment, answered_at: Optional[datetime]) -> Optional[float]:
    """Returns the seconds for which an assignment is valid from its arrival on, or None if unknown.

    Does not read this device's clock, which may be wrong.

    Args:
      assignment: The assignment.
      answered_at: The `Date` header of the answer, for coordinators that send only an expiry time.
    """
    seconds = assignment.seconds
    if seconds is None and answered_at is not None:
        until = assignment.expires_at
        seconds = ((until if until.tzinfo else until.replace(tzinfo=timezone.utc)) - answered_at).total_seconds()
    return bounded_wait(seconds, at_most=MAX_WAIT)


def min_bytes(specs: tuple[Any, ...]) -> int:
    """Returns a lower bound for the bytes of the tensors' values.

    Strings, and tensors with an open dimension, count as 0 bytes.
    """
    return sum(
        math.prod(spec.shape) * spec.dtype.numpy.itemsize
        for spec in specs
        if spec.shape is not None and None not in spec.shape and spec.dtype.value != "string"
    )


@dataclass(frozen=True)
class StopConditions:
    """Conditions that end a client's cycle, checked before a check-in and between two phases.

    Attributes:
      eligible: Returns whether the device may work now, for example only while it is charging and
        on an unmetered network; None: always.
      stop: Ends the cycle when set.
    """

    eligible: Optional[Callable[[], bool]] = None
    stop: Optional[threading.Event] = None

    def reason_to_stop(self) -> Optional[str]:
        """Returns the reason to stop now, or None."""
        if self.stop is not None and self.stop.is_set():
            return STOPPED
        if self.eligible is not None and not self.eligible():
            return "the device is not eligible now"
        return None
