"""`muster load`: synthetic clients on the real HTTP application, with an exact known sum."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading

import pytest
from typer.testing import CliRunner

from muster.cli.app import app
from muster.load.run import Access, LoadError, LoadShape, run_load
from muster.local.coordinator import LocalCoordinator
from muster.operator import Operator
from muster.wire.enrolment import PrivateKey
from muster.wire.messages import TaskStatus
from muster.wire.signatures import SigningKey

KEY = "an operator's key"


def phases(result):
    return {phase.name: phase for phase in result.phases}


def text_of(done):
    """The output of a command without frames and line breaks."""
    return " ".join(done.output.replace("│", " ").split())


def load(*arguments):
    return CliRunner().invoke(app, ["load", *arguments])


@pytest.fixture
def closed_deployment(tmp_path, monkeypatch):
    """A deployment that requires operator keys, signed plans and enrolment, and its keys' files."""
    signing, enrolling = SigningKey.generate(), PrivateKey.generate()
    signing.save(tmp_path / "signing.key")
    (tmp_path / "enrolment.key").write_bytes(enrolling.pem())
    monkeypatch.setenv("MUSTER_TRUSTED_SIGNERS", signing.signer)
    monkeypatch.setenv("MUSTER_CLIENTS", f"enrolment:{enrolling.public}")
    monkeypatch.setenv("MUSTER_OPERATORS", f"keys:me:operator:{hashlib.sha256(KEY.encode()).hexdigest()}")
    with LocalCoordinator(tmp_path / "coordinator", workers=1, warm=False) as running:
        yield running, Access(token=KEY, signing_key=signing, enrolment_key=enrolling)


def test_every_update_is_counted_while_clients_vanish():
    reports = []
    shape = LoadShape(clients=150, rounds=2, dropout=0.1)
    result = run_load(shape, progress=lambda number, done: reports.append((number, done)))
    assert result.exact is True
    assert [attempt.folded for attempt in result.rounds] == [135, 135]
    # The second round's first clients may see the first round for as long as it is cached.
    waited = result.outcomes.pop("told to wait", 0)
    assert waited == result.waits.count <= shape.lanes
    assert result.outcomes == {"accepted": 270, "vanished": 30}
    assert reports[-1] == (2, 150)
    by_name = phases(result)
    assert [by_name[name].count for name in ("check-in", "broadcast", "upload", "commit")] == [
        300 + waited,
        270,
        270,
        2,
    ]
    assert by_name["upload"].calls["blobs.create"] == 270
    # The last update causes the close, and that the commit. A tick would be seconds later by the
    # load's clock, which skips idle time; the work itself takes `wall` at most.
    assert all(attempt.commit < 5.0 + result.wall for attempt in result.rounds)


def test_stragglers_check_in_again_and_are_counted():
    shape = LoadShape(
        clients=40, stragglers=0.2, straggle=100, work=1.0, assignment_seconds=20.0, concurrency=8, seed=1
    )
    result = run_load(shape)
    late = result.outcomes["too late for its assignment"]
    assert late == sum(shape.seconds_of_work(client, attempt=0) > 1 for client in range(40)) > 0
    assert result.exact is True
    assert result.rounds[0].folded == 40
    assert result.wall < result.rounds[0].seconds  # idle time is skipped


@pytest.mark.parametrize("arrivals", ["uniform", "poisson", "burst"])
def test_all_clients_arrive_in_open_loop(arrivals):
    result = run_load(LoadShape(clients=60, arrivals=arrivals, rate=None if arrivals == "burst" else 10.0))
    assert result.exact is True
    seconds = result.rounds[0].seconds
    # Idle time is skipped, so `wall` is what the work took.
    assert (seconds < 3.0 + result.wall) if arrivals == "burst" else (3.0 < seconds < 15.0 + result.wall)


