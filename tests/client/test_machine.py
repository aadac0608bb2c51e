"""State machine of the client, without a network."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from muster.client import Failed, TensorBody, Unreached
from muster.client.machine import Idle, NoAnswer, Reporting, Uploading, Working, step
from muster.wire.messages import Assignment, Download, FailureReason
from muster.wire.problems import ProblemError, ProblemType

FILE = Download(url="/x", sha256="0" * 64, size=1)
ASSIGNMENT = Assignment(
    task="t",
    round=1,
    token="secret",  # noqa: S106
    expires_at=datetime(2030, 1, 1, tzinfo=timezone.utc),
    plan=FILE,
    broadcast=FILE,
    max_update_bytes=1,
)
DOWN = NoAnswer("down")


def test_backoff_of_failed_checkins_doubles_up_to_a_minute() -> None:
    phase, pauses = Idle(), []
    for _ in range(9):
        moved = step(phase, DOWN, randomness=0.999999)
        assert isinstance(moved.phase, Idle)
        assert isinstance(moved.outcome, Unreached)
        pauses.append(round(moved.outcome.retry_after))
        phase = moved.phase
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_jitter_halves_a_pause_at_most() -> None:
    moved = step(Idle(failed_checkins=3), DOWN, randomness=0.0)
    assert moved.outcome is not None
    assert moved.outcome.retry_after == 4


@pytest.mark.parametrize("phase", [Working("c", ASSIGNMENT), Uploading("c", ASSIGNMENT, TensorBody({}))])
def test_assignment_is_tried_six_times_then_reported(phase: Working | Uploading) -> None:
    current: Working | Uploading = phase
    for _ in range(5):
        moved = step(current, DOWN, randomness=0.5)
        assert isinstance(moved.phase, type(phase))
        current = moved.phase
    moved = step(current, DOWN, randomness=0.5)
    assert isinstance(moved.phase, Reporting)
    assert moved.phase.report.reason is FailureReason.OTHER
    moved = step(moved.phase, DOWN, randomness=0.5)
    assert moved.phase == Idle("c")
    assert isinstance(moved.outcome, Failed)


def test_refused_report_is_not_retried() -> None:
    reporting = step(
        Uploading("c", ASSIGNMENT, TensorBody({})), ProblemError(ProblemType.TOO_LARGE, "big"), randomness=0
    ).phase
    moved = step(reporting, ProblemError(ProblemType.ROUND_CLOSED, "closed"), randomness=0)
    assert isinstance(moved.phase, Idle)
    assert isinstance(moved.outcome, Failed)
    assert moved.outcome.detail == "big"
