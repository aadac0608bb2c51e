"""Authentication and roles of operators, and the audit log of their changes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from urllib.parse import quote

import jwt
import pytest
from support.faults import Crash, Fault, FaultyBlobs, FaultyDocuments, FaultyQueue, Schedule, When
from support.harness import POPULATION, TASK, Harness
from support.plans import sum_update
from werkzeug.test import Client
from werkzeug.wrappers import Request

from muster.wire.messages import AuditList, CheckinRequest, Rollback, TaskSpec
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.adapters.operator_authenticators import ClosedOperatorAuthenticator, parse_operators
from muster_coordinator.bootstrap import operators
from muster_coordinator.domain.operators import Role
from muster_coordinator.http import router
from muster_coordinator.ports import UnavailableError, UntrustedTokenError
from muster_coordinator.settings import Settings, SettingsError

KEYS = {"alice": "muster-operator-of-alice", "bob": "muster-operator-of-bob"}
ROLES = {"alice": Role.OPERATOR, "bob": Role.VIEWER}
VALUE = "keys:" + ",".join(
    f"{name}:{ROLES[name].value}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()
)
AUDIENCE = "https://operators.example"


class OperatedHarness(Harness):
    """Coordinator with the operator alice and the viewer bob."""

    def restart(self):
        self.app = replace(self.application(), operators=parse_operators(VALUE))
        self.http = Client(Request.application(router(self.app)))

    def call(self, *request, **more):
        self.clock.advance(0.001)  # entries of the same moment have no order
        return super().call(*request, **more)

    def log(self, query=""):
        return AuditList.decode(self.ask("GET", f"/v1/audit{query}", token=KEYS["bob"])).entries

    def spec(self, **more):
        return TaskSpec(name=TASK, population=POPULATION, plan=self.plan.sha256, **more).encode()


@pytest.fixture
def h(tmp_path):
    return OperatedHarness(tmp_path)


def routes_of(h):
    """Yields every operator route: method, example path, and whether it changes something."""
    example = {"task": TASK, "sha256": h.plan.sha256, "round": "1", "version": "0", "tag": "t", "request": "r"}
    for route in router(h.app, "operator_api").routes:
        if route.path.startswith("/v1/"):
            yield route.method, route.path.format(**example), route.method != "GET"


def problem_type_of(h, *request, **more):
    try:
        h.ask(*request, **more)
    except ProblemError as problem:
        return problem.type
    return None


def test_operator_routes_refuse_missing_and_wrong_keys(h):
    for method, path, _ in routes_of(h):
        for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Basic {KEYS['alice']}"}):
            response = h.call(method, path, headers=headers)
            assert response.status_code == 401, (method, path)
            assert response.headers["WWW-Authenticate"] == "Bearer"
            assert b"nonsense" not in response.data
    assert not h.blobs()
    assert h.inner.documents.list("audit") == []


def test_viewer_reads_everything_and_changes_nothing(h):
    refusals = 0
    for method, path, changes in routes_of(h):
        problem_type = problem_type_of(h, method, path, token=KEYS["bob"])
        assert (problem_type is ProblemType.FORBIDDEN) is changes, (method, path, problem_type)
        assert problem_type is not ProblemType.UNAUTHENTICATED
        refusals += changes
    assert not h.blobs()
    log = h.log()
    assert [(entry.who, entry.result, entry.problem) for entry in log] == [("bob", "refused", "forbidden")] * refusals
    assert {entry.subject for entry in log} == {TASK, h.plan.sha256, ""}


def test_client_routes_need_no_operator_key(h):
    body = CheckinRequest(client="a").encode()
    assert h.call("POST", f"/v1/populations/{POPULATION}:checkin", body=body).status_code == 200


def test_foreign_page_can_not_operate(tmp_path):
    h = Harness(tmp_path)
    h.begin()
    for origin in ("https://elsewhere.example", "null", "http://localhost:81"):
        assert h.call("POST", f"/v1/tasks/{TASK}:cancel", headers={"Origin": origin}).status_code == 403
    assert h.call("POST", f"/v1/tasks/{TASK}:pause", headers={"Origin": "http://localhost"}).status_code == 200


def test_operator_downloads_are_private(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=1, rounds=2)
    h.upload(h.assigned("a").token, sum_update(0))
    h.deliver_all()
    for path in (f"/v1/tasks/{TASK}/checkpoints/1", f"/v1/tasks/{TASK}/rounds/1/result"):
        assert "private" in h.call("GET", path).headers["Cache-Control"]


def test_log_records_operator_action_and_both_states(h):
    alice = KEYS["alice"]
    h.ask("PUT", f"/v1/plans/{h.plan.sha256}", body=h.plan.encode(), token=alice)
    h.ask("POST", "/v1/tasks", body=h.spec(), token=alice)
    h.deliver_all()
    for verb in ("pause", "resume"):
        h.clock.advance(1)
        h.ask("POST", f"/v1/tasks/{TASK}:{verb}", token=alice)
    h.ask("POST", f"/v1/tasks/{TASK}:rollback", body=Rollback(version=0).encode(), token=alice)
    assert problem_type_of(h, "POST", f"/v1/tasks/{TASK}:pause", token=alice) is ProblemType.CONFLICT
    h.ask("POST", f"/v1/tasks/{TASK}:cancel", token=alice)
    log = h.log()
    assert [(entry.who, entry.action, entry.result) for entry in log] == [
        ("alice", "plan.store", "done"),
        ("alice", "task.create", "done"),
        ("alice", "task.pause", "done"),
        ("alice", "task.resume", "done"),
        ("alice", "task.rollback", "done"),
        ("alice", "task.pause", "failed"),
        ("alice", "task.cancel", "done"),
    ]
    stored, created, paused, _, rolled, failed, _ = log
    assert (stored.before, stored.after) == ({"stored": False}, {"stored": True})
    assert created.before == {}
    assert created.request == TaskSpec.decode(h.spec()).to_dict()
    assert (paused.before["status"], paused.after["status"]) == ("active", "paused")
    assert rolled.request == {"version": 0}
    assert failed.problem == "conflict"
    assert failed.before == failed.after
    assert [entry.id for entry in log] == sorted(entry.id for entry in log)


def test_log_is_paged_and_filtered_by_time(h):
    for _ in range(7):
        h.clock.advance(1)
        problem_type_of(h, "POST", f"/v1/tasks/{TASK}:pause", token=KEYS["alice"])
    whole = h.log()
    pages, after = [], ""
    while True:
        page = AuditList.decode(h.ask("GET", f"/v1/audit?limit=3{after}", token=KEYS["bob"]))
        pages.append(page.entries)
        if page.next is None:
            break
        after = f"&after={page.next}"
    assert sum(pages, ()) == whole
    assert max(map(len, pages)) == 3
    assert h.log(f"?since={quote(whole[4].at.isoformat())}") == whole[4:]


@pytest.mark.parametrize(
    "query", ["since=yesterday", "since=2026-01-01T00:00:00", "after=..%2Fx", "limit=0", "limit=²"]
)
def test_invalid_log_query_is_refused(h, query):
    assert problem_type_of(h, "GET", f"/v1/audit?{query}", token=KEYS["bob"]) is ProblemType.INVALID_REQUEST


def test_log_entries_are_never_changed_or_deleted(h):
    problem_type_of(h, "POST", f"/v1/tasks/{TASK}:pause", token=KEYS["alice"])
    for method in ("DELETE", "PUT", "POST", "PATCH"):
        assert h.call(method, "/v1/audit", token=KEYS["alice"]).status_code == 405
    assert len(h.log()) == 1


# A crash can't hide an action.

ACTIONS = {
    "plan.store": lambda h: h.ask("PUT", f"/v1/plans/{h.plan.sha256}", body=h.plan.encode(), token=KEYS["alice"]),
    "task.create": lambda h: h.ask("POST", "/v1/tasks", body=h.spec(), token=KEYS["alice"]),
    **{
        f"task.{verb}": lambda h, verb=verb: h.ask("POST", f"/v1/tasks/{TASK}:{verb}", token=KEYS["alice"])
        for verb in ("pause", "resume", "cancel")
    },
    "task.rollback": lambda h: h.ask(
        "POST", f"/v1/tasks/{TASK}:rollback", body=Rollback(version=0).encode(), token=KEYS["alice"]
    ),
}


def prepared(root, action):
    """Coordinator in which `action` changes something."""
    root.mkdir()
    h = OperatedHarness(root)
    if action != "plan.store":
        ACTIONS["plan.store"](h)
    if action.startswith("task.") and action != "task.create":
        ACTIONS["task.create"](h)
        h.deliver_all()
    if action == "task.resume":
        ACTIONS["task.pause"](h)
    return h


def world(h):
    """Returns everything that an action may change."""
    documents = [*h.inner.documents.list("tasks"), *h.inner.documents.list(f"populations/{POPULATION}/tasks")]
    documents += h.inner.documents.list(f"tasks/{TASK}/rounds")
    return {document.path: document.data for document in documents}, h.blobs(), len(h.queue.held)


def faulty(h, schedule):
    h.platform = replace(
        h.inner,
        documents=FaultyDocuments(h.inner.documents, schedule),
        blobs=FaultyBlobs(h.inner.blobs, schedule),
        queue=FaultyQueue(h.queue, schedule),
    )
    h.restart()


@pytest.mark.parametrize("action", ACTIONS)
def test_no_change_without_entry_after_a_crash_at_any_write(tmp_path, action):
    whole = prepared(tmp_path / "whole", action)
    schedule = Schedule()
    faulty(whole, schedule)
    ACTIONS[action](whole)
    count, changed = len(schedule.writes), 0
    assert schedule.writes[0].startswith("documents.create audit/")
    assert schedule.writes[-1].startswith("documents.create audit/")
    for number in range(1, count + 1):
        for when in When:
            h = prepared(tmp_path / f"{number}-{when.value}", action)
            before, entries = world(h), len(h.log())
            faulty(h, Schedule(Fault(number, when, Crash)))
            with pytest.raises(Crash):
                ACTIONS[action](h)
            h.platform = h.inner
            h.restart()
            added = h.log()[entries:]
            if world(h) != before:
                changed += 1
                assert [(entry.who, entry.action) for entry in added] == [("alice", action)], (number, when)
            ended = when is When.AFTER and number == count
            assert [entry.result for entry in added] in ([], ["done" if ended else "unknown"])
            # A repeat succeeds, and the log has both attempts.
            ACTIONS[action](h)
            assert h.log()[-1].result == "done"
    assert changed >= 2


def test_nothing_changes_while_the_log_is_unavailable(tmp_path):
    h = prepared(tmp_path / "one", "task.pause")
    before = world(h)
    faulty(h, Schedule(Fault(1, When.BEFORE, UnavailableError)))
    assert problem_type_of(h, "POST", f"/v1/tasks/{TASK}:pause", token=KEYS["alice"]) is ProblemType.UNAVAILABLE
    assert world(h) == before


# OpenID Connect tokens.


@pytest.fixture
def oidc(issuer):
    return parse_operators(
        f"oidc:{issuer.url}?audience={AUDIENCE},other&operators=A+x@example.org&viewers=b@example.org"
    )


def test_account_has_its_configured_role(issuer, oidc):
    for account, role in (("a+x@example.org", Role.OPERATOR), ("B@example.org", Role.VIEWER)):
        principal = oidc.identify(issuer.token(account=account, audience=AUDIENCE))
        assert (principal.name, principal.role) == (account.lower(), role)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"account": "c@example.org"}, "c@example.org is no operator here"),
        ({"email_verified": False}, "not verified"),
        ({"email_verified": "true"}, "not verified"),
        ({"audience": "https://elsewhere.example"}, "Audience"),
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"age": 4000}, "expired"),
        ({"email": None}, "email"),
    ],
)
def test_other_accounts_and_tokens_are_refused_with_reason(issuer, oidc, change, reason):
    token = issuer.token(**{"account": "b@example.org", "audience": AUDIENCE, **change})
    with pytest.raises(UntrustedTokenError, match=reason):
        oidc.identify(token)


def test_token_signed_with_a_public_key_as_secret_is_refused(issuer, oidc):
    good = issuer.token(account="b@example.org", audience=AUDIENCE)
    claims = jwt.decode(good, options={"verify_signature": False})
    header = {"kid": jwt.get_unverified_header(good)["kid"]}
    secret = b"what the issuer publishes, or anything else that is long"
    for forged in (
        jwt.encode(claims, secret, "HS256", headers=header),
        jwt.encode(claims, None, "none", headers=header),
    ):
        with pytest.raises(UntrustedTokenError):
            oidc.identify(forged)


def test_token_without_signature_is_refused_with_advice(oidc):
    with pytest.raises(UntrustedTokenError, match="X-Serverless-Authorization"):
        oidc.identify("e30.e30.SIGNATURE_REMOVED_BY_GOOGLE")


# The setting.


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("closed", "must be open, keys:"),
        ("keys:", "at least one key"),
        ("keys:alice:operator", "key 1 must be name:role:sha256"),
        (f"keys:alice:admin:{'0' * 64}", "viewer or operator"),
        (f"keys:a:viewer:{'0' * 64},b:operator:{'0' * 64}", "one key twice"),
        ("oidc:accounts.google.com", "the issuer's URL"),
        ("oidc:https://accounts.google.com?operators=a@x", "needs audience"),
        ("oidc:https://accounts.google.com?audience=x", "at least one address"),
        ("oidc:https://accounts.google.com?audience=x&admins=a@x", "has unknown options admins"),
        ("oidc:https://accounts.google.com?audience=x&operators=a@x&viewers=A@x", "can't be operator and viewer"),
    ],
)
def test_invalid_setting_is_refused_with_reason(value, reason):
    settings = Settings(state="sqlite:///x", blobs="file:///x", queue="local:///x", secret="5" * 64, operators=value)
    with pytest.raises(SettingsError, match=reason) as caught:
        operators(settings)
    assert "MUSTER_OPERATORS" in str(caught.value)


def test_cloud_without_the_setting_has_no_operators():
    settings = Settings(state="firestore://p", blobs="gs://b", queue="cloudtasks://p/l/q", secret="5" * 64)
    assert isinstance(operators(settings), ClosedOperatorAuthenticator)
    with pytest.raises(UntrustedTokenError, match="set MUSTER_OPERATORS"):
        operators(settings).identify("anything")
