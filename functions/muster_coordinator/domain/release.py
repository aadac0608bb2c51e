"""Applies the floor that a plan's author sets for every task of the plan.

A plan's address covers its floor: a lower floor makes another plan. The documents of a task and of
its rounds can be edited by any caller with write access to the store. So each step that decides on
a result reads the floor from the manifest and applies the stricter value.
"""

from __future__ import annotations

from collections.abc import Iterator

from muster.wire.manifest import PlanManifest
from muster.wire.messages import TaskPolicy
from muster.wire.problems import FieldError
from muster_coordinator.domain.rounds import Terms


def floor(manifest: PlanManifest) -> int:
    """Returns the fewest updates that the plan's author allows in a result."""
    return 1 if manifest.release is None else manifest.release.minimum


def effective_minimum(terms: Terms, manifest: PlanManifest) -> int:
    """Returns the fewest updates that a round may release."""
    return max(terms.minimum, floor(manifest))


def effective_policy(policy: TaskPolicy, manifest: PlanManifest) -> TaskPolicy:
    """Returns a task's policy with the stricter of the task's and the plan's values."""
    release = manifest.release
    if release is None:
        return policy
    minimum = max(policy.minimum, release.minimum)
    return policy.model_copy(
        update={
            "minimum": minimum,
            "goal": max(policy.goal, minimum),
            "rounds": policy.rounds if release.max_rounds is None else min(policy.rounds, release.max_rounds),
            "separation_seconds": max(policy.separation_seconds, release.separation_seconds or 0.0),
        }
    )


def may_commit(number: int, manifest: PlanManifest) -> bool:
    """Returns whether the plan's author allows a task to commit its round of this number."""
    release = manifest.release
    return release is None or release.max_rounds is None or number <= release.max_rounds


def violations(policy: TaskPolicy, manifest: PlanManifest) -> Iterator[FieldError]:
    """Yields each field of a policy that is below the plan's floor, with the floor and the fix."""
    release = manifest.release
    if release is None:
        return
    for name, value in (("goal", policy.goal), ("minimum", policy.minimum)):
        if value < release.minimum:
            reason = (
                f"is {value}, and the plan's author set a minimum of {release.minimum}; use {release.minimum} or more"
            )
            yield FieldError(path=f"policy.{name}", reason=reason)
    most = release.max_rounds
    if most is not None and policy.rounds > most:
        reason = f"is {policy.rounds}, and the plan's author allows at most {most}; use {most} or fewer"
        yield FieldError(path="policy.rounds", reason=reason)
    separation = release.separation_seconds
    if separation is not None and policy.separation_seconds < separation:
        reason = (
            f"is {policy.separation_seconds:g}, and the plan's author set a separation of {separation:g} seconds; "
            f"use {separation:g} or more"
        )
        yield FieldError(path="policy.separation_seconds", reason=reason)
