"""Confidentiality: client identities, single updates, internals, and timing of comparisons."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import jwt
from support.harness import POPULATION, SECRET, TASK
from support.plans import sum_update
from support.secured_harness import CHECKIN, ENROLLER, OPERATOR, SIGNER, VIEWER, enrolment
from werkzeug.test import Client
from werkzeug.wrappers import Request

from muster_coordinator.domain import names
from muster_coordinator.http import router
from muster_coordinator.ports import StoreError

ROOT = Path(__file__).parents[2]
INSIDES = re.compile(
    rf"Traceback|\.py\b|site-packages|coordinator\.|Error\(|0x[0-9a-f]{{6,}}|{SECRET.decode()}|{SECRET.hex()}"
)


def routes_of(h, *functions):
    words = {
        "task": TASK,
        "population": POPULATION,
        "sha256": h.plan.sha256,
        "round": "1",
        "version": "0",
        "request": "r",
        "tag": "t",
    }
    return [(route, route.path.format(**words)) for route in router(h.app, *functions).routes]


def test_rounds_of_one_client_are_unlinkable(h):
    """Neither two attempts, nor two tasks, nor the identity without the key."""
    seen = []
    for number in (1, 2):
        tokens = {client: h.assigned(client).token for client in range(3)}
        seen.append({jwt.decode(token, options={"verify_signature": False})["sub"] for token in tokens.values()})
        for client, token in tokens.items():
            h.upload(token, sum_update(client))
        h.settle(minutes=1)
        assert len(h.committed()) == number
    assert seen[0].isdisjoint(seen[1])
    assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in seen[0] | seen[1])
    key = h.key()
    same = {
        names.pseudonym(SECRET, replace(key, **change), "a")
        for change in ({}, {"epoch": 9}, {"task": "other"}, {"number": 9})
    }
    assert len(same) == 4
    assert names.pseudonym(b"x" * 32, key, "a") not in same


def test_stores_and_logs_do_not_identify_clients(h, caplog):
    """Searches every document, blob, queued work item, and the log."""
    caplog.set_level(0)
    tokens = [h.assigned(client).token for client in range(3)]
    for client, token in enumerate(tokens):
        h.upload(token, sum_update(client))
    h.report(h.assigned(3).token)
    texts = [caplog.text, repr([held.work for held in h.queue.held])]
    for place in ("tasks", f"tasks/{TASK}/rounds", f"populations/{POPULATION}/tasks", "audit"):
        texts += [f"{document.path} {document.data}" for document in h.inner.documents.list(place)]
    for counters in ("tickets", "shards", "keys", "holders"):
        texts += [
            f"{document.path} {document.data}"
            for document in h.inner.documents.list(f"{names.round_path(h.key())}/{counters}")
        ]
    for name in h.blobs():
        texts += [name, bytes(h.inner.blobs.read(name)).decode("latin-1")]
    assert len(texts) > 10
    for text in texts:
        assert "client-" not in text
        assert not any(token in text for token in tokens)
        assert OPERATOR not in text
        assert VIEWER not in text


def test_no_route_returns_a_single_update(h):
    """Neither by any route, nor by the store's names of updates, partials and manifests."""
    marked = sum_update(0, 12345.678)
    h.upload(h.assigned(0).token, marked)
    h.upload(h.assigned(1).token, sum_update(1))
    (name, _) = h.blobs("updates/")
    needle = marked["value"].tobytes()
    paths = {path for _, path in routes_of(h)}
    sha256 = "0" * 64
    for blob in (name, *h.blobs("partials/"), *h.blobs("manifests/")):
        paths |= {
            f"/{blob}",
            f"/v1/{blob}",
            f"/v1/plans/{blob}",
            f"/v1/updates/{blob}",
            f"/v1/plans/{sha256}/../../{blob}",
        }
    paths |= {
        "/v1/updates",
        f"/v1/tasks/{TASK}/updates",
        f"/v1/tasks/{TASK}/rounds/1/updates",
        f"/v1/tasks/{TASK}/rounds/1/partials",
    }
    for path in paths:
        for token in (OPERATOR, ENROLLER.issue(enrolment(0))):
            for method in ("GET", "POST"):
                if path.endswith(":cancel"):
                    continue
                assert needle not in h.bare(method, path, token=token).data, path


def test_result_needs_at_least_the_minimum(h):
    h.upload(h.assigned(0).token, sum_update(0))
    h.clock.advance(1001)
    h.settle()
    assert h.committed() == []
    assert h.runtime.reported == []
    for path in (f"/v1/tasks/{TASK}/rounds/1/result", f"/v1/tasks/{TASK}/checkpoints/1"):
        assert h.call("GET", path).status_code == 404


