"""Direct uploads of a real client through the real coordinator, with broken connections."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from support import cloud
from support.bucket import AccountCredentials, Bucket
from support.double import Double, Worker, problem
from support.harness import POPULATION, Harness
from support.plans import SumRuntime, make_plan
from support.scripted_proxy import STATUSES, ScriptedProxy
from support.served import served
from werkzeug.wrappers import Request, Response

from muster.client import Contributed, MusterClient, Sending, UnreachableError, Unreached
from muster.transport.http import Transport
from muster.wire.dtypes import DType
from muster.wire.manifest import TensorSpec
from muster.wire.messages import DirectUpload
from muster.wire.plan import Plan
from muster.wire.problems import ProblemType
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.gcs_uploads import GcsDirectUploads, IamSigner
from muster_coordinator.http import router
from muster_coordinator.state.platform import Platform

QUARTER = 256 << 10  # bytes
SIZE = 3 * QUARTER  # bytes of values in an update, and a header

pytestmark = pytest.mark.usefixtures("no_waits")


def large_plan() -> Plan:
    zero = {"ids": np.int64(0), "count": np.int64(0), "value": np.zeros(SIZE // 4, np.float32)}
    specs = tuple(TensorSpec(path=name, dtype=DType.of(np.asarray(v)), shape=np.shape(v)) for name, v in zero.items())
    return make_plan("large", state={"total": np.int64(0), "rounds": np.int64(0)}, update=specs, zero=zero)


class LargeWorker(Worker):
    def work(self, data: Any, broadcast: Any) -> Any:
        assert list(broadcast) == ["total", "rounds"]
        self.calls += 1
        values = np.arange(SIZE // 4, dtype=np.float32)
        return {"ids": np.array(1 << data), "count": np.array(1), "value": values}


class Stage:
    """Coordinator with its address, bucket and clients."""

    def __init__(self, root: Path, bucket: Bucket, *, resumable_above: int) -> None:
        with cloud.environment(STORAGE_EMULATOR_HOST=bucket.url):
            signer = IamSigner(credentials=AccountCredentials(), endpoint=bucket.url)
            direct = GcsDirectUploads("bucket", signer=signer, resumable_above=resumable_above, patience=2.0)

        def wrap(platform: Platform) -> Platform:
            return Platform(**{**vars(platform), "direct": direct})

        self.bucket = bucket
        self.worker = LargeWorker()
        self.events: list[Any] = []
        self.h = Harness(root, plan=large_plan(), runtime=SumRuntime(), wrap=wrap, direct_above=1000, durable=True)
        self.h.begin(goal=2)
        self.url = ""

    def client(self, number: int = 0, **more: Any) -> MusterClient:
        return MusterClient(
            self.url, POPULATION, lambda: number, client_id=str(number), on_event=self.events.append,
            runtime_factory=lambda _: self.worker, **more,
        )  # fmt: skip

    def commit(self) -> int:
        """Completes the round with one more client; the ids that were summed."""
        with self.client(1) as other:
            assert isinstance(other.run_once(), Contributed)
        self.h.deliver_all()
        assert self.h.leftovers() == []
        return int(self.h.result(1)["ids"])


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    with Bucket(DirectoryBlobs(tmp_path / "blobs")) as bucket:
        yield bucket


@pytest.fixture(params=["signed", "session"])
def stage(request: Any, tmp_path: Path, bucket: Bucket) -> Iterator[Stage]:
    stage = Stage(tmp_path, bucket, resumable_above=1000 if request.param == "session" else 1 << 30)
    with served(Request.application(router(stage.h.app))) as stage.url:
        yield stage


@pytest.fixture
def session(tmp_path: Path, bucket: Bucket) -> Iterator[Stage]:
    stage = Stage(tmp_path, bucket, resumable_above=1000)
    with served(Request.application(router(stage.h.app))) as stage.url:
        yield stage


def test_large_update_is_uploaded_directly(stage: Stage) -> None:
    with stage.client() as client:
        outcome = client.run_once()
    assert isinstance(outcome, Contributed)
    assert stage.bucket.brought == outcome.update_bytes > SIZE
    sent = [event.sent for event in stage.events if isinstance(event, Sending)]
    assert len(sent) <= 10
    assert sent == sorted(sent)
    assert sent[-1] == outcome.update_bytes
    assert stage.commit() == 0b11


@pytest.mark.parametrize("fate", [0, QUARTER + 1000, -1])
def test_broken_upload_is_retried_and_counted_once(stage: Stage, fate: int) -> None:
    stage.bucket.breaks = [fate, None]
    with stage.client() as client:
        assert isinstance(client.run_once(), Contributed)
    assert stage.worker.calls == 1
    assert stage.commit() == 0b11


@pytest.mark.parametrize("status", [503, 429, 403, 400])
def test_upload_refused_by_the_store_is_retried(stage: Stage, status: int) -> None:
    stage.bucket.refusals = [status]
    with stage.client() as client:
        assert isinstance(client.run_once(), Contributed)
    assert stage.commit() == 0b11


def test_session_resumes_after_a_broken_connection(session: Stage) -> None:
    session.bucket.breaks = [QUARTER + 1000, QUARTER + 1000, None]
    with session.client() as client:
        outcome = client.run_once()
    assert isinstance(outcome, Contributed)
    assert session.bucket.calls == {"open": 1, "session": 3, "ask": 2}
    assert session.bucket.brought == outcome.update_bytes + 2000  # 2,000 bytes were sent but not stored


def test_session_resumes_after_an_outage_longer_than_the_retries(session: Stage) -> None:
    session.bucket.breaks = [QUARTER, 0, 0, 0, 0, None]
    with session.client() as client:
        outcomes = [client.run_once(), client.run_once()]
    assert [type(outcome) for outcome in outcomes] == [Unreached, Contributed]
    assert session.bucket.calls["open"] == 1
    assert session.bucket.brought == outcomes[1].update_bytes  # type: ignore[union-attr]
    assert session.worker.calls == 1


def test_lost_session_starts_over(session: Stage) -> None:
    class Forgetful(list[int | None]):
        def pop(self, _: int = 0) -> int | None:  # type: ignore[override]
            self.clear()
            session.bucket.forget_sessions()
            return QUARTER

    session.bucket.breaks = Forgetful([QUARTER])
    with session.client() as client:
        assert isinstance(client.run_once(), Contributed)
    assert session.bucket.calls["open"] == 2
    assert session.commit() == 0b11


def test_update_that_the_store_rejects_goes_through_the_coordinator(stage: Stage) -> None:
    stage.bucket.refusals = [403] * 9
    with stage.client() as client:
        assert isinstance(client.run_once(), Contributed)
    assert len(stage.bucket.refusals) == 6
    stage.bucket.refusals.clear()
    assert stage.commit() == 0b11


def test_store_receives_no_credentials_of_the_coordinator(stage: Stage) -> None:
    deployment = requests.Session()
    deployment.auth = ("user", "password")
    deployment.headers["Authorization"] = "Bearer of the deployment"
    with stage.client(session=deployment) as client:
        assert isinstance(client.run_once(), Contributed)
    assert "Authorization" not in stage.bucket.headers


def test_stopped_client_cancels_its_session(session: Stage) -> None:
    def stop(event: Any) -> None:
        if isinstance(event, Sending):
            raise KeyboardInterrupt

    with (
        MusterClient(
            session.url, POPULATION, lambda: 0, client_id="0", on_event=stop, runtime_factory=lambda _: session.worker
        ) as client,
        pytest.raises(KeyboardInterrupt),
    ):
        client.run_once()
    assert session.bucket.sessions == {}
    assert session.h.task().current.failed == {"owner.cancelled": 1}  # type: ignore[union-attr]


@pytest.mark.parametrize("status", [*STATUSES, 200, 201, 308, 412])
def test_web_pages_as_answers_lose_no_large_update(stage: Stage, status: int) -> None:
    with ScriptedProxy(stage.url) as between:
        between.put_store(stage.bucket.url)
        for kind in ("start", "store", "report"):
            between.plan(kind, [status])
        stage.url = between.url
        with stage.client() as client:
            outcomes = [client.run_once()]
            while isinstance(outcomes[-1], Unreached):
                outcomes.append(client.run_once())
        assert between.unused() == {}
        assert isinstance(outcomes[-1], Contributed), outcomes
        assert between.seen["upload"] == 0
        assert stage.worker.calls == 1
        assert stage.commit() == 0b11


def test_small_update_goes_through_the_coordinator(double: Double, client: MusterClient) -> None:
    double.assignment = {"direct_above": 1000}
    assert isinstance(client.run_once(), Contributed)
    assert len(double.uploads) == 1


def test_update_goes_through_a_coordinator_without_direct_uploads(double: Double, client: MusterClient) -> None:
    double.assignment = {"direct_above": 1}
    double.faults["POST /v1/updates:start"] = [problem(ProblemType.NOT_SUPPORTED)]
    assert isinstance(client.run_once(), Contributed)
    assert len(double.uploads) == 1


def test_update_goes_through_the_coordinator_if_the_store_is_blocked(double: Double, client: MusterClient) -> None:
    leave = DirectUpload(
        url="http://127.0.0.1:1/x", headers={}, resumable=False, expires_at=datetime(2030, 1, 1, tzinfo=UTC)
    )
    double.assignment = {"direct_above": 1}
    double.faults["POST /v1/updates:start"] = [lambda *_: Response(leave.encode(), content_type="application/json")]
    assert isinstance(client.run_once(), Contributed)
    assert len(double.uploads) == 1


def test_error_of_the_store_does_not_quote_the_signed_address() -> None:
    with Transport("http://127.0.0.1:1") as transport, pytest.raises(UnreachableError) as error:
        transport.exchange("PUT", "http://127.0.0.1:1/secret?X-Goog-Signature=secret", headers={})
    assert "secret" not in str(error.value)
    assert "the store at http://127.0.0.1:1" in str(error.value)
