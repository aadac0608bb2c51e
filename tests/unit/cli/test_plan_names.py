"""Default names of plans."""

from __future__ import annotations

import pytest

from muster.cli.plan.build import _name_of


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("examples/own_model.py:process", "own_model"),
        ("my.package.hospital:process", "hospital"),
        ("own_model.py:heart", "heart"),
        ("own_model.py:Models.heart", "heart"),
        ("own_model.py:Models.process", "own_model"),
    ],
)
def test_default_name_of_a_plan(reference: str, name: str) -> None:
    assert _name_of(reference) == name