def test_errors_reveal_no_internals(h, tmp_path):
    hostile = [
        "x",
        "a.b.c",
        "eyJhbGciOiJub25lIn0.e30.",
        "\xff" * 50,
        "' OR 1=1",
        "${jndi:ldap://x}",
        "%s%n",
        OPERATOR,
        "x" * 7000,
    ]
    bodies = [b"", b"[" * 60_000, bytes(range(256)), b'{"client": 1e999}', b'{"name": "' + b"x" * 60_000 + b'"}']
    for route, path in routes_of(h):
        if path.endswith(":cancel"):
            continue
        for token in (None, *hostile):
            for body in bodies if token in (None, OPERATOR) else bodies[:1]:
                response = h.bare(route.method, path, token=token, body=body)
                if response.status_code >= 400:
                    text = response.get_data(as_text=True)
                    assert not INSIDES.search(text), text
                    assert str(tmp_path) not in text
                    assert token is None or len(token) < 4 or token not in text
                    assert len(text) < 20_000


def test_failing_store_is_only_logged(h, caplog):
    class Broken:
        def __getattr__(self, name):
            raise StoreError(f"/srv/muster/state.db: password is {SECRET.decode()}")

    app = h.application(platform=replace(h.inner, documents=Broken(), blobs=Broken()))
    http = Client(Request.application(router(app)))
    for method, path, token in (
        ("GET", "/v1/tasks", OPERATOR),
        ("POST", CHECKIN, ENROLLER.issue(enrolment(0))),
        ("GET", f"/v1/plans/{h.plan.sha256}", "x"),
    ):
        response = http.open(
            path, method=method, json={} if method == "POST" else None, headers={"Authorization": f"Bearer {token}"}
        )
        assert response.status_code == 500
        assert "srv" not in response.text
        assert SECRET.decode() not in response.text
    assert "/srv/muster" in caplog.text


def test_responses_and_reprs_contain_no_secret(h):
    assert SECRET.decode() not in repr(h.app.tokens.__dict__)
    assert OPERATOR not in repr(vars(h.app.operators))
    assert SIGNER.signer in repr(h.app.plans.trusted)


# Comparisons.

SECRETS = re.compile(r"secret|password|hmac|\bmac\b|bearer|api_?key|signature|credential|digest|token|cookie")
# Reviewed comparisons of public values, types or own names, with the reason.
PUBLIC = {
    "stored.signatures != wanted.signatures": "a plan's signatures are public",
    "item not in plan.signatures": "likewise",
    "token in revocations.tokens": "an enrolment's id among the revoked ones; the token's signature was checked before",
    "token in self.tokens": "likewise",
    "getattr(self._credentials, 'service_account_email', None) == 'default'": "an account's name",
    "reference.count('.') != _TOKEN_DOTS": "a count",
    "bearer.count('.') == _JWT_DOTS": "likewise",
    "signature != b'PK\\x05\\x06'": "a zip's magic number",
    "hashlib.sha256(raw).hexdigest() != expected": "a public address",
    "hashlib.sha256(content).hexdigest() != sha256": "likewise",
    "named.get(sha256) != len(content) or hashlib.sha256(content).hexdigest() != sha256": "likewise",
    "hashlib.sha256(data).hexdigest() == announced.sha256": "likewise",
    "self._upload_session.token != assignment.token": "the client's own two tokens, on the client",
}


def compared():
    """Yields every `==`, `!=` and `in` over an expression that is named like a secret."""
    for file in [*(ROOT / "functions").rglob("*.py"), *(ROOT / "client").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Compare):
                continue
            if not any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
                continue
            inside = list(ast.walk(node))
            words = {node.id for node in inside if isinstance(node, ast.Name)}
            words |= {node.attr for node in inside if isinstance(node, ast.Attribute)}
            if any(SECRETS.search(word.lower()) for word in words):
                yield ast.unparse(node), f"{file.relative_to(ROOT)}:{node.lineno}"


def test_secrets_are_compared_in_constant_time():
    """By `hmac.compare_digest` or a library's `verify`; all others are reviewed above."""
    unreviewed = {text: place for text, place in compared() if text not in PUBLIC}
    assert unreviewed == {}
    adapters = ROOT / "functions" / "muster_coordinator" / "adapters"
    for name in ("operator_authenticators.py", "client_authenticators.py"):
        assert "hmac.compare_digest(" in (adapters / name).read_text(), name
