"""Tests of the ledger: which updates a shard's next manifest and a round's closing count."""

from __future__ import annotations

import pytest

from muster_coordinator.domain.ledger import AgeLimit, Closing, Manifest, ShardContents, close_ledger


@pytest.mark.parametrize(
    ("manifests", "stored", "updates", "can_fold"),
    [
        ([], "", 0, False),
        ([], "a", 1, False),
        ([], "ab", 2, True),  # a full chunk
        (["ab"], "", 2, False),  # folded, and deleted
        (["ab"], "b", 2, True),  # its fold crashed between two deletes
        (["ab"], "c", 3, False),
        (["ab"], "cd", 4, True),
        (["ab", "cd"], "e", 5, False),
    ],
)
def test_shard_can_fold_if_a_chunk_is_full_or_half_done(manifests, stored, updates, can_fold):
    contents = ShardContents(tuple(Manifest(tuple(names)) for names in manifests), frozenset(stored))
    assert contents.updates == updates
    assert contents.can_fold(chunk=2) is can_fold


def contents(manifests, created):
    return ShardContents(tuple(manifests), frozenset(created), created)


@pytest.mark.parametrize(
    ("manifests", "created", "expected"),
    [
        ([], {"a": 0.0}, None),  # a single update, with no partial to continue
        ([], {"a": 50.0, "b": 60.0}, None),  # no update is too old
        ([], {"a": 0.0, "b": 99.0}, Manifest(("a", "b"))),
        ([], {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}, Manifest(("a", "b", "c"))),  # a full chunk has priority
        ([Manifest(("x", "y"))], {"a": 0.0}, Manifest(("a",), onto=0)),
        ([Manifest(("x", "y"))], {"a": 0.0, "b": 0.0}, Manifest(("a", "b"))),  # together more than a chunk
        ([Manifest(("x", "y", "z"))], {"a": 0.0}, Manifest(("a",), onto=0)),
        ([Manifest(("x", "y")), Manifest(("z",), onto=0)], {"a": 0.0}, Manifest(("a",), onto=1)),
        ([Manifest(("v", "w")), Manifest(("x", "y", "z"))], {"a": 0.0}, Manifest(("a",), onto=0)),
        ([Manifest(("x", "y"), onto=None), Manifest((), sealed=True)], {"a": 0.0}, None),
        ([Manifest(("a", "b"))], {"a": 0.0}, None),  # a repeated update
        ([], {"a": 500.0, "b": 500.0}, Manifest(("a", "b"))),  # stored before the clock was set back
        ([], {"a": 100.5, "b": 100.5}, None),  # another instance's clock is a little ahead
    ],
)
def test_old_updates_fold_together_or_onto_an_earlier_partial(manifests, created, expected):
    limit = AgeLimit(60.0, now=100.0)
    assert contents(manifests, created).next(chunk=3, limit=limit) == expected
    assert expected == contents(manifests, created).next(chunk=3) or expected is None or len(expected.updates) < 3


def test_closing_omits_superseded_parts():
    shard = [Manifest(("a", "b")), Manifest(("c",), onto=0), Manifest(("d", "e")), Manifest(("f",), onto=1)]
    closing = close_ledger([shard, []], ["g"], chunk=3)
    assert closing == Closing((4, 0), (("g",),), "0000-000003", 7, ("0000-000000", "0000-000001"))
    assert closing.parts() == ("0000-000002", "rest-000000")


@pytest.mark.parametrize(
    ("manifests", "expected"),
    [
        ([Manifest(("x", "y"))], Manifest(("a", "b"), onto=0)),
        ([Manifest(("x", "y")), Manifest(("z",), onto=0)], Manifest(("a", "b"), onto=1)),  # three and two
        ([Manifest(("w", "x", "y")), Manifest(("z",), onto=0)], Manifest(("a", "b"))),  # four and two: too many
    ],
)
def test_old_updates_continue_a_partial_with_room_for_all(manifests, expected):
    limit = AgeLimit(60.0, now=100.0)
    assert contents(manifests, {"a": 0.0, "b": 0.0}).next(chunk=5, limit=limit) == expected


@pytest.mark.parametrize(("created", "due"), [(40.0, True), (40.1, False), (160.0, True), (159.9, False)])
def test_update_is_due_at_the_limit(created, due):
    limit = AgeLimit(60.0, now=100.0)
    assert limit.due([created]) is due
    shard = contents([Manifest(("x",))], {"a": created})
    assert shard.can_fold(chunk=3, limit=limit) is due
