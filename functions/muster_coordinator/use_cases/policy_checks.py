"""Checks a task's policy against its plan, and against the floors of author and deployment."""

from __future__ import annotations

from collections.abc import Iterator

from muster.runtime.norms import is_measured
from muster.wire.manifest import PlanManifest
from muster.wire.messages import TaskPolicy, TaskSpec
from muster.wire.problems import FieldError
from muster_coordinator.domain.release import violations


def norm_faults(policy: TaskPolicy, manifest: PlanManifest) -> Iterator[FieldError]:
    """Yields the bound on the norm of updates, if the plan's updates have no norm."""
    if policy.max_update_norm is not None and not any(map(is_measured, manifest.update)):
        reason = "the plan's updates have no floating-point tensor of one dimension or more to bound; leave it out"
        yield FieldError(path="policy.max_update_norm", reason=reason)


def floor_faults(spec: TaskSpec, manifest: PlanManifest, *, least_minimum: int) -> Iterator[FieldError]:
    """Yields each field below the floor of the plan's author or of the deployment.

    The policy's rounds do not bound a driven task, whose runs are checked against the author's
    bound.
    """
    policy = spec.policy
    is_driven = spec.driven or spec.evaluates is not None
    for fault in violations(policy, manifest):
        if not (is_driven and fault.path == "policy.rounds"):
            yield fault
    if policy.minimum < least_minimum:
        reason = (
            f"is {policy.minimum}, and this deployment makes no task below {least_minimum} (MUSTER_MINIMUM); "
            f"use {least_minimum} or more"
        )
        yield FieldError(path="policy.minimum", reason=reason)
