"""What tests of several folders share: Google's services, each started once for a run, when the first test asks for it;
and what tests measured, in the run's closing lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.cloud import started
from support.issuer import TokenIssuer

from muster.emulators import FirestoreEmulator, StorageEmulator


@pytest.fixture(scope="session")
def firestore_emulator(tmp_path_factory: Any) -> Iterator[FirestoreEmulator]:
    emulator = FirestoreEmulator(tmp_path_factory.mktemp("firestore"))
    started(emulator)
    yield emulator
    emulator.stop()


@pytest.fixture(scope="session")
def storage_emulator(tmp_path_factory: Any) -> Iterator[StorageEmulator]:
    emulator = StorageEmulator(tmp_path_factory.mktemp("storage"))
    started(emulator)
    yield emulator
    emulator.stop()


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Has a text printed at the end of the run, whichever worker the test runs in."""
    return lambda text: record_property("measured", text)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    texts = [
        value
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
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
    with TokenIssuer() as issuer:
        yield issuer
