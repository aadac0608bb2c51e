"""The in-process coordinator that users' tests import."""

from __future__ import annotations

import textwrap

import pytest

import muster.testing
from muster.smoke import smoke_plan


@pytest.mark.slow
def test_example_in_the_docstring_runs(capsys):
    example = muster.testing.__doc__.partition("\n\n    ")[2]
    exec(textwrap.dedent(f"    {example}"), {"plan": smoke_plan(), "data": lambda: [3, 4]})  # noqa: S102
    printed = capsys.readouterr().out
    assert "Contributed" in printed
    assert "total" in printed or "sum" in printed


def test_queued_work_waits_for_settle_and_time_for_the_clock():
    with muster.testing.in_process_coordinator() as coordinator:
        started = coordinator.clock.now()
        assert coordinator.next_due() is None
        assert coordinator.settle() == 0
        assert coordinator.clock.now() == started
        assert coordinator.clock.advance(60.0) == started + 60.0
