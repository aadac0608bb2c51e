"""What tests of several folders share: Google's services, each started once for a run, when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def issuer() -> Iterator[TokenIssuer]:
    with TokenIssuer() as issuer:
        yield issuer
