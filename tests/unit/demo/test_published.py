"""Published plan of the demo."""

from __future__ import annotations

import pytest

from muster.demo import published
from muster.wire.problems import ProblemError
from muster.wire.signatures import SigningKey


def test_published_plan_is_complete_and_signed():
    plan = published.published_plan()
    plan.check_complete()
    assert [item.signer for item in plan.signatures] == [published.SIGNER]


def test_plan_of_another_signer_is_refused(monkeypatch):
    monkeypatch.setattr(published, "SIGNER", SigningKey.generate().signer)
    with pytest.raises(ProblemError, match="none of whom is trusted"):
        published.published_plan()
