"""Tests of events: each is logged once, as one JSON object per line, and names no client."""

from __future__ import annotations

import io
import json
import logging

import pytest
from support.harness import TASK, Harness
from support.plans import sum_update

from muster_coordinator import events


@pytest.fixture
def lines():
    """Returns a function that returns the logged events of one kind."""
    stream, before = io.StringIO(), (events.LOG.handlers[:], events.LOG.level, events.LOG.propagate)
    events.LOG.handlers = [logging.NullHandler()]
    events.write_to(stream)
    yield lambda event: [line for line in map(json.loads, stream.getvalue().splitlines()) if line["event"] == event]
    events.LOG.handlers, events.LOG.propagate = before[0], before[2]
    events.LOG.setLevel(before[1])


@pytest.fixture
def harness(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, minimum=2, round_seconds=600)
    return h


def test_committed_round_is_logged_once(harness, lines):
    for number, client in enumerate("ab"):
        harness.upload(harness.assigned(client).token, sum_update(number))
    harness.settle()
    (line,) = lines("round_committed")
    assert (line["severity"], line["task"], line["round"], line["folded"]) == ("INFO", TASK, 1, 2)
    assert line["message"] == f"Round 1 of task {TASK} is committed: 2 updates"


def test_attempt_below_minimum_and_cancelled_attempt_are_distinguished(harness, lines):
    harness.upload(harness.assigned("a").token, sum_update(1))
    harness.clock.advance(601)
    harness.settle()
    harness.operate("cancel")
    harness.settle()
    assert [(line["below_minimum"], line["severity"]) for line in lines("round_abandoned")] == [
        (True, "WARNING"),
        (False, "INFO"),
    ]


def test_refused_update_is_logged_without_its_client(harness, lines):
    assignment = harness.assigned("somebody")
    assert harness.call("PUT", "/v1/updates", body=b"no update", token=assignment.token).status_code == 422
    (line,) = lines("update_refused")
    assert line == {
        "severity": "WARNING",
        "message": "An update was refused at the upload: update_invalid",
        "event": "update_refused",
        "problem": "update_invalid",
        "at": "upload",
    }


def test_tick_logs_a_round_whose_commit_is_late(harness, lines):
    for number, client in enumerate("ab"):
        harness.upload(harness.assigned(client).token, sum_update(number))
    harness.tick()
    assert not lines("round_stuck")
    harness.clock.advance(events.LATE_SECONDS + 1)
    harness.tick()
    (line,) = lines("round_stuck")
    assert (line["severity"], line["phase"]) == ("ERROR", "AGGREGATING")
    assert events.LATE_SECONDS < line["seconds_late"] < events.LATE_SECONDS + 10


def test_tick_counts_updates_without_reports(harness, lines):
    harness.upload(harness.assigned("a").token, sum_update(1))
    harness.report(harness.assigned("b").token)
    harness.tick()
    (line,) = lines("updates_stored")
    assert line["count"] == 1
    assert "oldest_seconds" in line


def test_nothing_is_logged_before_a_stream_is_set(harness, capsys):
    harness.call("PUT", "/v1/updates", body=b"", token="no token")  # noqa: S106
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
