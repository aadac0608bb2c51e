"""CORS: pages of configured origins may call the routes of clients, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.harness import POPULATION, TASK, Harness
from werkzeug.test import Client
from werkzeug.wrappers import Request

from muster_coordinator.http import function_for, router
from muster_coordinator.settings import Settings, SettingsError

PAGE = "https://app.example"
CHECKIN = f"/v1/populations/{POPULATION}:checkin"


class CorsHarness(Harness):
    def restart(self):
        self.app = replace(self.application(), cors_origins=(PAGE, "http://localhost:8000"))
        self.http = Client(Request.application(router(self.app)))


@pytest.fixture
def h(tmp_path):
    return CorsHarness(tmp_path)


def cors(response):
    return {name for name, _ in response.headers if name.startswith("Access-Control-")}


def preflight(h, path, method, origin=PAGE):
    headers = {"Origin": origin, "Access-Control-Request-Method": method}
    return h.http.open(path, method="OPTIONS", headers=headers)


def test_preflight_of_a_client_route_is_answered(h):
    sha256 = h.plan.sha256
    for method, path in (
        ("POST", CHECKIN),
        ("GET", f"/v1/plans/{sha256}"),
        ("GET", f"/v1/tasks/{TASK}/rounds/1/broadcast"),
        ("PUT", "/v1/updates"),
        ("POST", "/v1/updates:start"),
        ("POST", "/v1/updates:report"),
    ):
        response = preflight(h, path, method)
        assert response.status_code == 204, path
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert method in response.headers["Access-Control-Allow-Methods"].split(", ")
        assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Credentials" not in response.headers
        assert "Origin" in response.headers["Vary"]
    # Operators store plans at the address where clients download them.
    assert "PUT" not in preflight(h, f"/v1/plans/{sha256}", "GET").headers["Access-Control-Allow-Methods"]


def test_operator_and_internal_routes_have_no_cors(h):
    for method, path in (
        ("GET", "/v1/tasks"),
        ("POST", f"/v1/tasks/{TASK}:pause"),
        ("GET", "/v1/audit"),
        ("POST", "/internal/tick"),
        ("GET", "/openapi.json"),
    ):
        assert not cors(preflight(h, path, method))
        assert not cors(h.http.open(path, method=method, headers={"Origin": PAGE}))
    assert not cors(h.http.open(f"/v1/plans/{h.plan.sha256}", method="PUT", headers={"Origin": PAGE}, data=b"x"))


def test_page_may_read_responses_and_problems(h):
    for body, status in ((b"{}", 200), (b"{", 400)):
        response = h.http.post(CHECKIN, headers={"Origin": PAGE}, data=body)
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == PAGE
        assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize(
    "origin", ["https://app.example.evil", "http://app.example", "https://app.example:444", "null"]
)
def test_other_origins_get_no_cors_headers(h, origin):
    assert preflight(h, CHECKIN, "POST", origin).status_code == 405
    response = h.http.post(CHECKIN, headers={"Origin": origin}, data=b"{}")
    assert not cors(response)
    assert "Origin" in response.headers["Vary"]  # a cache must not serve it to an allowed page


def test_cors_is_off_by_default(tmp_path):
    h = Harness(tmp_path)
    assert preflight(h, CHECKIN, "POST").status_code == 405
    assert not cors(h.http.post(CHECKIN, headers={"Origin": PAGE}, data=b"{}"))


def test_shared_address_routes_preflights_to_client_api():
    assert function_for("OPTIONS", f"/v1/plans/{'0' * 64}") == "client_api"
    assert function_for("OPTIONS", CHECKIN) == "client_api"


BASE = {
    "MUSTER_STATE": "sqlite:///x",
    "MUSTER_BLOBS": "file:///x",
    "MUSTER_QUEUE": "local:///x",
    "MUSTER_SECRET": "5" * 64,
}


def test_setting_is_a_list_of_origins():
    settings = Settings.from_environment({**BASE, "MUSTER_CORS_ORIGINS": f"{PAGE}, http://[::1]:8000"})
    assert settings.cors_origins == (PAGE, "http://[::1]:8000")


@pytest.mark.parametrize(
    "value", ["*", "null", "app.example", f"{PAGE}/", f"{PAGE},https://App.example", "https://*.example"]
)
def test_invalid_origin_is_refused(value):
    with pytest.raises(SettingsError, match=r"MUSTER_CORS_ORIGINS.*is not an origin such as"):
        Settings.from_environment({**BASE, "MUSTER_CORS_ORIGINS": value})
