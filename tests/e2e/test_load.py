"""`muster simulate --no-train`: synthetic clients on the real HTTP application, with a sum that is known to the last digit."""

from __future__ import annotations

import json
import tempfile

import pytest
from typer.testing import CliRunner

from muster.cli.app import app
from muster.simulation.load import run_load
from muster.simulation.load_shape import LoadShape
from muster.simulation.load_times import Histogram


def phases(result):
    return {phase.name: phase for phase in result.phases}


def test_every_update_is_counted_though_clients_vanish_in_every_round():
    told = []
    shape = LoadShape(clients=150, rounds=2, dropout=0.1)
    result = run_load(shape, progress=lambda number, done: told.append((number, done)))
    assert result.exact is True
    assert [each.folded for each in result.rounds] == [135, 135]
    # The second round's first clients may be told what was known of the first one, for as long as a reading is kept.
    waited = result.outcomes.pop("told to wait", 0)
    assert waited == result.waits.count <= shape.concurrency
    assert result.outcomes == {"accepted": 270, "vanished": 30}
    assert told[-1] == (2, 150)
    found = phases(result)
    assert [found[name].count for name in ("check-in", "broadcast", "upload", "commit")] == [300 + waited, 270, 270, 2]
    assert found["upload"].calls["blobs.create"] == 270
    # The last update called for the close, and that for the commit: no tick, and no deadline.
    assert all(each.commit < 5.0 for each in result.rounds)


def test_slots_of_stragglers_come_back_and_their_second_try_counts():
    shape = LoadShape(
        clients=40, stragglers=0.2, straggle=100, work=1.0, assignment_seconds=20.0, concurrency=8, seed=1
    )
    result = run_load(shape)
    late = result.outcomes["too late for its assignment"]
    assert late == sum(shape.seconds_of_work(client, attempt=0) > 1 for client in range(40)) > 0
    assert result.exact is True
    assert result.rounds[0].folded == 40
    assert result.wall < result.rounds[0].seconds  # what nobody works at takes no time


@pytest.mark.parametrize("arrivals", ["uniform", "poisson", "burst"])
def test_an_open_loop_has_all_clients_come(arrivals):
    result = run_load(LoadShape(clients=60, arrivals=arrivals, rate=10.0))
    assert result.exact is True
    seconds = result.rounds[0].seconds
    assert (seconds < 3.0) if arrivals == "burst" else (3.0 < seconds < 15.0)


def test_the_command_writes_json_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = CliRunner().invoke(app, ["simulate", "--no-train", "--clients", "20", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["exact"] is True
    assert found["rounds"][0]["folded"] == 20
    assert list(tmp_path.iterdir()) == []


def test_the_command_shows_where_the_time_goes():
    done = CliRunner().invoke(app, ["simulate", "--no-train", "--clients", "12"])
    assert done.exit_code == 0, done.output
    for word in ("check-in", "upload", "commit", "exact", "updates a second"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--arrivals", "sometimes"], "none of them"),
        (["--stragglers", "many"], "PART:FACTOR"),
        (["--dropout", "1"], "drop out"),
        (["--data", "a:b"], "--data"),
        (["--rate", "0"], "above 0"),
    ],
)
def test_the_command_refuses_what_makes_no_load(arguments, reason):
    done = CliRunner().invoke(app, ["simulate", "--no-train", *arguments])
    assert done.exit_code == 2
    assert reason in done.output


def test_times_come_from_a_file(tmp_path):
    file = tmp_path / "times"
    file.write_text("2\n0.5\n1\n")
    shape = LoadShape(clients=3, arrivals="file", file=file)
    assert list(shape.times(1)) == [0.5, 1.0, 2.0]
    with pytest.raises(ValueError, match="3 times, for 4 clients"):
        list(LoadShape(clients=4, arrivals="file", file=file).times(1))


def test_quantiles_are_right_to_some_percent():
    histogram = Histogram()
    for number in range(1, 1001):
        histogram.add(number / 1000)
    assert histogram.quantile(0.5) == pytest.approx(0.5, rel=0.03)
    assert histogram.quantile(0.99) == pytest.approx(0.99, rel=0.03)
