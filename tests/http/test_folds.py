"""Fold of direct uploads: invalid updates are dropped without trace."""

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
    """Blobs that count the reads of each update."""

    def __init__(self, root):
        super().__init__(root)
        self.reads = Counter()

    def read(self, name, **options):
        if "updates/" in name:
            self.reads[name] += 1
        return super().read(name, **options)


class PassingRuntime(SumRuntime):
    """Runtime that returns the first update's memory, as TensorFlow may do with its inputs."""

    def accumulate(self, accumulator, update, *, only, **_):
        assert only == set(accumulator)
        return update if accumulator["count"] == 0 else {name: accumulator[name] + update[name] for name in only}

    def merge(self, left, right, *, only, **_):
        return {name: left[name] + right[name] for name in only}


def fold(root, values, **options):
    """Returns the result, tally and reads of a round with unchecked updates of `values`."""
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


def test_finite_updates_are_read_once(tmp_path):
    result, tally, reads = fold(tmp_path, [1.0, 2.0, 4.0])
    assert result["value"].tolist() == [7, 7, 7]
    assert (tally.folded, tally.dropped) == (3, {})
    assert set(reads.values()) == {1}


@pytest.mark.parametrize(
    "bad", [(np.nan,), (np.inf,), (np.inf, -np.inf)], ids=["NaN", "infinity", "infinities that cancel"]
)
def test_non_finite_updates_are_dropped_without_trace(bad, tmp_path):
    result, tally, _ = fold(tmp_path, [1.0, *bad, 4.0])
    assert result["value"].tolist() == [5, 5, 5]
    assert int(result["ids"]) == 1 | 1 << (1 + len(bad))
    assert (tally.folded, tally.dropped) == (2, {"update_not_finite": len(bad)})


def test_overflowing_sum_drops_no_update(tmp_path):
    result, tally, reads = fold(tmp_path, [3e38, 3e38])
    assert np.isinf(result["value"]).all()
    assert (tally.folded, tally.dropped) == (2, {})
    assert set(reads.values()) == {2}


def test_accumulator_may_reuse_an_updates_memory(tmp_path):
    result, tally, _ = fold(tmp_path, [1.0, 2.0, 4.0], plan=folded_by_graphs(sum_plan()), runtime=PassingRuntime())
    assert result["value"].tolist() == [7, 7, 7]
    assert (tally.folded, tally.dropped) == (3, {})
