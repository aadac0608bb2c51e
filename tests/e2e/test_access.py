"""The grants of infra/terraform/access.json are exactly those that the functions use in rounds.

Terraform reads the permissions of each function's account from this file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
from support import cloud, direct
from support.bases import start_from
from support.bucket import AccountCredentials, Bucket, checksum
from support.harness import TASK
from support.plans import SumRuntime, sum_update
from support.store_permissions import STORES, GrantLog, RefusedError, RestrictedDeployment, grants

from muster.wire.messages import (
    CheckpointList,
    DirectUpload,
    Phase,
    Report,
    Revocation,
    StateRef,
    TaskStatus,
    UploadStart,
)
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import SigningKey
from muster.wire.tensors import encode
from muster_coordinator.adapters.gcs_uploads import GcsDirectUploads, IamSigner
from muster_coordinator.domain import rounds
from muster_coordinator.http import FUNCTIONS
from muster_coordinator.use_cases.enrolment_revocations import EnrolmentRevocations

ROOT = Path(__file__).parents[2]


def contribute(h: RestrictedDeployment, *clients: int) -> None:
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))


def ordinary_rounds(root: Path, log: GrantLog) -> None:
    """Chunks, shards, leftovers, a report, repeats, pause, rollback, and completion."""
    h = RestrictedDeployment(root, log)
    h.begin(rounds=3, goal=5, minimum=2, over_selection=2.0, chunk=2, shards=2)
    h.put_plan()
    h.create_task(rounds=3, goal=5, minimum=2, over_selection=2.0, chunk=2, shards=2)
    with pytest.raises(ProblemError) as missing:
        h.ask("GET", f"/v1/plans/{'0' * 64}")
    assert missing.value.type is ProblemType.NOT_FOUND
    first = h.assigned(0)
    for url in (first.plan.url, first.broadcast.url):
        h.ask("GET", url)
    h.report(h.assigned(20).token)
    for _ in range(2):
        h.upload(first.token, sum_update(0))
        h.deliver_all()
    assert h.checkin(0).status == "wait"
    contribute(h, 1, 2)
    h.operate("pause")
    h.tick()
    h.operate("resume")
    contribute(h, 3, 4)
    h.settle()
    assert int(h.result(1)["ids"]) == 0b11111
    h.checkpoint(1)
    for number in (2, 3, 4):
        for client in range(5):
            contribute(h, client)
            h.deliver_all()
        h.settle()
        if number == 2:
            h.operate("rollback", version=1)
            h.deliver_all()
    assert h.task().status is TaskStatus.COMPLETED
    assert h.leftovers() == []


def abandoned_and_cancelled_rounds(root: Path, log: GrantLog) -> None:
    """An abandoned round, one with a single leftover update, and a cancelled one."""
    h = RestrictedDeployment(root, log)
    h.begin(rounds=9, goal=3, minimum=2, chunk=2)
    contribute(h, 0)
    h.clock.advance(601)
    h.settle()
    assert len(h.abandoned()) == 1
    contribute(h, 0, 1)
    h.deliver_all()
    assert h.blobs("partials/")
    contribute(h, 2)
    h.settle()
    assert int(h.result(1)["ids"]) == 0b111
    obsolete_url = h.assigned(3).broadcast.url
    h.operate("cancel")
    h.settle()
    with pytest.raises(ProblemError) as refused:
        h.ask("GET", obsolete_url)
    assert refused.value.type is ProblemType.ROUND_CLOSED


def early_and_late_commits(root: Path, log: GrantLog) -> None:
    """Commits before the freeze, before all folds, and after a cancel."""
    interruptions: list[Callable[[], object]] = []
    h = RestrictedDeployment(
        root, log, runtime=SumRuntime(before_update=lambda: [action() for action in interruptions])
    )
    h.begin(rounds=9, goal=12, minimum=2, chunk=2, round_seconds=100)
    commit = {"task": TASK, "round": 1, "epoch": 0}
    contribute(h, *range(12))
    h.queue.held.clear()
    record = h.inner.round(h.key())
    assert record is not None
    h.inner.rounds.replace(record, rounds.close(record.value, now=h.clock.now()))
    h.ask("POST", "/internal/commit", json=commit)
    h.ask("POST", "/internal/close", json=commit)
    h.ask("POST", "/internal/commit", json=commit)
    assert h.task().current.phase is Phase.AGGREGATING
    interruptions.append(lambda: h.operate("cancel"))
    h.settle()
    assert h.task().status is TaskStatus.CANCELLED
    assert h.committed() == []
    assert h.leftovers() == []


def direct_uploads(root: Path, log: GrantLog) -> None:
    """Direct uploads, one to a signed URL and one in a session."""

    class DeferredStore:
        """Store of the bucket, which is created before the deployment."""

        def __getattr__(self, name: str) -> object:
            return getattr(h._restricted("client_api", "updates"), name)

    with Bucket(DeferredStore()) as bucket, cloud.environment(STORAGE_EMULATOR_HOST=bucket.url):
        signer = IamSigner(credentials=AccountCredentials(), endpoint=bucket.url)
        for number, resumable_above in enumerate((1 << 30, 1)):
            store = GcsDirectUploads("bucket", signer=signer, resumable_above=resumable_above, patience=2.0)
            h = RestrictedDeployment(root / str(number), log, direct=lambda _, store=store: store, direct_above=1)
            h.begin(rounds=1, goal=1)
            token, body = h.assigned(0).token, bytes(encode(sum_update(0)))
            wanted = UploadStart(size=len(body), crc32c=checksum(body)).encode()
            grant = DirectUpload.decode(h.ask("POST", "/v1/updates:start", body=wanted, token=token))
            extent = {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"} if grant.resumable else {}
            response = direct.put(grant.url, data=body, headers={**grant.headers, **extent}, timeout=60)
            assert response.status_code == 200
            h.ask("POST", "/v1/updates:report", body=Report(outcome="uploaded").encode(), token=token)
            h.settle()
            assert int(h.result(1)["ids"]) == 1


def new_signature_of_a_plan(root: Path, log: GrantLog) -> None:
    """A new signature for a stored plan, whose encoded copies are deleted."""
    h = RestrictedDeployment(root, log)
    h.put_plan()
    signed = h.plan.signed(SigningKey.generate())
    h.ask("PUT", f"/v1/plans/{signed.sha256}", body=signed.encode())
    assert Plan.decode(h.ask("GET", f"/v1/plans/{signed.sha256}")).signatures == signed.signatures


def starts_from_other_states(root: Path, log: GrantLog) -> None:
    """A task from a stored state, one from its checkpoint, and a round from a stored state."""
    h = RestrictedDeployment(root, log)
    h.put_plan()
    states = [bytes(encode({"total": np.int64(total), "rounds": np.int64(1)})) for total in (5, 5, 6)]
    first, _, second = [hashlib.sha256(state).hexdigest() for state in states]
    for state in states:
        h.ask("PUT", f"/v1/states/{hashlib.sha256(state).hexdigest()}?plan={h.plan.sha256}", body=state)
    h.create_task(driven=True, goal=2, start=StateRef(state=first))
    h.deliver_all()
    h.run("first")
    h.deliver_all()
    contribute(h, 0, 1)
    h.settle()
    versions = CheckpointList.decode(h.ask("GET", f"/v1/tasks/{TASK}/checkpoints")).checkpoints
    assert [view.version for view in versions] == [0, 1]
    h.create_task("next", rounds=1, goal=1, start=StateRef(task=TASK, version=1))
    h.deliver_all()
    assert h.ask("GET", "/v1/tasks/next/checkpoints/0") == h.checkpoint(1)
    h.ask("POST", "/v1/tasks/next:cancel")
    start_from(h, StateRef(state=second))
    assert h.blobs("bases/")
    contribute(h, 2, 3)
    h.settle()
    assert len(h.committed()) == 2
    assert h.blobs("bases/") == []


def deleted_task(root: Path, log: GrantLog) -> None:
    """A task that is deleted with its checkpoints, results and a base."""
    h = RestrictedDeployment(root, log)
    h.begin(rounds=1, goal=1)
    contribute(h, 0)
    h.settle()
    h.inner.blobs.create(f"bases/{TASK}/000001-abc", [b"a state"])
    h.ask("DELETE", f"/v1/tasks/{TASK}")
    h.deliver_all()
    assert [name for name in h.blobs() if not name.startswith("plans/")] == []
    h.clock.advance(7200.0)
    h.deliver_all()


SCENARIOS = (
    ordinary_rounds,
    abandoned_and_cancelled_rounds,
    early_and_late_commits,
    direct_uploads,
    new_signature_of_a_plan,
    starts_from_other_states,
    deleted_task,
)


def test_functions_need_no_other_grants_and_use_every_one(tmp_path):
    log = GrantLog()
    for scenario in SCENARIOS:
        scenario(tmp_path / scenario.__name__, log)
        assert log.refused == []
    assert log.used == log.granted


@pytest.mark.parametrize(
    "lost", [("client_api", "updates", "updates/", "list"), ("committer", "blobs", "manifests/", "list")]
)
def test_every_grant_is_needed(tmp_path, lost):
    log = GrantLog(granted=grants() - {lost})
    for scenario in SCENARIOS:
        with suppress(AssertionError, ProblemError, RefusedError, requests.RequestException):
            scenario(tmp_path / scenario.__name__, log)
    assert log.refused[0].startswith(f"{lost[0]} may not {lost[3]} '{lost[2]}")


def test_only_the_operator_api_writes_the_audit_log_and_revocations(tmp_path):
    # modules/identity grants nothing else on the second database of `audit_database`.
    log = GrantLog()
    for scenario in SCENARIOS:
        scenario(tmp_path / scenario.__name__, log)
    h = RestrictedDeployment(tmp_path / "revocations", log)
    h.ask("POST", "/v1/revocations", body=Revocation(id="e" * 32).encode())
    h.ask("GET", "/v1/audit")
    client_platform = replace(h.inner, documents=h.documents("client_api"))
    assert EnrolmentRevocations(client_platform).is_revoked("e" * 32)

    used = {use for use in log.documents if use[2] in ("audit", "enrolments")}

    assert {function for function, verb, _ in used if verb != "get"} == {"operator_api"}
    assert {use for use in used if use[0] != "operator_api"} == {("client_api", "get", "enrolments")}
    assert ("operator_api", "write", "audit") in used
    assert {function for function, verb, _ in log.documents if verb == "write"} == set(FUNCTIONS)


def test_only_the_aggregator_reads_the_updates_of_the_client_api():
    table = grants()
    assert {(function, verb) for function, store, _, verb in table if store == "updates"} == {
        *(("client_api", verb) for verb in ("create", "list")),
        *(("aggregator", verb) for verb in ("get", "list", "delete")),
    }
    assert {function for function, store, *_ in table if store == "partials"} == {"aggregator", "committer"}
    assert {
        (function, prefix) for function, _, prefix, verb in table if verb == "delete" and function != "aggregator"
    } == {("operator_api", "plans/")}
    assert {prefix for function, _, prefix, _ in table if function == "operator_api"} == {
        "plans/",
        "states/",
        "checkpoints/",
        "results/",
    }
    assert {store for _, store, *_ in table} == set(STORES)


def test_documentation_shows_the_grants():
    rows = re.findall(r"^\| `(\w+/)` \| (.+) \|$", (ROOT / "docs/reference/functions.md").read_text(), re.MULTILINE)
    shown = {
        (function, prefix, verb)
        for prefix, cells in rows
        if "list" in cells
        for function, cell in zip(FUNCTIONS, cells.split(" | "), strict=True)
        for verb in cell.replace("–", "").replace(" ", "").split(",")
        if verb
    }
    assert shown == {(function, prefix, verb) for function, _, prefix, verb in grants()}
