"""Reads a data owner's policy, and checks a plan against it rule by rule."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from muster.cli.failures import LoadingError
from muster.cli.plan.text import titled_table

if TYPE_CHECKING:
    from rich.console import Console

    from muster.client import ClientPolicy
    from muster.client.policy_rules import RuleCheck
    from muster.wire.plan import Plan


@dataclass(frozen=True)
class PlanVerdict:
    """Verdict of a policy on a plan.

    Attributes:
      checks: Verdicts of the rules that depend on the plan only.
      later: Requirements of the rules that depend on each assignment or on the device's budget.
    """

    checks: tuple[RuleCheck, ...]
    later: dict[str, str]

    @property
    def accepted(self) -> bool:
        """True if no rule refuses the plan."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Returns the verdict as JSON-compatible data."""
        return {
            "accepted": self.accepted,
            "rules": [{"rule": item.rule, "passed": item.passed, "detail": item.detail} for item in self.checks],
            "decided_later": self.later,
        }


def policy_of(path: Optional[Path]) -> Optional[ClientPolicy]:
    """Returns the policy of `--policy`, or None without one.

    Raises:
      LoadingError: the policy is not valid.
    """
    if path is None:
        return None
    from muster.client import ClientPolicy, PolicyFileError

    try:
        return ClientPolicy.load(path)
    except PolicyFileError as error:
        raise LoadingError(str(error)) from error


def judge_plan(policy: ClientPolicy, plan: Plan, *, download_bytes: int, update_bytes: int) -> PlanVerdict:
    """Applies the policy to the plan.

    Args:
      policy: Policy of the data owner.
      plan: Plan, or a device's copy of it.
      download_bytes: Least size of the device's copy and one broadcast, in bytes.
      update_bytes: Least size of the update, in bytes.
    """
    from muster.client.policy_rules import RuleCheck, check_plan

    checks = list(check_plan(policy, plan))
    sizes = {
        "max_download_bytes": ("plan and broadcast have", download_bytes, policy.max_download_bytes),
        "max_update_bytes": ("the update has", update_bytes, policy.max_update_bytes),
    }
    for rule, (subject, size, limit) in sizes.items():
        if limit is not None:
            detail = f"{subject} at least {size} bytes; {rule} = {limit}"
            checks.append(RuleCheck(rule, size <= limit, detail))
    return PlanVerdict(tuple(checks), _later(policy))


def _later(policy: ClientPolicy) -> dict[str, str]:
    names = ("goal", "update_bytes_per_data_byte", "max_seconds")
    rules = {name: getattr(policy, name) for name in names}
    if policy.minimum > 1:
        rules["minimum"] = f"{policy.minimum}, as announced with each assignment"
    if policy.budget is not None:
        rules.update({f"budget.{name}": value for name, value in policy.budget.limits.items()})
    return {name: str(value) for name, value in rules.items() if value is not None}


def write(verdict: PlanVerdict, screen: Console) -> None:
    """Prints the verdict as text."""
    from rich.text import Text

    table = titled_table("Policy check", "rule", "verdict", "value and requirement")
    for check in verdict.checks:
        table.add_row(check.rule, "[green]passes[/]" if check.passed else "[bold red]refuses[/]", Text(check.detail))
    for rule, requirement in verdict.later.items():
        table.add_row(rule, "later", Text(f"checked for each assignment: {requirement}"))
    screen.print(table)
    if verdict.accepted:
        screen.print("[green]The policy accepts this plan[/]. Some rules depend on each assignment.", soft_wrap=True)
    else:
        screen.print("[bold red]The policy refuses this plan.[/]", soft_wrap=True)
