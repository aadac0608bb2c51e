"""The demo's plan, as it travels in the wheel."""

from __future__ import annotations

import pytest

from muster.demo import published
from muster.wire.problems import ProblemError
from muster.wire.signatures import SigningKey


def test_the_plan_is_complete_and_signed_by_the_demos_key():
    plan = published.published_plan()
    plan.check_complete()
    assert [item.signer for item in plan.signatures] == [published.SIGNER]


def test_a_plan_of_another_signer_is_refused(monkeypatch):
    monkeypatch.setattr(published, "SIGNER", SigningKey.generate().signer)
    with pytest.raises(ProblemError, match="none of whom is trusted"):
        published.published_plan()
