"""Callers without the right to a route: strangers, other clients, viewers, foreign pages."""

from __future__ import annotations

import hashlib
import json

import jwt
from support.harness import POPULATION, START, TASK, Harness, problem_of
from support.plans import sum_update
from support.secured_harness import CHECKIN, DAY, ENROLLER, OPERATOR, ORIGIN, QUEUE, VIEWER, SecuredHarness, enrolment
from werkzeug.wrappers import Request

from muster.local.serving import web_app
from muster.wire.enrolment import PrivateKey
from muster.wire.messages import Assignment, AuditList
from muster.wire.problems import ProblemType
from muster_coordinator.adapters.client_authenticators import parse_clients
from muster_coordinator.domain.limits import RateLimits
from muster_coordinator.http import router
from muster_coordinator.http.routing import Security

PATHS = {
    "task": TASK,
    "population": POPULATION,
    "sha256": "0" * 64,
    "round": "1",
    "version": "0",
    "request": "r",
    "tag": "t",
}


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def routes_of(h, *functions):
    return [
        (route, route.path.format(**PATHS))
        for route in router(h.app, *functions).routes
        if route.path.startswith(("/v1", "/internal"))
    ]


def world(h):
    """Returns everything that a caller could have changed."""
    places = ("tasks", f"tasks/{TASK}/rounds", f"populations/{POPULATION}/tasks", "audit", "enrolments")
    documents = {document.path: document.data for place in places for document in h.inner.documents.list(place)}
    return documents, h.blobs(), len(h.queue.held)


# Clients.


def refused(h, token=None, **more):
    headers = {**more.pop("headers", {}), **({} if token is None else bearer(token))}
    response = h.call("POST", CHECKIN, json={}, headers=headers, **more)
    problem = problem_of(response)
    assert problem.type is ProblemType.UNAUTHENTICATED, problem
    assert token is None or token not in problem.detail
    return problem.detail


def test_unauthenticated_client_gets_no_slot(h):
    before = world(h)
    for token in (None, "nonsense", "a.b.c", PrivateKey.generate().issue(enrolment(0)), OPERATOR, VIEWER):
        refused(h, token)
    refused(h, headers={"Authorization": "Basic YWxpY2U6"})
    refused(h, headers={"X-Client-Fingerprint": "ab", "X-Forwarded-For": "127.0.0.1"})
    assert world(h) == before


def test_assignment_token_is_no_credential_for_check_in(h):
    refused(h, h.assigned(0).token)


def test_enrolment_of_another_population_is_refused(h):
    assert "not for population phones" in refused(h, ENROLLER.issue(enrolment(0, population="tablets")))


def test_expired_or_future_enrolment_is_refused(h):
    assert "expired" in refused(h, ENROLLER.issue(enrolment(0, issued_at=START - 100 * DAY)))
    assert "not valid yet" in refused(h, ENROLLER.issue(enrolment(0, issued_at=START + DAY)))


def test_revoked_enrolment_is_refused(h):
    stolen = enrolment(0)
    assert isinstance(h.checkin(token=ENROLLER.issue(stolen)), Assignment)
    h.ask("POST", "/v1/revocations", json={"id": stolen.id})
    assert "revoked" in refused(h, ENROLLER.issue(stolen))


def test_enrolment_with_another_algorithm_or_claim_is_refused(h):
    token = ENROLLER.issue(enrolment(0))
    claims, kid = jwt.decode(token, options={"verify_signature": False}), jwt.get_unverified_header(token)["kid"]
    header, _, signature = token.split(".")
    for forged in (
        jwt.encode(claims, None, "none", headers={"kid": kid}),
        jwt.encode(claims, ENROLLER.public, "HS256", headers={"kid": kid}),  # the public key, as a shared key
        jwt.encode(claims, PrivateKey.generate()._key, "EdDSA", headers={"kid": kid}),
        *(
            f"{header}.{jwt.utils.base64url_encode(json.dumps({**claims, **change}).encode()).decode()}.{signature}"
            for change in ({"sub": "client-1"}, {"population": "tablets"}, {"exp": 4_000_000_000}, {"jti": "0" * 32})
        ),
    ):
        refused(h, forged)


