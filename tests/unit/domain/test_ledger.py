"""The ledger's arithmetic over names."""

from __future__ import annotations

import pytest

from coordinator.domain.ledger import Manifest, ShardContents


@pytest.mark.parametrize(
    ("manifests", "stored", "updates", "can_fold"),
    [
        ([], "", 0, False),
        ([], "a", 1, False),
        ([], "ab", 2, True),  # a full chunk
        (["ab"], "", 2, False),  # folded, and deleted
        (["ab"], "b", 2, True),  # its fold died between two deletes
        (["ab"], "c", 3, False),
        (["ab"], "cd", 4, True),
        (["ab", "cd"], "e", 5, False),
    ],
)
def test_a_shard_can_be_folded_where_a_chunk_is_full_or_was_left_half_done(manifests, stored, updates, can_fold):
    contents = ShardContents(tuple(Manifest(tuple(names)) for names in manifests), frozenset(stored))
    assert contents.updates == updates
    assert contents.can_fold(chunk=2) is can_fold
