"""Coordinator with every protection enabled, and an open round."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.issuer import TokenIssuer
from support.secured_harness import SecuredHarness


@pytest.fixture
def h(tmp_path: Path, issuer: TokenIssuer) -> SecuredHarness:
    made = SecuredHarness(tmp_path, issuer)
    made.begin(goal=3, minimum=2, over_selection=2.0, rounds=3, round_seconds=1000, assignment_seconds=1000)
    return made