def test_oidc_token_with_another_algorithm_is_refused(tmp_path, issuer):
    def clients(clock):
        setting = f"oidc:{issuer.url}?audience=muster"
        return parse_clients(setting, clock=clock, revoked=lambda _: False, proxy_secret=None)

    h = Harness(tmp_path, guards=lambda platform: {"clients": clients(platform.clock)})
    good = issuer.token(account="a@b", audience="muster")
    assert h.call("POST", CHECKIN, json={}, token=good).status_code == 200
    header, claims = jwt.get_unverified_header(good), jwt.decode(good, options={"verify_signature": False})
    public = issuer._document("/certs")["keys"][0]["n"]
    for forged in (
        jwt.encode(claims, None, "none", headers=header | {"alg": "none"}),
        jwt.encode(claims, public, "HS256", headers=header | {"alg": "HS256"}),
        issuer.token(account="a@b", audience="somebody-else"),
        issuer.token(account="a@b", audience="muster", age=4000),
    ):
        assert h.call("POST", CHECKIN, json={}, token=forged).status_code == 401


def test_many_tokens_of_one_name_are_one_contribution(h):
    for number in range(4):
        answer = h.checkin(token=ENROLLER.issue(enrolment("twin")))
        if isinstance(answer, Assignment):
            h.upload(answer.token, sum_update(number))
    for client in (10, 11):
        h.upload(h.assigned(client).token, sum_update(client))
    h.settle()
    assert int(h.result(1)["count"]) == 3
    assert int(h.result(1)["ids"]) == 1 | 1 << 10 | 1 << 11


def test_open_identity_allows_many_identities_per_device(tmp_path):
    """Not defended: `MUSTER_CLIENTS=open` lets clients assert any identity, and logs a warning."""
    h = Harness(tmp_path)
    h.begin(goal=3, rounds=1)
    for number in range(3):
        h.upload(h.assigned(f"sybil-{number}").token, sum_update(number))
    h.settle()
    assert int(h.result(1)["count"]) == 3


def test_proxy_header_of_another_sender_is_refused(tmp_path):
    setting = "proxy:X-Client-Fingerprint?secret-header=X-Proxy-Secret"

    def guards(platform):
        return {"clients": parse_clients(setting, clock=platform.clock, revoked=lambda _: False, proxy_secret="s" * 32)}

    h = Harness(tmp_path, guards=guards)
    mine = {"X-Client-Fingerprint": "ab"}
    for headers in (
        mine,
        {**mine, "X-Proxy-Secret": "t" * 32},
        {**mine, "X-Proxy-Secret": "s" * 31},
        {**mine, "X-Proxy-Secret": ""},
        {"X-Client-Fingerprint": "forged,ab", "X-Proxy-Secret": "s" * 32},
    ):
        refused(h, headers=headers)
    assert h.call("POST", CHECKIN, json={}, headers={**mine, "X-Proxy-Secret": "s" * 32}).status_code == 200


def test_only_the_caller_over_its_rate_is_refused(tmp_path, issuer):
    limits = RateLimits.parse("address=20/m,identity=3/m")
    h = SecuredHarness(tmp_path, issuer, given={"rate_limits": limits, "trusted_proxies": 1})
    h.begin(goal=50)
    token, other = ENROLLER.issue(enrolment("greedy")), ENROLLER.issue(enrolment("modest"))

    def ask(token, hops):
        headers = {**bearer(token), "X-Forwarded-For": hops}
        return h.bare("POST", CHECKIN, json={}, headers=headers).status_code

    # A client is limited by its identity from any address; an address despite forged hops.
    assert [ask(token, f"198.51.100.{number}") for number in range(5)] == [200, 200, 200, 429, 429]
    assert ask(other, "198.51.100.9") == 200
    statuses = [ask("nonsense", f"203.0.113.{number}, 192.0.2.1") for number in range(30)]
    assert statuses == [401] * 20 + [429] * 10


# Operators.


