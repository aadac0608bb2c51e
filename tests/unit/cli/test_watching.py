"""Rounds as text: failures with reasons, abandoned attempts, and lines that fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.harness import Harness
from support.plans import sum_update
from support.served import served
from typer.testing import CliRunner
from werkzeug.wrappers import Request

from muster.cli.app import app
from muster.cli.round_text import ended_round, open_round, short_names
from muster.cli.watching import task_picture
from muster.wire.messages import FailureReason, Report, RoundView, TaskView
from muster_coordinator.http import router

START = "2026-11-30T10:00:00Z"


def round_view(**fields: Any) -> RoundView:
    base = {"task": "t", "round": 4, "epoch": 0, "phase": "COLLECTING", "opened_at": START, "deadline": START}
    return RoundView.from_dict({**base, "goal": 1, "minimum": 1, "cap": 1, **fields})


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


@pytest.fixture
def url(harness: Harness) -> Iterator[str]:
    with served(Request.application(router(harness.app))) as address:
        yield address


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.stderr, result.exception)
    return result.output


def test_open_round_lists_assignments_given_back() -> None:
    text = open_round(round_view(assigned=3, reported=0, failed={"cancelled": 3}))
    assert text == (
        "round 4, COLLECTING: 0 of 1 updates; 3 assignments, 3 given back (cancelled 3), at most 1 at a time"
    )


def test_ended_round_lists_failures_and_drops() -> None:
    view = round_view(
        phase="COMMITTED", folded=2, update_bytes=2000, failed={"data": 1, "computation": 2}, dropped={"norm": 1}
    )
    assert ended_round(view) == (
        "round 4 committed: 2 updates, 2.0 kB; failed at clients: computation 2, data 1; dropped by the fold: norm 1"
    )


def test_abandoned_attempt_has_its_reason() -> None:
    view = round_view(epoch=1, phase="ABANDONED", reason="0 updates came in by the deadline; the minimum is 1")
    assert ended_round(view).startswith("round 4 (attempt 2) abandoned: 0 updates came in by the deadline")


def test_metrics_have_shortest_unique_names() -> None:
    paths = ["a/train/loss", "a/train/num_examples", "b/eval/loss"]
    assert list(short_names(dict.fromkeys(paths, 0.0)).values()) == ["train/loss", "eval/loss", "num_examples"]


@pytest.mark.parametrize("columns", [80, 60, 120])
def test_live_view_breaks_no_word(columns: int) -> None:
    metrics = {"client_work/train/num_examples": 640.0, "client_work/train/loss": 0.25, "accuracy": 0.9}
    rounds = deque(
        round_view(round=n, phase="COMMITTED", folded=8, update_bytes=84_500, metrics=metrics) for n in (1, 2)
    )
    view = TaskView.from_dict(
        {
            "spec": {"name": "digits", "population": "p", "plan": "0" * 64},
            "plan_name": "process",
            "status": "completed",
            "created_at": START,
            "checkpoint": 2,
        }
    )
    screen = Console(width=columns, record=True, force_terminal=True, color_system=None)
    screen.print(task_picture(view, rounds, width=columns))
    lines = screen.export_text().splitlines()
    table = next(at for at, line in enumerate(lines) if "outcome" in line)
    assert len(lines) == table + 3  # each round takes one line
    assert all(len(line) <= columns for line in lines)


def test_show_lists_abandoned_attempts_and_failure_reasons(harness: Harness, url: str) -> None:
    harness.begin(goal=1, round_seconds=60.0)
    for _ in range(2):
        token = harness.assigned(1).token
        harness.ask("POST", "/v1/updates:report", body=Report(reason=FailureReason.COMPUTATION).encode(), token=token)
        harness.clock.advance(61.0)
        harness.settle()
    text = run("task", "show", "sum", "--url", url)
    assert "round 1 (attempt 3), COLLECTING" in text
    assert text.count("failed at clients: computation 1") == 2
    assert "round 1 abandoned: 0 updates" in text
    assert "round 1 (attempt 2) abandoned: 0 updates" in text


def test_watch_without_a_terminal_writes_a_line_per_round(harness: Harness, url: str) -> None:
    harness.begin(goal=1, rounds=12)
    for number in range(12):
        harness.upload(harness.assigned(number).token, sum_update(number))
        harness.settle()
    lines = run("task", "watch", "sum", "--url", url).splitlines()
    lines.remove("MINIMUM 1: a round's result may be the update of a single client.")
    assert [line.partition(":")[0] for line in lines[:12]] == [f"round {number} committed" for number in range(1, 13)]
    assert lines[12:] == ["sum: 12/12 rounds, completed"]
