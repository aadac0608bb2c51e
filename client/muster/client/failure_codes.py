"""Causes of failures (`FailureCode`), by exception and by rule of the device.

The causes are a closed list, since error texts may quote data.
"""

from __future__ import annotations

from typing import Optional

from muster.client.kinds import kind_of
from muster.wire.messages import FailureCode
from muster.wire.problems import ProblemError, ProblemType

_MEMORY_KINDS = frozenset({"MemoryError", "ResourceExhaustedError"})
_MISSING_KINDS = frozenset({"FileNotFoundError", "NotFoundError"})
_BY_PROBLEM = {
    ProblemType.PLAN_INVALID: FailureCode.PLAN_INVALID,
    ProblemType.TOO_LARGE: FailureCode.LIMITS_SIZE,
    ProblemType.UPDATE_NOT_FINITE: FailureCode.DATA_NOT_FINITE,
}
_BY_RULE = {
    "limits.max_download_bytes": FailureCode.LIMITS_SIZE,
    "limits.max_update_bytes": FailureCode.LIMITS_SIZE,
    "limits.max_seconds": FailureCode.LIMITS_TIME,
}


def code_of_data(error: BaseException) -> FailureCode:
    """Returns the cause of an exception of the data callback, or of reading its data."""
    kind = kind_of(error)
    if kind in _MEMORY_KINDS:
        return FailureCode.LIMITS_MEMORY
    is_missing = isinstance(error, FileNotFoundError) or kind in _MISSING_KINDS
    return FailureCode.DATA_MISSING if is_missing else FailureCode.DATA_ERROR


def code_of_work(problem: ProblemError) -> FailureCode:
    """Returns the cause of a problem that a plan's work raised."""
    if kind_of(problem) in _MEMORY_KINDS:
        return FailureCode.LIMITS_MEMORY
    if problem.type is ProblemType.INVALID_REQUEST:
        return FailureCode.DATA_SHAPE
    return code_of_refusal(problem) or FailureCode.COMPUTATION_ERROR


def code_of_refusal(problem: ProblemError) -> Optional[FailureCode]:
    """Returns the cause of a download or an update that was refused, or None if it is not known."""
    return _BY_PROBLEM.get(problem.type)


def code_of_rule(rule: str) -> FailureCode:
    """Returns the cause for a rule of the device, such as `limits.max_seconds`."""
    if rule.startswith("policy.budget"):
        return FailureCode.LIMITS_BUDGET
    return _BY_RULE.get(rule, FailureCode.PLAN_REFUSED)
