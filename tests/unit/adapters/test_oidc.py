"""Internal routes require a token of the queue's account for the called function."""

from __future__ import annotations

import time

import pytest
from support.issuer import TokenIssuer
from werkzeug.test import Client
from werkzeug.wrappers import Request

from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.invoker_authenticator import OidcInvokerAuthenticator
from muster_coordinator.adapters.local_queue import LocalQueue
from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.adapters.system import ManualClock, SeededRandomness
from muster_coordinator.application import CoordinatorConfig, assemble
from muster_coordinator.bootstrap import application
from muster_coordinator.http import router
from muster_coordinator.ports import UnavailableError, UntrustedTokenError
from muster_coordinator.settings import Settings, SettingsError
from muster_coordinator.state.platform import Platform

ACCOUNT = "queue@project.iam.gserviceaccount.com"
AGGREGATOR, COMMITTER = "https://aggregator.example", "https://committer.example"


@pytest.fixture
def invoker(issuer):
    return OidcInvokerAuthenticator(
        issuer=issuer.url, account=ACCOUNT, audiences={"aggregator": AGGREGATOR + "/", "committer": COMMITTER}
    )


def test_valid_token_is_accepted_and_keys_are_fetched_once(issuer, invoker):
    before = issuer.fetches
    for function, audience in (("aggregator", AGGREGATOR), ("committer", COMMITTER), ("aggregator", AGGREGATOR)):
        invoker.verify(issuer.token(account=ACCOUNT, audience=audience), function=function)
    assert issuer.fetches == before + 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"audience": COMMITTER}, "Audience"),
        ({"account": "other@project.iam.gserviceaccount.com"}, "not the queue's account"),
        ({"email_verified": False}, "not the queue's account"),
        ({"age": 3700}, "expired"),
        ({"age": -600}, "not yet valid"),
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"exp": None}, "exp"),
    ],
)
def test_invalid_tokens_are_refused_with_reason(issuer, invoker, change, reason):
    token = issuer.token(**{"account": ACCOUNT, "audience": AGGREGATOR, **change})
    with pytest.raises(UntrustedTokenError, match=reason) as caught:
        invoker.verify(token, function="aggregator")
    assert token not in str(caught.value)


def test_tokens_of_another_signer_are_refused(issuer, invoker):
    good = issuer.token(account=ACCOUNT, audience=AGGREGATOR)
    foreign = TokenIssuer().token(account=ACCOUNT, audience=AGGREGATOR, iss=issuer.url)
    header, claims, signature = good.split(".")
    for token in (foreign, f"{header}.{claims}.", f"{header}.{claims}.{signature[::-1]}", "no token", ""):
        with pytest.raises(UntrustedTokenError, match="not valid"):
            invoker.verify(token, function="aggregator")
    with pytest.raises(UntrustedTokenError, match="unset MUSTER_TOKEN_ISSUER"):
        invoker.verify(f"{header}.{claims}.SIGNATURE_REMOVED_BY_GOOGLE", function="aggregator")


def test_new_key_of_the_issuer_is_fetched(monkeypatch):
    with TokenIssuer() as issuer:
        invoker = OidcInvokerAuthenticator(issuer=issuer.url, account=ACCOUNT, audiences={"aggregator": AGGREGATOR})
        old = issuer.token(account=ACCOUNT, audience=AGGREGATOR)
        invoker.verify(old, function="aggregator")
        issuer.rotate()
        later = time.monotonic() + 60  # keys are not fetched twice in a row, for any tokens
        monkeypatch.setattr(time, "monotonic", lambda: later)
        invoker.verify(issuer.token(account=ACCOUNT, audience=AGGREGATOR), function="aggregator")
        with pytest.raises(UntrustedTokenError):
            invoker.verify(old, function="aggregator")


@pytest.mark.slow
def test_unreachable_issuer_is_unavailable(issuer, unused_port):
    closed_port = f"http://127.0.0.1:{unused_port}"
    invoker = OidcInvokerAuthenticator(issuer=closed_port, account=ACCOUNT, audiences={"aggregator": AGGREGATOR})
    with pytest.raises(UnavailableError, match="does not say where its keys are"):
        invoker.verify(issuer.token(account=ACCOUNT, audience=AGGREGATOR), function="aggregator")


def test_every_internal_route_requires_the_token(issuer, invoker, tmp_path):
    clock = ManualClock(1e9)
    platform = Platform(
        SqliteDocuments.in_memory(),
        DirectoryBlobs(tmp_path),
        LocalQueue.in_memory(clock=clock),
        clock,
        SeededRandomness(1),
    )
    config = CoordinatorConfig(secret=b"x" * 32, runtime=lambda _: None, invoker=invoker)
    app = assemble(platform, config)
    routes = router(app)
    client = Client(Request.application(routes))
    internal = [route.path for route in routes.routes if route.path.startswith("/internal/")]
    assert len(internal) == 7
    tokens = {
        function: issuer.token(account=ACCOUNT, audience=audience)
        for function, audience in (("aggregator", AGGREGATOR), ("committer", COMMITTER))
    }
    for path in internal:
        right = "committer" if path.endswith(("/commit", "/open")) else "aggregator"
        statuses = {
            function: client.post(path, json={}, headers={"Authorization": f"Bearer {token}"}).status_code
            for function, token in tokens.items()
        }
        assert client.post(path, json={}).status_code == 401
        assert statuses.pop(right) in (204, 400)  # authenticated; most calls lack a body
        assert set(statuses.values()) == {401}


CLOUD = {
    "state": "firestore://p/d",
    "blobs": "gs://b/home",
    "queue": "cloudtasks://p/l/q?endpoint=127.0.0.1:1",
    "secret": "0" * 64,
    "aggregator_url": AGGREGATOR,
    "committer_url": COMMITTER,
    "invoker": ACCOUNT,
}
ISSUER = {"token_issuer": "https://accounts.google.com"}


def test_settings_select_google_cloud(monkeypatch):
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    app = application(Settings(**CLOUD))
    platform = app.platform
    kinds = [type(part).__name__ for part in (platform.documents, platform.blobs, platform.queue)]
    assert kinds == ["FirestoreDocuments", "GcsBlobs", "CloudTasksQueue"]
    assert app.invoker is None
    assert application(Settings(**CLOUD, **ISSUER)).invoker is not None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"queue": "cloudtasks://p/l"}, "must look like cloudtasks://project/location/queue"),
        ({"invoker": None}, "MUSTER_QUEUE is Cloud Tasks, so set MUSTER_INVOKER too"),
        ({"aggregator_url": None, "committer_url": None}, "MUSTER_AGGREGATOR_URL, MUSTER_COMMITTER_URL too"),
        ({"blobs": "s3://b"}, "one of file, gs"),
        (
            {"queue": "local:///none", "invoker": None, **ISSUER},
            "MUSTER_TOKEN_ISSUER is set",
        ),
    ],
)
def test_inconsistent_settings_name_the_fix(monkeypatch, tmp_path, change, reason):
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", "127.0.0.1:1")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    if "queue" in change:
        change = {**change, "queue": change["queue"].replace("/none", f"{tmp_path}/queue.db")}
    with pytest.raises(SettingsError, match=reason):
        application(Settings(**{**CLOUD, **change}))
