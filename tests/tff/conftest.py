"""Starts TFF's runtime for the session and compiles what several test files share.

Compiling a learning process takes seconds, so each is compiled once per session. Processes and
plans are immutable.
"""

import pytest
import tensorflow_federated as tff
from support.computations import fed_avg, heavy_hitters

from muster.author import build_plan, tff_worker


@pytest.fixture(scope="session", autouse=True)
def tff_native():
    """Starts TFF's worker process, and checks that it ends with the session."""
    tff_worker.start()
    yield
    tff_worker.shutdown()
    assert tff_worker.worker_pids() == set()


@pytest.fixture(scope="session")
def fed_avg_process():
    return fed_avg()


@pytest.fixture(scope="session")
def fed_avg_plan(fed_avg_process):
    return build_plan(fed_avg_process)


@pytest.fixture(scope="session")
def noisy_process():
    """Returns federated averaging with differential privacy: the server draws noise."""
    return fed_avg(tff.learning.dp_aggregator(0.5, 100), weighted=False)


@pytest.fixture(scope="session")
def noisy_plan(noisy_process):
    return build_plan(noisy_process)


@pytest.fixture(scope="session")
def heavy_hitters_process():
    return heavy_hitters()


@pytest.fixture(scope="session")
def heavy_hitters_plan(heavy_hitters_process):
    return build_plan(heavy_hitters_process)
