"""A separate store of the audit log and of enrolment revocations."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from support import cloud
from support.harness import POPULATION, START, Harness, problem_of

from muster.wire.enrolment import Enrolment, PrivateKey
from muster.wire.messages import AuditList, RevocationList
from muster.wire.problems import ProblemType
from muster_coordinator import bootstrap
from muster_coordinator.adapters.client_authenticators import parse_clients
from muster_coordinator.adapters.firestore import FirestoreDocuments
from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.domain import names
from muster_coordinator.settings import Settings, SettingsError
from muster_coordinator.use_cases.enrolment_revocations import EnrolmentRevocations

KEY = PrivateKey.generate()
CHECKIN = f"/v1/populations/{POPULATION}:checkin"
NUMBERS = itertools.count(1)  # of projects in the emulator
FIRESTORE = pytest.param("firestore", marks=cloud.EMULATORS)


class ReadOnlyDocuments:
    """Documents of which a function may only read."""

    def __init__(self, inner):
        self._inner = inner

    def get(self, path):
        return self._inner.get(path)

    def __getattr__(self, name):
        raise AssertionError(f"{name} needs more than the permission to read")


@pytest.fixture(params=["sqlite", FIRESTORE])
def stores(request, tmp_path):
    """Returns the store of all documents, and that of the audit log."""
    if request.param == "sqlite":
        yield SqliteDocuments(tmp_path / "main.db"), SqliteDocuments(tmp_path / "audit.db")
        return
    emulator, project = request.getfixturevalue("firestore_emulator"), f"two-databases-{next(NUMBERS)}"
    with cloud.environment(FIRESTORE_EMULATOR_HOST=emulator.address):
        databases = [FirestoreDocuments(project, name) for name in ("(default)", "audit")]
    yield tuple(databases)
    for database in databases:
        database.close()


def harness(tmp_path, main, audit=None):
    """Returns a coordinator whose client API may only read the store of the audit log."""

    def guards(platform):
        seen = replace(platform, separate_audit=None if audit is None else ReadOnlyDocuments(audit))
        revoked = EnrolmentRevocations(seen, seconds=0.0).is_revoked
        clients = parse_clients(f"enrolment:{KEY.public}", clock=platform.clock, revoked=revoked, proxy_secret=None)
        return {"clients": clients}

    return Harness(
        tmp_path, documents=main, guards=guards, wrap=lambda platform: replace(platform, separate_audit=audit)
    )


def enrolled(name):
    enrolment = Enrolment(POPULATION, name, issued_at=START, expires_at=START + 86400.0)
    return enrolment.id, KEY.issue(enrolment)


def is_refused(h, token):
    response = h.call("POST", CHECKIN, token=token, json={})
    if response.status_code == 200:
        return False
    problem = problem_of(response)
    assert problem.type is ProblemType.UNAUTHENTICATED
    assert "revoked" in problem.detail
    return True


def revoke(h, enrolment):
    return listed(h.ask("POST", "/v1/revocations", json={"id": enrolment}))


def listed(body):
    return {revocation.id for revocation in RevocationList.decode(body).revocations}


def actions(h):
    return [entry.action for entry in AuditList.decode(h.ask("GET", "/v1/audit")).entries]


def test_audit_log_is_written_and_read_only_in_the_separate_store(tmp_path, stores):
    main, audit = stores
    h = harness(tmp_path, main, audit)
    h.begin()
    h.operate("pause")
    assert sorted(actions(h)) == ["plan.store", "task.create", "task.pause"]  # all at one instant
    assert main.list(names.AUDIT) == []
    assert len(audit.list(names.AUDIT)) == 6  # an intent and an outcome each
    assert main.list("tasks") != []
    assert audit.list("tasks") == []


def test_revocation_in_the_separate_store_can_not_be_undone_in_the_other(tmp_path, stores):
    main, audit = stores
    h = harness(tmp_path, main, audit)
    (bad, token), (_, other) = enrolled("ward-1"), enrolled("ward-2")
    assert not is_refused(h, token)
    assert revoke(h, bad) == {bad}
    main.delete(names.REVOCATIONS)  # as by a client API that was taken over
    assert is_refused(h, token)
    assert not is_refused(h, other)
    assert listed(h.ask("GET", "/v1/revocations")) == {bad}


def test_revocations_from_before_the_separation_stay_in_force(tmp_path, stores):
    main, audit = stores
    (early, early_token), (late, late_token) = enrolled("ward-1"), enrolled("ward-2")
    assert revoke(harness(tmp_path, main), early) == {early}
    h = harness(tmp_path, main, audit)
    assert is_refused(h, early_token)
    assert revoke(h, late) == {early, late}
    assert is_refused(h, late_token)


def test_instances_without_the_separate_store_know_its_revocations(tmp_path, stores):
    """They run beside newer ones during an upgrade, and after the setting was removed."""
    main, audit = stores
    bad, token = enrolled("ward-1")
    revoke(harness(tmp_path, main, audit), bad)
    assert is_refused(harness(tmp_path, main), token)


def test_full_list_in_the_other_store_does_not_prevent_a_revocation(tmp_path, stores, monkeypatch):
    main, audit = stores
    (first, _), (second, token) = enrolled("ward-1"), enrolled("ward-2")
    revoke(harness(tmp_path, main), first)
    monkeypatch.setattr("muster_coordinator.domain.enrolments.MAX_REVOKED", 1)
    h = harness(tmp_path, main, audit)
    assert revoke(h, second) == {first, second}
    assert is_refused(h, token)


def settings(root, **more):
    fields = {"state": f"sqlite://{root}/s.db", "blobs": f"file://{root}/blobs", "queue": f"local://{root}/q.db"}
    return Settings.from_environment({f"MUSTER_{name.upper()}": value for name, value in {**fields, **more}.items()})


def test_setting_chooses_the_store(tmp_path):
    assert bootstrap.platform(settings(tmp_path)).audit is not None
    for unset in ({}, {"audit_state": f"sqlite://{tmp_path}/s.db"}):
        platform = bootstrap.platform(settings(tmp_path, **unset))
        assert platform.separate_audit is None
        assert platform.audit is platform.documents
    separate = bootstrap.platform(settings(tmp_path, audit_state=f"sqlite://{tmp_path}/audit.db"))
    assert separate.audit is separate.separate_audit is not separate.documents
    with pytest.raises(SettingsError, match="MUSTER_AUDIT_STATE: Value error, must be a URL"):
        settings(tmp_path, audit_state="audit")
    with pytest.raises(SettingsError, match="MUSTER_AUDIT_STATE is 'mysql://x'; its scheme must be one of"):
        bootstrap.platform(settings(tmp_path, audit_state="mysql://x"))
