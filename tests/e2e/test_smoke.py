"""Smoke test of working and of broken deployments, with real processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import stamina
from support import cloud
from support.served import served
from typer.testing import CliRunner
from werkzeug.wrappers import Request, Response

import muster.smoke
from muster.cli.app import app
from muster.local.coordinator import LocalCoordinator
from muster.local.emulators import FirestoreEmulator, StorageEmulator
from muster.operator import Operator
from muster.smoke import SmokeResult, Step
from muster.wire.enrolment import PrivateKey
from muster.wire.messages import TaskStatus
from muster.wire.signatures import SigningKey

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="gunicorn does not run there"),
    pytest.mark.xdist_group("smoke"),  # the tests share a coordinator
]
OPENED = "task opened: queue and committer work"
CLOSED = "round closed: queue and aggregator work"
DIRECT = "1 of them straight to the bucket, by signed URL"
NOWHERE = "http://127.0.0.1:9"
COMMITTED = "round folded and committed"
FAST = {"patience": 4.0}  # seconds; broken deployments do not recover


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCoordinator]:
    with LocalCoordinator(tmp_path_factory.mktemp("coordinator"), workers=1) as running:
        yield running


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalCoordinator]:
    with LocalCoordinator(tmp_path, workers=1, warm=False) as running:
        yield running


def end(coordinator: LocalCoordinator, name: str) -> None:
    """Ends a process permanently, without a restart."""
    child = next(child for child in coordinator._children if child.name == name)
    child.kill()
    child.wait(0.0)


@contextmanager
def no_repeats() -> Iterator[None]:
    """Disables retries of requests without an answer."""
    stamina.set_testing(True, attempts=1)
    yield
    stamina.set_testing(False)


def barred_session() -> requests.Session:
    session = requests.Session()
    session.proxies["http://127.0.0.1"] = NOWHERE
    return session


def after(name: str, act: Callable[[], object]) -> Callable[[Step], None]:
    return lambda step: act() if step.name == name else None  # type: ignore[func-returns-value]


def failure(smoke_result: SmokeResult) -> Step:
    assert not smoke_result.passed
    last = smoke_result.steps[-1]
    assert [step.name for step in smoke_result.steps if not step.passed] == [last.name], smoke_result
    assert last.look_at
    return last


def status(url: str, smoke_result: SmokeResult) -> TaskStatus:
    with Operator(url) as operator:
        return operator.task(smoke_result.task).status


def test_working_deployment_passes_every_step(coordinator: LocalCoordinator) -> None:
    result = CliRunner().invoke(app, ["smoke", "--url", coordinator.url, "--json"])
    assert result.exit_code == 0, result.output
    *steps, last = map(json.loads, result.stdout.splitlines())
    assert last["passed"]
    details = {step["name"]: step["detail"] for step in steps}
    assert details["result exactly right"] == "12 numbers, sum 45"
    assert details[COMMITTED] == "2 updates, none dropped"
    assert details["a late update is refused"] == "round_closed"
    with Operator(coordinator.url) as operator:
        assert operator.task(last["task"]).status is TaskStatus.COMPLETED
        assert operator.result(last["task"], 1)["histogram"].tolist() == [1, 2, 2, 1, 1, 1, 1, 3]


def test_text_output_is_a_checklist(coordinator: LocalCoordinator) -> None:
    result = CliRunner().invoke(app, ["smoke", "--url", coordinator.url])
    assert result.exit_code == 0, result.output
    assert result.output.count("\nok ") + 1 == 13
    assert "The deployment works" in result.output


def test_missing_committer_is_named(own: LocalCoordinator) -> None:
    end(own, "committer")
    smoke_result = muster.smoke.run(own.url, **FAST)
    step = failure(smoke_result)
    assert (step.name, step.unreachable) == (OPENED, False)
    assert "stays `opening`" in step.detail
    assert "committer was not reached" in step.detail
    assert any("roles/run.invoker" in line for line in step.look_at)
    assert any("gcloud run services logs read muster-committer" in line for line in step.look_at)
    assert status(own.url, smoke_result) is TaskStatus.CANCELLED


def test_stopped_queue_names_queue_and_aggregator(tmp_path: Path) -> None:
    with LocalCoordinator(tmp_path, workers=1) as own:
        act = after("TensorFlow loads here", lambda: end(own, "pump"))
        smoke_result = muster.smoke.run(own.url, patience=8.0, on_step=act)
        ended = status(own.url, smoke_result)
    step = failure(smoke_result)
    assert step.name == CLOSED
    assert "2 of 2 updates reported" in step.detail
    assert any("muster-aggregator" in line for line in step.look_at)
    assert ended is TaskStatus.CANCELLED


def test_task_paused_by_an_operator_is_reported(coordinator: LocalCoordinator) -> None:
    with Operator(coordinator.url) as operator:

        def pause() -> None:
            operator.pause(operator.tasks().tasks[-1].spec.name)

        smoke_result = muster.smoke.run(coordinator.url, **FAST, on_step=after("TensorFlow loads here", pause))
    step = failure(smoke_result)
    assert "the task was paused" in step.detail
    assert status(coordinator.url, smoke_result) is TaskStatus.CANCELLED


def test_interrupt_cancels_the_task(coordinator: LocalCoordinator) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with Operator(coordinator.url) as operator:
        before = {view.spec.name for view in operator.tasks().tasks}
        with pytest.raises(KeyboardInterrupt):
            muster.smoke.run(coordinator.url, on_step=after("task made", interrupt))
        (left,) = [view for view in operator.tasks().tasks if view.spec.name not in before]
    assert left.status is TaskStatus.CANCELLED


@pytest.mark.parametrize(
    ("status_code", "fix"),
    [
        (401, "MUSTER_OPERATOR_TOKEN"),
        (401, "accept_gcloud_tokens"),
        (403, "roles/run.invoker"),
        (403, "permissions are not known everywhere; wait five"),
        (404, "`Cannot find metric(s) that match type`"),
    ],
)
def test_refused_operator_call_names_token_or_role(coordinator: LocalCoordinator, status_code: int, fix: str) -> None:
    """Google's front end refuses with a web page, before the function sees the request."""
    seen = []

    @Request.application
    def front(request: Request) -> Response:
        seen.append(request.headers.get("Authorization"))
        return Response("<html>", status=status_code, content_type="text/html")

    with served(front) as operator_url:
        arguments = ["--url", coordinator.url, "--operator-url", operator_url, "--token", "wrong"]
        result = CliRunner().invoke(app, ["smoke", *arguments])
    assert result.exit_code == 1
    assert seen == ["Bearer wrong"]
    assert "FAILED" in result.output
    assert "operator API answers and lets you in" in result.output
    assert str(status_code) in result.output
    assert fix in result.output


