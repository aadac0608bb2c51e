"""Enforces a device's policy at each step of an assignment.

    before_checkin      budget, before a slot is taken
    on_assignment       plan address, announced minimum and goal, budget: before any download
    on_signatures       the plan's signers, before its manifest is used
    on_plan             the manifest, before the graph is read
    before_work         the budget is spent, durably, before the plan runs on the data
    before_upload       the size of the update relative to the data

Each method raises `PolicyError` where a rule forbids the step. Without a policy all of them allow
everything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Optional, Union

from muster.client.budget import Budget, BudgetError, Exhausted
from muster.client.limits import LimitError, Limits
from muster.client.policy import ClientPolicy
from muster.client.policy_rules import (
    RuleCheck,
    check_assignment,
    check_manifest,
    check_ratio,
    check_signers,
    rule_name,
)
from muster.runtime.data import DataMeter
from muster.wire.manifest import PlanManifest
from muster.wire.messages import Assignment
from muster.wire.plan import Plan
from muster.wire.signatures import need_cryptography
from muster.wire.tensors import Array

NO_POLICY = (
    "No policy: the coordinator decides which plans run here and what leaves this machine, within the limits "
    "and signers that were given. A policy (--policy FILE) decides it here"
)
_MAX_REFUSED = 256  # plans whose refusal is cached
_MAX_PAUSE = 3600.0  # seconds between two checks of a spent budget
_BROKEN_PAUSE = 60.0  # seconds until an unusable budget file is tried again


class PolicyError(LimitError):
    """Error raised when a rule of the device's policy forbids an assignment.

    Only the rule's name leaves the device.

    Attributes:
      rule: The rule's name, such as `policy.minimum`.
    """

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"The device's policy refuses: {detail} ({rule})", rule=rule)


@dataclass(frozen=True)
class BudgetPause:
    """Reason for not checking in now.

    Attributes:
      detail: The reason.
      retry_after: Seconds until the next check.
      until: When the budget allows a contribution again; None: never.
    """

    detail: str
    retry_after: float
    until: Optional[datetime] = None


class PolicyGuard:
    """Guard that applies one policy to one client.

    Args:
      policy: The policy, or its file; None: everything is allowed.
      clock: The device's clock, in POSIX seconds.

    Raises:
      PolicyFileError: the policy's file is not valid.
      BudgetError: the budget's file can't be used.
      ImportError: the policy names signers, and `cryptography` is not installed.
    """

    def __init__(
        self, policy: Union[ClientPolicy, str, Path, None] = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.policy = ClientPolicy.load(policy) if isinstance(policy, (str, Path)) else policy
        self._clock = clock
        self._budget: Optional[Budget] = None
        self._charged: Optional[Assignment] = None  # the assignment that the budget was last spent on
        self._meter: Optional[DataMeter] = None
        self._refused: dict[str, RuleCheck] = {}  # by the plan's address
        self.notes: tuple[str, ...] = () if self.policy is not None else (NO_POLICY,)
        if self.policy is None:
            return
        if self.policy.signers is not None:
            need_cryptography()
        if self.policy.budget is not None:
            self._budget = Budget(self.policy.budget, clock=clock)
            if self._budget.open():
                self.notes = (f"There was no budget yet: an empty one begins in {self._budget.path}",)

    def limits(self, other: Optional[Limits]) -> Limits:
        """Returns the stricter of the policy's sizes and times and those of `other`."""
        own = Limits() if self.policy is None else self.policy.limits
        return own.stricter(other or Limits())

    def before_checkin(self) -> Optional[BudgetPause]:
        """Returns the reason for which the client may not check in now, or None."""
        if self._budget is None:
            return None
        try:
            exhausted = self._exhausted(self._budget)
        except BudgetError as error:
            return BudgetPause(str(error), _BROKEN_PAUSE)
        if exhausted is None:
            return None
        detail = f"The device's budget is used up: {exhausted.detail}"
        if exhausted.free_at is None:
            return BudgetPause(detail, _MAX_PAUSE)
        until = datetime.fromtimestamp(exhausted.free_at, timezone.utc).replace(microsecond=0)
        pause = min(max(exhausted.free_at - self._clock(), 1.0), _MAX_PAUSE)
        return BudgetPause(f"{detail}; free again at {until.isoformat().replace('+00:00', 'Z')}", pause, until)

    def on_assignment(self, assignment: Assignment) -> None:
        """Checks the assignment's own fields, and the budget."""
        if self.policy is None:
            return
        self._require(check_assignment(self.policy, assignment))
        refused = self._refused.get(assignment.plan.sha256)
        if refused is not None:
            self._require([refused])
        if self._budget is not None and self._charged != assignment:
            self._require_budget(lambda budget: budget.exhausted(**_key(assignment)))

    def on_signatures(self, plan: Plan) -> None:
        """Checks the signers of the plan, whose hashes are checked already."""
        if self.policy is not None:
            self._require(check_signers(self.policy, plan))

    def on_plan(self, manifest: PlanManifest, *, sha256: str) -> None:
        """Checks the plan's manifest, before its graph is read.

        Caches a refusal, so that a refused plan is not fetched again.
        """
        if self.policy is None:
            return
        for check in check_manifest(self.policy, manifest):
            if not check.passed:
                self._refused[sha256] = check
                if len(self._refused) > _MAX_REFUSED:
                    self._refused.pop(next(iter(self._refused)))
            self._require([check])

    def before_work(self, assignment: Assignment) -> dict[str, Any]:
        """Spends the budget on the assignment, once, and starts to count the bytes of its data.

        Durable when this returns: a crash, a failure and a lost update count like a contribution.

        Returns:
          Further arguments for a worker's `work`.
        """
        self._charge(assignment)
        if self.policy is None or self.policy.update_bytes_per_data_byte is None:
            return {}
        self._meter = DataMeter()
        return {"meter": self._meter}

    def before_upload(self, assignment: Assignment, update: Mapping[str, Array]) -> None:
        """Checks the update against the data that the plan read for it."""
        self._charge(assignment)
        if self.policy is not None:
            data_bytes = 0 if self._meter is None else self._meter.total
            self._require(check_ratio(self.policy, update, data_bytes=data_bytes))

    def _charge(self, assignment: Assignment) -> None:
        if self._budget is not None and self._charged != assignment:
            self._require_budget(lambda budget: budget.spend(**_key(assignment)))
            self._charged = assignment

    def _require_budget(self, check: Callable[[Budget], Optional[Exhausted]]) -> None:
        if self._budget is None:
            return
        try:
            exhausted = check(self._budget)
        except BudgetError as error:
            raise PolicyError(rule_name("budget"), str(error)) from error
        if exhausted is not None:
            raise PolicyError(rule_name(f"budget.{exhausted.limit}"), exhausted.detail)

    def _exhausted(self, budget: Budget) -> Optional[Exhausted]:
        """Returns the limit that forbids every contribution now, or None.

        That is a limit for all plans, or the first one if each plan of the policy has one.
        """
        exhausted = budget.exhausted()
        listed = None if self.policy is None else self.policy.plans
        if exhausted is not None or listed is None:
            return exhausted
        used_up = [budget.exhausted(plan=plan) for plan in listed]
        return used_up[0] if all(item is not None for item in used_up) else None

    @staticmethod
    def _require(checks: Iterable[RuleCheck]) -> None:
        for check in checks:
            if not check.passed:
                raise PolicyError(rule_name(check.rule), check.detail)


def _key(assignment: Assignment) -> dict[str, str]:
    return {"plan": assignment.plan.sha256, "broadcast": assignment.broadcast.sha256}
