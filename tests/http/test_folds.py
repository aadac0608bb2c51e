"""The fold of updates that reached the store past the coordinator: the bad ones drop out and leave no trace."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from support.harness import Harness
from support.plans import SumRuntime, folded_by_graphs, sum_plan, sum_update

from muster.wire.tensors import encode
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.domain import names


class CountedBlobs(DirectoryBlobs):
    """Counts how often each update is read."""

    def __init__(self, root):
        super().__init__(root)
        self.reads = Counter()

    def read(self, name, **options):
        if "updates/" in name:
            self.reads[name] += 1
        return super().read(name, **options)


class PassingRuntime(SumRuntime):
    """Graphs that hand back the memory of the first update, which TensorFlow may do with what it is fed."""

    def accumulate(self, accumulator, update, *, only, **_):
        assert only == set(accumulator)
        return update if accumulator["count"] == 0 else {name: accumulator[name] + update[name] for name in only}

    def merge(self, left, right, *, only, **_):
        return {name: left[name] + right[name] for name in only}


def fold(root, values, **options):
    """The result, the tally and the reads of a round with an update for each of `values`, stored and not looked at."""
    blobs = CountedBlobs(root / "blobs")
    h = Harness(root, wrap=lambda platform: replace(platform, blobs=blobs), **options)
    h.begin(rounds=1, goal=len(values), minimum=1, shards=1)
    for at, value in enumerate(values):
        claims = h.app.tokens.read_assignment(h.assigned(at).token, now=h.clock.now())
        name = names.update_name(claims.key, claims.shard, claims.pseudonym)
        blobs.create(name, [encode(sum_update(at, value))])
    h.clock.advance(100_000)
    h.settle()
    (ended,) = h.committed()
    return h.result(1), ended.tally, blobs.reads


def test_updates_that_are_finite_are_read_once(tmp_path):
    result, tally, reads = fold(tmp_path, [1.0, 2.0, 4.0])
    assert result["value"].tolist() == [7, 7, 7]
    assert (tally.folded, tally.dropped) == (3, {})
    assert set(reads.values()) == {1}


@pytest.mark.parametrize(
    "bad", [(np.nan,), (np.inf,), (np.inf, -np.inf)], ids=["NaN", "infinity", "infinities that cancel"]
)
def test_updates_that_are_not_finite_are_dropped_and_leave_no_trace(bad, tmp_path):
    result, tally, _ = fold(tmp_path, [1.0, *bad, 4.0])
    assert result["value"].tolist() == [5, 5, 5]
    assert int(result["ids"]) == 1 | 1 << (1 + len(bad))
    assert (tally.folded, tally.dropped) == (2, {"update_not_finite": len(bad)})


def test_a_sum_that_overflows_keeps_every_update(tmp_path):
    result, tally, reads = fold(tmp_path, [3e38, 3e38])
    assert np.isinf(result["value"]).all()
    assert (tally.folded, tally.dropped) == (2, {})
    assert set(reads.values()) == {2}


def test_an_accumulator_may_be_the_memory_of_an_update(tmp_path):
    result, tally, _ = fold(tmp_path, [1.0, 2.0, 4.0], plan=folded_by_graphs(sum_plan()), runtime=PassingRuntime())
    assert result["value"].tolist() == [7, 7, 7]
    assert (tally.folded, tally.dropped) == (3, {})
