"""Applies a policy's rules to an assignment, a plan and an update, one rule at a time.

`muster.client.policy_guard` refuses at the first rule that fails; `muster plan show --client
--policy` shows them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from muster.client.limits import LIMIT_RULES
from muster.client.policy import BudgetRules, ClientPolicy
from muster.runtime.values import value_bytes
from muster.wire.dtypes import DType
from muster.wire.manifest import FoldKind, PlanManifest
from muster.wire.messages import Assignment
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError
from muster.wire.tensors import Array

_PREFIX = "policy."
_NOT_RULES = frozenset({"signers_required", "budget", "max_download_bytes", "max_update_bytes", "max_seconds"})
_MAX_NAMED = 3  # tensors in a message


def rule_name(rule: str) -> str:
    """Returns a rule's name as it is reported to the coordinator."""
    return _PREFIX + rule


RULES = frozenset(
    {
        *(rule_name(name) for name in ClientPolicy.model_fields if name not in _NOT_RULES),
        *(rule_name(f"budget.{name}") for name in BudgetRules.model_fields if name != "file"),
        rule_name("budget"),
        *LIMIT_RULES,
    }
)
"""All texts that a policy or a limit may report to the coordinator; none depends on data."""


@dataclass(frozen=True)
class RuleCheck:
    """Verdict of one rule. `detail`: the actual value, and the policy's requirement."""

    rule: str
    passed: bool
    detail: str


def check_assignment(policy: ClientPolicy, assignment: Assignment) -> Iterator[RuleCheck]:
    """Applies the rules that an assignment alone decides, before any download."""
    if policy.plans is not None:
        yield _check_address(policy.plans, assignment.plan.sha256)
    if policy.minimum > 1 and assignment.minimum is not None:
        detail = f"the coordinator announces a minimum of {assignment.minimum}; minimum = {policy.minimum}"
        yield RuleCheck("minimum", assignment.minimum >= policy.minimum, detail)
    if policy.goal is not None:
        announced = "no goal" if assignment.goal is None else f"a goal of {assignment.goal}"
        detail = f"the coordinator announces {announced}; goal = {policy.goal}"
        yield RuleCheck("goal", (assignment.goal or 0) >= policy.goal, detail)
    if policy.kinds is not None:
        allowed = [kind.value for kind in policy.kinds]
        detail = f"the coordinator announces work of kind {assignment.kind}; kinds = {', '.join(allowed)}"
        yield RuleCheck("kinds", assignment.kind in allowed, detail)
    if not policy.clear_secure_sums:
        yield _check_clear_sums(clear=assignment.sums_in_the_clear)


def check_plan(policy: ClientPolicy, plan: Plan) -> Iterator[RuleCheck]:
    """Applies the rules that a plan decides, before its graph is read.

    Raises:
      ImportError: the policy names signers, and `cryptography` is not installed.
    """
    if policy.plans is not None:
        yield _check_address(policy.plans, plan.sha256)
    yield from check_signers(policy, plan)
    yield from check_manifest(policy, plan.manifest)


def check_signers(policy: ClientPolicy, plan: Plan) -> Iterator[RuleCheck]:
    """Applies the rule about signatures."""
    if policy.signers is None:
        return
    wanted = f"signers_required = {policy.signers_required} of {len(policy.signers)}"
    try:
        plan.check_signed(policy.signers, required=policy.signers_required)
    except ProblemError as problem:
        yield RuleCheck("signers", passed=False, detail=f"{problem.detail}; {wanted}")
    else:
        yield RuleCheck("signers", passed=True, detail=f"enough of the listed signers have signed; {wanted}")


def check_manifest(policy: ClientPolicy, manifest: PlanManifest) -> Iterator[RuleCheck]:
    """Applies the rules that a plan's manifest decides."""
    if policy.minimum > 1:
        bound = 1 if manifest.release is None else manifest.release.minimum
        text = "binds no minimum, which counts as 1" if manifest.release is None else f"binds a minimum of {bound}"
        yield RuleCheck("minimum", bound >= policy.minimum, f"the plan {text}; minimum = {policy.minimum}")
    if policy.folds is not None:
        yield _check_folds(frozenset(policy.folds), manifest)
    if not policy.clear_secure_sums:
        yield _check_clear_sums(clear=manifest.sums_in_the_clear)
    if not policy.string_tensors:
        texts = [spec.path for spec in manifest.update if spec.dtype is DType.STRING]
        fact = f"the update holds text in {_listed(texts)}" if texts else "the update holds no text"
        yield RuleCheck("string_tensors", not texts, f"{fact}; string_tensors = false")


def check_ratio(policy: ClientPolicy, update: Mapping[str, Array], *, data_bytes: int) -> Iterator[RuleCheck]:
    """Applies the rule about an update's size, relative to the data that the plan read."""
    limit = policy.update_bytes_per_data_byte
    if limit is None:
        return
    size = sum(map(value_bytes, update.values()))
    yield RuleCheck(
        "update_bytes_per_data_byte",
        size <= limit * data_bytes,
        f"the update has {size} bytes of values, and the plan read {data_bytes} bytes of data; "
        f"update_bytes_per_data_byte = {limit:g}",
    )


def _check_address(allowed: tuple[str, ...], sha256: str) -> RuleCheck:
    passed = sha256 in allowed
    return RuleCheck("plans", passed, f"plan {sha256} is {'' if passed else 'not '}one of the {len(allowed)} in plans")


def _check_folds(allowed: frozenset[FoldKind], manifest: PlanManifest) -> RuleCheck:
    """Checks each accumulator tensor; a tensor without a known fold counts as `tensorflow`."""
    kinds = {spec.path: FoldKind.TENSORFLOW for spec in manifest.accumulator}
    kinds.update({rule.path: rule.kind for rule in manifest.folds})
    others = [f"{path} ({kind.value})" for path, kind in kinds.items() if kind not in allowed]
    fact = f"the plan folds {_listed(others)}" if others else "the plan folds in no other way"
    return RuleCheck("folds", not others, f"{fact}; folds = {', '.join(sorted(kind.value for kind in allowed))}")


def _check_clear_sums(*, clear: bool) -> RuleCheck:
    fact = "sums that should be secure are in the clear" if clear else "no secure sum is in the clear"
    return RuleCheck("clear_secure_sums", not clear, f"{fact}; clear_secure_sums = false")


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else ""
    return ", ".join(items[:_MAX_NAMED]) + more
