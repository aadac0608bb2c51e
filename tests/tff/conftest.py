"""TFF's native runtime for the whole session, ended with it: no process of these tests outlives them."""

import sys
from pathlib import Path

import pytest

from muster.author import tff_worker

sys.path.insert(0, str(Path(__file__).parent))  # for `computations`, which several test files share


@pytest.fixture(scope="session", autouse=True)
def tff_native():
    tff_worker.start()
    yield
    tff_worker.shutdown()
    assert tff_worker.worker_pids() == set()
