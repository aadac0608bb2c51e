"""Web workers write the check-ins that they have counted when they end."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import requests

from muster.local.coordinator import LocalCoordinator
from muster.wire.messages import CheckinRequest

CHECKINS = 30


@pytest.mark.slow
def test_stopped_coordinator_has_written_every_check_in(tmp_path: Path) -> None:
    with LocalCoordinator(tmp_path, workers=2, warm=False) as coordinator:
        for client in range(CHECKINS):
            body = CheckinRequest(client=str(client)).encode()
            url = f"{coordinator.url}/v1/populations/mistyped:checkin"
            assert requests.post(url, data=body, timeout=60).status_code == 200
    with sqlite3.connect(tmp_path / "state.db") as connection:
        query = "SELECT sum(json_extract(data, '$.no_task')) FROM documents WHERE collection = 'checkins'"
        assert connection.execute(query).fetchone() == (CHECKINS,)