def test_operator_routes_accept_operators_only(h, issuer):
    before = world(h)
    tokens = {
        "nobody": {},
        "a client": bearer(ENROLLER.issue(enrolment(0))),
        "the queue": bearer(issuer.token(account=QUEUE, audience="https://aggregator.example")),
        "the hash of a key": bearer(hashlib.sha256(OPERATOR.encode()).hexdigest()),
        "a key and more": bearer(OPERATOR + "x"),
        "the start of a key": bearer(OPERATOR[:-1]),
        "another scheme": {"Authorization": f"Basic {OPERATOR}"},
        "a cookie": {"Cookie": f"token={OPERATOR}"},
        "another header": {"X-Serverless-Authorization": f"Bearer {OPERATOR}"},
    }
    for route, path in routes_of(h, "operator_api"):
        for who, headers in tokens.items():
            assert h.bare(route.method, path, headers=headers).status_code == 401, (route.method, path, who)
        assert h.bare(route.method, f"{path}?token={OPERATOR}&access_token={OPERATOR}").status_code == 401
    assert world(h) == before


def test_viewer_changes_nothing(h):
    before = world(h)
    for route, path in routes_of(h, "operator_api"):
        query = {"metric": "count"} if route.query.get("metric") else {}
        status = h.bare(route.method, path, headers=bearer(VIEWER), query_string=query).status_code
        assert status == 403 if route.method != "GET" else status in (200, 404), (route.method, path)
        for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
            overridden = h.bare("GET", path, headers={**bearer(VIEWER), header: route.method}, query_string=query)
            assert overridden.status_code in (200, 404, 405)
    after = world(h)
    assert after[1:] == before[1:]
    changed = {path for path, data in after[0].items() if before[0].get(path) != data}
    assert changed  # its refusals
    assert all(path.startswith("audit/") for path in changed)


def test_internal_routes_accept_the_queues_account_only(h, issuer):
    before = world(h)
    inner = routes_of(h, "aggregator", "committer")
    assert len(inner) == 7
    for _, path in inner:
        for token in (
            None,
            OPERATOR,
            h.assigned(0).token if path.endswith("tick") else "x",
            issuer.token(account="somebody@muster-test.iam.gserviceaccount.com", audience="https://aggregator.example"),
            issuer.token(account=QUEUE, audience="https://operators.example"),
            issuer.token(account=QUEUE, audience="https://aggregator.example", email_verified=False),
            issuer.token(account=QUEUE, audience="https://aggregator.example", age=4000),
        ):
            headers = {} if token is None else bearer(token)
            if path in ("/internal/commit", "/internal/open") and token is None:
                headers = bearer(
                    issuer.token(account=QUEUE, audience="https://aggregator.example")
                )  # another function's
            assert h.bare("POST", path, json={}, headers=headers).status_code == 401, path
    assert world(h)[1:] == before[1:]


def test_internal_routes_are_absent_from_the_public_address(tmp_path, monkeypatch):
    for name, value in {
        "MUSTER_STATE": f"sqlite://{tmp_path}/state.db",
        "MUSTER_BLOBS": f"file://{tmp_path}/blobs",
        "MUSTER_QUEUE": f"local://{tmp_path}/queue.db",
        "MUSTER_SECRET": "5" * 64,
    }.items():
        monkeypatch.setenv(name, value)
    app = web_app(internal_port=81)

    def status(path, port):
        environ = {"SERVER_PORT": port, "HTTP_X_FORWARDED_PORT": "81", "HTTP_HOST": "127.0.0.1:81"}
        statuses = []
        request = Request.from_values(path, method="POST").environ | environ
        list(app(request, lambda status, *_: statuses.append(int(status[:3]))))
        return statuses[0]

    assert status("/internal/tick", "81") == 204
    for path in ("/internal/tick", "//internal/tick", "/internal//tick", "/internal/./tick", "/v1/../internal/tick"):
        assert status(path, "80") == 404, path


def test_client_and_operator_api_have_no_internal_routes(h):
    outer = router(h.app, "client_api", "operator_api")
    assert not [route for route in outer.routes if route.path.startswith("/internal")]
    assert not outer.owns("POST", "/internal/tick")


# Pages.


