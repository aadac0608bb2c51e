"""Tests of the guards that judge a round's result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from muster.wire.messages import Guards, TaskPolicy, WorseningGuard
from muster_coordinator.domain.guards import Verdict, describe, judge_result
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import (
    Aggregating,
    BlobRef,
    Checkpoint,
    CommitResult,
    Committed,
    close,
    commit,
    open_round,
)
from muster_coordinator.domain.tally import Tally

BLOB = BlobRef("blob", "0" * 64, 1)
LOSS = "client_work/train/loss"
COUNT = "client_work/train/num_examples"
NO_VERDICT = Verdict()
WORSENING = Guards(worsening=WorseningGuard(metric=LOSS, rounds=3))


def judge(
    guards: Guards = WORSENING,
    *,
    base: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
    parent: Committed | None = None,
    **result: Any,
) -> Verdict:
    named = {"loss": LOSS, "count": COUNT}
    return judge_result(
        guards,
        base=base or {},
        state=state or {},
        result={named.get(name, name): np.asarray(value) for name, value in result.items()},
        parent=parent,
    )


def committed(verdict: Verdict = NO_VERDICT, **metrics: float) -> Committed:
    open_ = open_round(
        RoundKey("t", 1, 0),
        TaskPolicy(goal=1),
        plan="0" * 64,
        base=Checkpoint(0, BLOB, 0.0),
        broadcast=BLOB,
        sums_in_the_clear=False,
        opens_at=0.0,
        expected_seconds=None,
    )
    closed: Aggregating = close(open_, now=1.0)
    outcome = CommitResult(Tally(folded=1), Checkpoint(1, BLOB, 1.0), BLOB, None, metrics)
    outcome = replace(outcome, tripped=verdict.tripped, compared=verdict.compared, worsened=verdict.worsened)
    return commit(closed, outcome, now=2.0)


def chain(*losses: float | None, guards: Guards = WORSENING) -> list[Verdict]:
    """Judges rounds one after the other; a loss of None is that of a round without examples."""
    verdicts: list[Verdict] = []
    parent: Committed | None = None
    for loss in losses:
        values = {"count": 0} if loss is None else {"loss": np.float64(loss), "count": 4}
        verdicts.append(judge(guards, parent=parent, **values))
        is_finite = loss is not None and np.isfinite(loss)
        parent = committed(verdicts[-1], **({LOSS: loss} if is_finite and loss is not None else {}))
    return verdicts


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64])
def test_state_that_becomes_non_finite_trips(bad: float, dtype: type) -> None:
    base = {"w": np.zeros((2, 3), dtype), "n": np.int64(1)}
    state = {"w": np.zeros((2, 3), dtype), "n": np.int64(2)}
    assert judge(base=base, state=state).tripped == ()
    state["w"][1, 1] = bad
    assert judge(base=base, state=state).tripped == ("non_finite",)
    assert judge(Guards(non_finite=False), base=base, state=state).tripped == ()


def test_value_that_was_non_finite_in_the_base_does_not_trip() -> None:
    base = {"best_loss": np.array([np.inf, 1.0])}
    assert judge(base=base, state={"best_loss": np.array([np.inf, 0.5])}).tripped == ()
    assert judge(base=base, state={"best_loss": np.array([np.inf, np.nan])}).tripped == ("non_finite",)
    assert judge(base={"best": np.array(np.inf)}, state={"best": np.array(np.inf)}).tripped == ()


def test_non_finite_metric_trips_unless_it_describes_no_data() -> None:
    assert judge(loss=np.float32("nan"), count=4).tripped == ("non_finite",)
    # A mean over no examples
    assert judge(loss=np.float32("nan"), count=0).tripped == ("no_examples",)


def test_result_without_examples_trips() -> None:
    zero = {"loss": np.float32(0), "count": np.int64(0), "client_work/train/num_batches": np.int64(0)}
    assert judge(**zero).tripped == ("no_examples",)
    assert judge(Guards(no_examples=False), **zero).tripped == ()
    # A second group has examples.
    assert judge(**{**zero, "client_work/eval/num_examples": np.int64(3)}).tripped == ()
    assert judge(total=np.int64(0)).tripped == (), "a computation that counts no examples"


def test_metric_that_gets_worse_several_rounds_in_a_row_trips() -> None:
    verdicts = chain(1.0, 2.0, 3.0, 4.0)
    assert [verdict.worsened for verdict in verdicts] == [0, 1, 2, 3]
    assert [verdict.tripped for verdict in verdicts] == [(), (), (), ("worsening",)]


def test_count_starts_again_after_the_guard_has_tripped() -> None:
    assert [verdict.worsened for verdict in chain(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)] == [0, 1, 2, 3, 1, 2]


def test_equal_or_better_value_ends_the_count() -> None:
    assert [verdict.worsened for verdict in chain(1.0, 2.0, 2.0, 3.0, 2.5)] == [0, 1, 0, 1, 0]


def test_higher_may_be_better() -> None:
    guards = Guards(worsening=WorseningGuard(metric=LOSS, rounds=2, better="higher"))
    verdicts = chain(0.9, 0.8, 0.7, guards=guards)
    assert [verdict.tripped for verdict in verdicts] == [(), (), ("worsening",)]


def test_round_without_a_value_changes_nothing() -> None:
    assert [verdict.worsened for verdict in chain(1.0, 2.0, None, 9.0, 10.0)] == [0, 1, 1, 1, 2]


def test_value_that_is_not_finite_is_worse_than_any() -> None:
    guards = Guards(non_finite=False, worsening=WorseningGuard(metric=LOSS, rounds=2))
    verdicts = chain(1.0, np.nan, np.nan, guards=guards)
    assert [verdict.tripped for verdict in verdicts] == [(), (), ("worsening",)]


def test_count_of_another_metric_or_direction_is_not_continued() -> None:
    parent = committed(chain(1.0, 2.0, 3.0)[-1], **{LOSS: 3.0, "other": 1.0})
    other = Guards(worsening=WorseningGuard(metric="other", rounds=3))
    assert judge(other, parent=parent, loss=4.0, other=2.0).worsened == 1
    higher = Guards(worsening=WorseningGuard(metric=LOSS, rounds=3, better="higher"))
    assert judge(higher, parent=parent, loss=2.0).worsened == 1


def test_reason_names_each_guard_and_the_metric() -> None:
    text = describe(("non_finite", "worsening"), WORSENING.worsening)
    assert "NaN or infinity (guard non_finite)" in text
    assert f"{LOSS} got worse 3 rounds in a row (guard worsening)" in text
