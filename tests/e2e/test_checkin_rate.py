"""Counters of check-ins cost little processor time: a ratio of two measurements of one run."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import pytest
from support.harness import Harness
from werkzeug.test import Client
from werkzeug.wrappers import Request

from muster.wire.messages import CheckinRequest
from muster_coordinator.domain import names
from muster_coordinator.http import router

PASSES, CHECKINS = 11, 300
MOST = 0.05  # of a check-in's time


def seconds(h: Harness, http: Client, number: str) -> float:
    """Returns the processor seconds of a pass of check-ins."""
    bodies = [CheckinRequest(client=f"{number} {client}").encode() for client in range(CHECKINS)]
    start = time.process_time()
    for body in bodies:
        response = http.post("/v1/populations/phones:checkin", data=body)
        assert response.status_code == 200
        h.clock.advance(0.002)  # 500 a second
    return time.process_time() - start


@pytest.mark.parametrize("case", ["assigned", "round_full"])
def test_counters_slow_check_ins_down_by_less_than_a_twentieth(tmp_path: Path, case: str, measured: Any) -> None:
    h = Harness(tmp_path, durable=True, cache_seconds=1.0)
    h.begin(goal=1 if case == "round_full" else 100_000, round_seconds=86_400, assignment_seconds=86_400)
    http = Client(Request.application(router(h.app, "client_api")))
    seconds(h, http, "first")  # fills the caches
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(PASSES):
        for counted in (number % 2 == 0, number % 2 == 1):
            h.app.checkin_counters.enabled = counted
            times[counted].append(seconds(h, http, f"{number} {counted}"))
    best = min(times[True]) / min(times[False])
    median = statistics.median(on / off for on, off in zip(times[True], times[False], strict=True))
    measured(
        f"Check-ins, {case}: {1e6 * min(times[True]) / CHECKINS:.0f} µs of processor time, "
        f"with counters over without: {best:.3f} (minima of {PASSES} passes), {median:.3f} (median of the ratios)"
    )
    assert min(best, median) <= 1 + MOST
    h.app.checkin_counters.flush()
    assert h.inner.documents.list(names.CHECKINS)[0].data[case] > CHECKINS