def test_foreign_page_reads_and_operates_nothing(h):
    for origin in (
        "https://evil.example",
        f"{ORIGIN}.evil.example",
        "http://app.example",
        "null",
        "https://app.example:444",
    ):
        preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for response in (
            h.bare("OPTIONS", CHECKIN, headers=preflight),
            h.bare("POST", CHECKIN, json={}, headers={"Origin": origin}),
        ):
            assert not [name for name, _ in response.headers if name.startswith("Access-Control-")]
    # A page that may check in may not operate.
    for route, path in routes_of(h, "operator_api"):
        if route.path == "/v1/plans/{sha256}":
            continue  # clients download plans from the same address
        preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": route.method}
        response = h.bare("OPTIONS", path, headers=preflight)
        assert not [name for name, _ in response.headers if name.startswith("Access-Control-")], path


def test_foreign_page_can_not_operate_an_open_coordinator(tmp_path):
    """Neither by a cross-origin request, nor as its own origin by DNS rebinding."""
    h = Harness(tmp_path)
    h.begin()
    pause = f"/v1/tasks/{TASK}:pause"
    for origin, host in (
        ("https://evil.example", "localhost:8080"),
        ("null", "localhost:8080"),
        ("http://evil.example:8080", "evil.example:8080"),
        ("http://localhost.evil.example", "localhost.evil.example"),
        ("http://10.0.0.1.evil.example", "10.0.0.1.evil.example"),
    ):
        assert h.call("POST", pause, headers={"Origin": origin, "Host": host}).status_code == 403, origin
    assert h.record().status.value == "active"
    for host in ("localhost:8080", "127.0.0.1:8080", "[::1]:8080", "muster:8080", "muster.localhost"):
        assert h.call("POST", pause, headers={"Origin": f"http://{host}", "Host": host}).status_code == 200, host
        h.operate("resume")


# Audit log.


def test_every_operator_change_is_logged(h):
    """Every operator route that changes something leaves an entry, per the table of routes."""
    bodies = {
        "/v1/plans/{sha256}": {"data": h.plan.encode()},
        "/v1/tasks": {"json": {"name": "more", "population": POPULATION, "plan": h.plan.sha256}},
        "/v1/tasks/{task}:rollback": {"json": {"version": 0}},
        "/v1/tasks/{task}:run": {"json": {"request": "r"}},
        "/v1/tasks/{task}": {"json": {"policy": {"goal": 3}}},
        "/v1/tasks/{task}/tags/{tag}": {"json": {"version": 0}},
        "/v1/revocations": {"json": {"id": "0" * 32}},
        "/v1/states/{sha256}": {"query_string": {"plan": h.plan.sha256}},
    }
    routes = [route for route in router(h.app, "operator_api").routes if route.security is Security.OPERATOR]
    changing = [route for route in routes if route.method != "GET"]
    assert len(changing) >= 7
    for route in changing:
        h.clock.advance(1)
        before, entries = world(h), len(h.inner.documents.list("audit"))
        path = route.path.format(**{**PATHS, "sha256": h.plan.sha256})
        h.http.open(path, method=route.method, headers=bearer(OPERATOR), **bodies.get(route.path, {}))
        after = h.inner.documents.list("audit")
        assert len(after) > entries, (route.path, world(h) != before)
    log = AuditList.decode(h.ask("GET", "/v1/audit")).entries
    assert {entry.who for entry in log} == {"alice"}


def test_no_route_changes_a_log_entry(h):
    h.operate("pause")
    before = {document.path: document.data for document in h.inner.documents.list("audit")}
    assert before
    entry = next(iter(before)).partition("/")[2]
    for method in ("PUT", "POST", "PATCH", "DELETE"):
        for path in (
            "/v1/audit",
            f"/v1/audit/{entry}",
            f"/v1/tasks/../audit/{entry}",
            f"/v1/tasks/..%2faudit%2f{entry}",
        ):
            assert h.bare(method, path, headers=bearer(OPERATOR), json={}).status_code in (404, 405)
    # Names that equal the log's collection are valid names of tasks and populations.
    spec = {"name": "audit", "population": "enrolments", "plan": h.plan.sha256}
    assert h.call("POST", "/v1/tasks", json=spec).status_code == 201
    after = {document.path: document.data for document in h.inner.documents.list("audit")}
    assert {path: after[path] for path in before} == before