def test_blocked_bucket_fails_the_direct_upload_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.check_installed(FirestoreEmulator(tmp_path), StorageEmulator(tmp_path))
    with LocalCoordinator(tmp_path, workers=1, emulators=True) as running:
        works = muster.smoke.run(running.url, patience=60.0)
        # A network in which only the coordinator is reachable, by another name. Proxies of the
        # environment have no effect, since they are bypassed on loopback.
        url = running.url.replace("127.0.0.1", "localhost")
        monkeypatch.setattr("muster.transport.http.new_session", barred_session)
        with no_repeats():
            barred = muster.smoke.run(url, patience=60.0)
    assert works.passed, works
    assert DIRECT in [step.name for step in works.steps]
    (failed,) = [step for step in barred.steps if not step.passed]
    assert failed.name == DIRECT
    assert "could not be reached from here" in failed.detail
    assert any("storage.googleapis.com" in line for line in failed.look_at)
    assert len(barred.steps) == len(works.steps)  # the update went through the function, and the round continued


def test_other_server_at_the_address_is_reported() -> None:
    @Request.application
    def other(_: Request) -> Response:
        return Response('{"openapi": "3.1.0", "paths": {}, "info": {"version": "1"}}', content_type="application/json")

    with served(other) as url:
        step = failure(muster.smoke.run(url, **FAST))
    assert step.name == "client API answers"
    assert "not a coordinator" in step.detail


def test_unreachable_coordinator_exits_with_3() -> None:
    with no_repeats():
        result = CliRunner().invoke(app, ["smoke", "--url", NOWHERE])
    assert result.exit_code == 3
    assert f"Can't reach the coordinator at {NOWHERE}" in result.output
    assert "terraform output client_url" in result.output


def test_plan_is_signed_and_clients_enrolled_with_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signing, enrolling = SigningKey.generate(), PrivateKey.generate()
    signing.save(tmp_path / "signing.key")
    (tmp_path / "enrolment.key").write_bytes(enrolling.pem())
    monkeypatch.setenv("MUSTER_TRUSTED_SIGNERS", signing.signer)
    monkeypatch.setenv("MUSTER_CLIENTS", f"enrolment:{enrolling.public}")
    with LocalCoordinator(tmp_path / "coordinator", workers=1) as running:
        unsigned = failure(muster.smoke.run(running.url, **FAST))
        unknown = failure(muster.smoke.run(running.url, signing_key=signing, **FAST))
        keys = ["--key", str(tmp_path / "signing.key"), "--enrolment-key", str(tmp_path / "enrolment.key")]
        result = CliRunner().invoke(app, ["smoke", "--url", running.url, *keys])
    assert unsigned.name == "plan stored"
    assert any("--key" in line for line in unsigned.look_at)
    assert unknown.name.startswith("2 check-ins")
    assert any("--enrolment-key" in line for line in unknown.look_at)
    assert result.exit_code == 0, result.output
