"""Shape, arrivals, durations and process usage of a load."""

from __future__ import annotations

import itertools
import os
import sys
import time
from contextlib import closing

import pytest

from muster.load.arrivals import ArrivalRecorder
from muster.load.served import Access, Served, used_by
from muster.load.shape import LoadShape
from muster.load.times import Histogram, Times
from muster.wire.problems import ProblemError


def test_arrivals_are_read_from_a_file(tmp_path):
    file = tmp_path / "times"
    file.write_text("2\n0.5\n1\n")
    shape = LoadShape(clients=3, arrivals="file", file=file)
    assert list(shape.times(1)) == [0.5, 1.0, 2.0]
    with pytest.raises(ValueError, match="3 times, for 4 clients"):
        LoadShape(clients=4, arrivals="file", file=file)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon"])
def test_file_with_invalid_times_is_refused(tmp_path, text):
    file = tmp_path / "times"
    file.write_text(text)
    with pytest.raises(ValueError, match="must have"):
        LoadShape(clients=1, arrivals="file", file=file)


@pytest.mark.parametrize("clients", [1, 10, 1000])
@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.33, 0.5])
def test_exactly_the_given_fraction_drops_out(clients, dropout):
    shape = LoadShape(clients=clients, dropout=dropout)
    assert shape.survivors == sum(not shape.drops(client) for client in range(clients))
    assert shape.survivors == clients - int(clients * dropout)


def test_every_client_has_a_slot_unless_a_goal_is_given():
    assert LoadShape(clients=100, dropout=0.2).policy().cap == 100
    policy = LoadShape(clients=1000, goal=100, over_selection=1.3, minimum=80, round_seconds=90.0).policy()
    assert (policy.goal, policy.cap, policy.minimum, policy.round_seconds) == (100, 130, 80, 90.0)
    assert LoadShape(clients=1000, goal=100).policy().cap == 100


@pytest.mark.parametrize(
    ("shape", "seconds"),
    [
        (LoadShape(clients=100_000, arrivals="uniform", rate=1.0), 100_000),
        (LoadShape(clients=100_000, concurrency=10, work=60.0), 600_000),
        (LoadShape(clients=10, work=1.0, stragglers=0.5, straggle=200_000.0), 200_000),
    ],
)
def test_round_seconds_suffice_for_the_last_client(shape, seconds):
    assert seconds < shape.policy().round_seconds <= 30 * 86400


def test_arrivals_after_the_longest_round_are_refused():
    with pytest.raises(ValueError, match="a round lasts 30 at most"):
        LoadShape(clients=10_000_000, arrivals="uniform", rate=1.0)


def test_invalid_policy_names_the_field():
    with pytest.raises(ProblemError, match="over_selection"):
        LoadShape(clients=10, over_selection=11.0).policy()


def test_lateness_counts_from_when_a_client_was_due():
    recorder = ArrivalRecorder()
    recorder.begin(iter([float(second) for second in range(40)]))
    for client in range(40):  # one is served in two seconds, and comes each second
        recorder.sent(float(client), 2.0 * client)
        recorder.answered(float(client), 2.0 * client + 2.0)
    arrivals = recorder.result()
    assert (arrivals.offered, arrivals.achieved) == (pytest.approx(1.0), pytest.approx(0.5))
    assert arrivals.lateness.quantile(0.5) == pytest.approx(19.5, rel=0.05)
    assert arrivals.answered.quantile(1.0) == pytest.approx(41.0, rel=0.03)
    assert arrivals.backlog == 20
    assert arrivals.kept_up is False


def test_slow_answers_are_not_overload():
    recorder = ArrivalRecorder()
    recorder.begin(itertools.count())
    for client in range(100):
        recorder.sent(float(client), client + 0.01)
        recorder.answered(float(client), client + 3.0)
    arrivals = recorder.result()
    assert arrivals.kept_up is True
    assert arrivals.in_time


def test_burst_has_no_rate():
    recorder = ArrivalRecorder()
    recorder.begin(itertools.repeat(0.0, 50))
    for client in range(50):
        recorder.sent(0.0, client)
        recorder.answered(0.0, client + 1.0)
    arrivals = recorder.result()
    assert (arrivals.offered, arrivals.kept_up, arrivals.backlog) == (None, None, 50)


def test_nested_phases_are_subtracted():
    times = Times(cpu=True)
    start, cpu = time.perf_counter(), time.process_time()
    with times.phase("outer"):
        with times.phase("inner"):
            sum(range(2_000_000))
            times.called("documents.get")
            times.moved(up=3, down=4)
        times.moved(up=1, down=1)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    inner, outer = times.phases()
    assert (inner.name, outer.name) == ("inner", "outer")
    assert 0 < inner.total + outer.total <= seconds  # twice counted, it would be more
    assert 0 < inner.cpu + outer.cpu <= cpu
    assert (inner.up, inner.down, inner.calls) == (3, 4, {"documents.get": 1})
    assert (outer.up, outer.down, outer.calls) == (1, 1, {})


def test_quantiles_are_within_3_percent():
    histogram = Histogram()
    for number in range(1, 1001):
        histogram.add(number / 1000)
    assert histogram.quantile(0.5) == pytest.approx(0.5, rel=0.03)
    assert histogram.quantile(0.99) == pytest.approx(0.99, rel=0.03)


def test_process_usage_is_measured():
    before = used_by({"here": os.getpid(), "nowhere": 2**30})
    assert set(before) == {"here"}
    sum(range(5_000_000))
    used = used_by({"here": os.getpid()})["here"]
    assert used.since(before["here"]).cpu > 0
    assert used.peak > 10e6
    assert used.processes >= 1


def test_missing_psutil_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with closing(Served("http://127.0.0.1:1", lanes=1, access=Access(), pids={"web": os.getpid()})) as target:
        assert target.used() == {}
        assert "muster-fl[load]" in target.unmeasured