def test_overload_is_reported():
    result = run_load(LoadShape(clients=100, arrivals="uniform", rate=1e5))
    arrivals = result.arrivals
    assert (arrivals.kept_up, arrivals.offered > 10 * arrivals.achieved) == (False, True)
    assert arrivals.lateness.count == 100
    assert arrivals.lateness.quantile(0.99) > 10 * arrivals.lateness.quantile(0.01) > 0
    assert 50 < arrivals.backlog <= 100
    assert "one core" in result.limit


def test_round_lasts_until_the_last_arrival(tmp_path):
    file = tmp_path / "times"
    file.write_text("0\n90000\n")
    result = run_load(LoadShape(clients=2, arrivals="file", file=file))
    assert (result.outcomes, result.exact) == ({"accepted": 2}, True)
    assert result.rounds[0].seconds > 90_000


@pytest.mark.parametrize("comes", [90.0, 90_000.0])
def test_client_after_the_round_does_not_block_the_load(tmp_path, comes):
    file = tmp_path / "times"
    file.write_text(f"0 1 {comes}")
    result = run_load(LoadShape(clients=3, arrivals="file", file=file, round_seconds=60.0))
    assert result.outcomes["accepted"] == 2
    assert result.outcomes["came after its round"] == 1
    (only,) = result.rounds
    assert (only.committed, only.folded, only.goal, only.exact, only.lost) == (True, 2, 3, True, 0)
    assert result.exact is True  # fewer than the goal, and none of them lost


def test_clients_without_a_slot_end_with_the_round():
    shape = LoadShape(
        clients=200,
        rounds=2,
        goal=50,
        over_selection=1.3,
        work=1.0,
        stragglers=0.1,
        straggle=100.0,
        round_seconds=600.0,
    )
    result = run_load(shape)
    assert [(attempt.folded, attempt.exact) for attempt in result.rounds] == [(50, True)] * 2
    ended = {name: count for name, count in result.outcomes.items() if name != "told to wait"}
    assert sum(ended.values()) == 400
    assert ended["accepted"] == 100
    late = ended["too late for its round"] + ended["still at work when its round ended"]
    assert late == 2 * (shape.policy().cap - 50)


def test_abandoned_round_is_a_reported_attempt():
    result = run_load(LoadShape(clients=20, rounds=2, goal=50, minimum=30, round_seconds=60.0))
    assert [(attempt.number, attempt.attempt, attempt.committed, attempt.folded) for attempt in result.rounds] == [
        (1, 1, False, 0),
        (1, 2, False, 0),
    ]
    assert "minimum is 30" in result.rounds[0].reason
    assert result.exact is None
    done = load("--clients", "5", "--goal", "9", "--minimum", "7", "--round-seconds", "60")
    assert done.exit_code == 1
    assert "abandoned" in done.stdout


def test_phases_do_not_overlap():
    result = run_load(LoadShape(clients=80))
    by_name = phases(result)
    assert {"queue", "fold", "close", "commit"} <= set(by_name)
    assert sum(phase.total for phase in result.phases) <= result.wall
    assert sum(phase.cpu for phase in result.phases) <= result.cpu


def test_served_coordinator_is_measured():
    done = load("--clients", "40", "--served", "--workers", "1", "--rate", "200", "--json")
    assert done.exit_code == 0, done.output
    output = json.loads(done.stdout)
    assert output["exact"] is True
    assert output["outcomes"] == {"accepted": 40}
    assert set(output["processes"]) == {"web", "committer", "pump"}
    assert all(10e6 < use["peak_bytes"] < 4e9 for use in output["processes"].values())
    assert output["server_cpu_seconds"] == pytest.approx(
        sum(use["cpu_seconds"] for use in output["processes"].values())
    )
    assert output["capacity"]["server_cpu_ms_for_a_client"] == pytest.approx(output["server_cpu_seconds"] * 1000 / 40)
    assert output["bytes_up_for_a_client"] > 100
    assert output["arrivals"]["lateness"]["count"] == 40
    assert "s: starting a coordinator" in done.stderr  # progress


