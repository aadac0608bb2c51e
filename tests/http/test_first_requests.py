"""Cold start with several concurrent first requests."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from werkzeug.test import EnvironBuilder

from muster_coordinator import bootstrap
from muster_coordinator.http.functions import entry_point

THREADS = 8
SECONDS = 20.0  # timeout of an expected event


@pytest.mark.parametrize("functions", [("client_api",), ("client_api", "operator_api")], ids=["one", "two"])
def test_concurrent_first_requests_share_one_application(tmp_path, monkeypatch, functions):
    made, meeting = [], threading.Barrier(THREADS * len(functions))
    application = bootstrap.application

    def counted(*args, **options):
        made.append(1)
        return application(*args, **options)

    monkeypatch.setattr(bootstrap, "application", counted)
    bootstrap._cached_application.cache_clear()
    for name, value in {
        "MUSTER_STATE": f"sqlite://{tmp_path}/state.db",
        "MUSTER_BLOBS": f"file://{tmp_path}/blobs",
        "MUSTER_QUEUE": f"local://{tmp_path}/queue.db",
        "MUSTER_SECRET": "00" * 32,
    }.items():
        monkeypatch.setenv(name, value)
    serving = [entry_point(name) for name in functions]

    def first(serve):
        meeting.wait(SECONDS)
        return serve(EnvironBuilder(path="/health").get_request()).status_code

    with ThreadPoolExecutor(THREADS * len(functions)) as pool:
        assert set(pool.map(first, serving * THREADS)) == {200}
    assert len(made) == 1
