"""Fixtures for all test folders: emulators of Google's services, and a summary of measurements.

Each emulator is started once per run, for the first test that uses it.
"""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from support.issuer import TokenIssuer

    from muster.local.emulators import FirestoreEmulator, StorageEmulator

# The duration of an example depends on the machine's load, and is not what these tests check.
settings.register_profile("muster", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("muster")

# A shell starts background jobs with SIGINT ignored, and their children inherit that. Tests of
# Ctrl-C need the default handler, as in a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests of the contract suites, which have the adapter's name in brackets.
_CONTRACT = re.compile(r"tests/contract/(test_(?:blobs|documents|queue))\.py::\w+\[([^]-]+)")


@pytest.fixture(scope="session")
def firestore_emulator(tmp_path_factory: Any) -> Iterator[FirestoreEmulator]:
    from support.cloud import started

    from muster.local.emulators import FirestoreEmulator

    emulator = FirestoreEmulator(tmp_path_factory.mktemp("firestore"))
    started(emulator)
    yield emulator
    emulator.stop()


@pytest.fixture(scope="session")
def storage_emulator(tmp_path_factory: Any) -> Iterator[StorageEmulator]:
    from support.cloud import started

    from muster.local.emulators import StorageEmulator

    emulator = StorageEmulator(tmp_path_factory.mktemp("storage"))
    started(emulator)
    yield emulator
    emulator.stop()


@pytest.fixture
def unused_port() -> Iterator[int]:
    """Returns the number of a port that no other process listens on during the test."""
    from muster.local.reserved_port import ReservedPort

    with ReservedPort() as port:
        yield port.number


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Returns a function that prints its text at the end of the run, from any worker."""
    return lambda text: record_property("measured", text)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    contract = Counter(
        f"{Path(match[1]).stem.removeprefix('test_')} on {match[2]}"
        for report in reports
        if report.when == "call" and (match := _CONTRACT.search(report.nodeid))
    )
    if contract:
        terminalreporter.section("contract suite: tests by port and adapter")
        for name in sorted(contract):
            terminalreporter.write_line(f"{contract[name]:4d}  {name}")
    texts = [
        value
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == "measured"
    ]
    if texts:
        terminalreporter.section("measured")
        for text in texts:
            terminalreporter.write_line(text)


@pytest.fixture(scope="session")
def issuer() -> Iterator[TokenIssuer]:
    from support.issuer import TokenIssuer

    with TokenIssuer() as issuer:
        yield issuer