def test_load_of_a_deployment_with_keys_and_enrolment(closed_deployment, tmp_path):
    running, access = closed_deployment
    keys = ["--key", str(tmp_path / "signing.key"), "--enrolment-key", str(tmp_path / "enrolment.key")]
    place = ["--clients", "12", "--rounds", "2", "--url", running.url]
    done = load(*place, "--operator-url", running.url, "--token", KEY, *keys, "--json")
    assert done.exit_code == 0, done.output
    output = json.loads(done.stdout)
    assert (output["exact"], output["outcomes"]["accepted"]) == (True, 24)
    # Both by this machine's clock, which sees the end at a poll.
    assert all(0 <= attempt["commit"] <= attempt["seconds"] and attempt["within"] > 0 for attempt in output["rounds"])
    assert output["capacity"] is None
    for left_out, hint in ((keys[2:], "--key"), (keys[:2], "--enrolment-key")):
        refused = load(*place, "--token", KEY, *left_out)
        assert (refused.exit_code, hint in refused.stderr) == (1, True), refused.output
    with Operator(running.url, token=KEY) as operator:
        assert all(view.status is not TaskStatus.ACTIVE for view in operator.tasks().tasks)

        def cancel(_number, done):
            if done == 5:
                operator.cancel("mine")

        shape = LoadShape(clients=200, arrivals="uniform", rate=20.0)
        with pytest.raises(LoadError, match="cancelled by an operator"):
            run_load(shape, url=running.url, access=access, task="mine", progress=cancel)
    with pytest.raises(LoadError, match=r"a task mine already; give another --task"):
        run_load(shape, url=running.url, access=access, task="mine")
    assert threading.active_count() < 50


def test_command_writes_json_and_removes_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = load("--clients", "20", "--json")
    assert done.exit_code == 0, done.output
    output = json.loads(done.stdout)
    assert output["exact"] is True
    assert output["rounds"][0]["folded"] == 20
    assert output["capacity"]["clients_per_hour_and_core"] > 0
    assert list(tmp_path.iterdir()) == []


def test_command_shows_times_and_capacity():
    done = load("--clients", "30", "--rate", "10")
    assert done.exit_code == 0, done.output
    for word in (
        "check-in",
        "upload",
        "commit",
        "exact",
        "updates a second",
        "late",
        "Offered",
        "clients an hour",
        "up and",
    ):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--arrivals", "sometimes"], "none of them"),
        (["--stragglers", "many"], "FRACTION:FACTOR"),
        (["--dropout", "1"], "drop out"),
        (["--data", "a:b"], "--data"),
        (["--rate", "0"], "above 0"),
        (["--rate", "5", "--arrivals", "burst"], "all at once"),
        (["--url", "http://127.0.0.1:1", "--served"], "exclude each other"),
        (["--workers", "2"], "--served"),
        (["--operator-url", "http://127.0.0.1:1"], "--url"),
        (["--token", "x"], "no credentials are needed"),
        (["--goal", "2000"], "after how many seconds"),
        (["--goal", "10", "--minimum", "11"], "minimum"),
        (["--over-selection", "0.5"], "over_selection"),
    ],
)
def test_command_refuses_invalid_options(arguments, reason):
    done = load(*arguments)
    assert done.exit_code == 2
    assert reason in text_of(done)


def test_simulate_refuses_options_of_load(tmp_path):
    (tmp_path / "a.plan").write_bytes(b"")
    done = CliRunner().invoke(app, ["simulate", str(tmp_path / "a.plan"), "--data", "a:b", "--clients", "5"])
    assert done.exit_code == 2
    assert "--clients" in done.output


@pytest.mark.parametrize("arguments", [["--no-train"], ["--no-train", "--clients", "5"], ["x.plan", "--no-train"]])
def test_simulate_no_train_names_the_load_command(arguments):
    done = CliRunner().invoke(app, ["simulate", *arguments])
    assert done.exit_code == 2
    assert "muster load" in text_of(done)
