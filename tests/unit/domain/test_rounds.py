"""Tests of a round's transitions, slots, ledger, names and pacing, as pure functions."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from muster.wire.messages import TaskPolicy
from muster_coordinator.domain import names, slots
from muster_coordinator.domain.ledger import Closing, Manifest, close_ledger, next_chunk
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.pacing import DEFAULT_LONGEST_WAIT, checkin_delay
from muster_coordinator.domain.rounds import (
    Aggregating,
    BelowMinimumError,
    BlobRef,
    Checkpoint,
    CommitResult,
    RoundDecision,
    abandon,
    close,
    commit,
    extend,
    judge,
    next_round,
    open_round,
)
from muster_coordinator.domain.tally import Tally

BLOB = BlobRef("a", "0" * 64, 1)
BASE = Checkpoint(0, BLOB, 0.0)
KEY = RoundKey("t", 3, 2)
POLICY = TaskPolicy(rounds=4, goal=4, minimum=2, over_selection=1.5, round_seconds=60, interval_seconds=100)


def collecting(key=KEY, opens_at=1000.0):
    return open_round(
        key,
        POLICY,
        plan="p",
        base=BASE,
        broadcast=BLOB,
        sums_in_the_clear=False,
        opens_at=opens_at,
        expected_seconds=None,
    )


def committed(key=KEY, folded=4, broadcast=BLOB):
    outcome = CommitResult(Tally(folded=folded), Checkpoint(key.number, BLOB, 1.0), BLOB, broadcast, {})
    return commit(close(collecting(key), now=1010.0), outcome, now=1020.0)


@pytest.mark.parametrize(
    ("updates", "assigned", "now", "decision"),
    [
        (3, 6, 1059.9, RoundDecision.CONTINUE),
        (4, 6, 1000.0, RoundDecision.AGGREGATE),
        (2, 6, 1060.0, RoundDecision.AGGREGATE),
        (1, 6, 1060.0, RoundDecision.ABANDON),
        (0, 1, 1060.0, RoundDecision.ABANDON),
        (1, 0, 1060.0, RoundDecision.ABANDON),  # the counter of assignments is only a hint
        (0, 0, 1060.0, RoundDecision.EXTEND),
        (0, 0, 0.0, RoundDecision.CONTINUE),  # the clock was set back
    ],
)
def test_decision_depends_on_updates_assignments_and_deadline(updates, assigned, now, decision):
    assert judge(collecting(), updates=updates, assigned=lambda: assigned, now=now) is decision


def test_extended_round_has_its_whole_time_again():
    later = extend(extend(collecting(), now=5000.0), now=7000.0)
    assert (later.terms.opened_at, later.terms.deadline, later.key) == (7000.0, 7060.0, KEY)


def test_commit_below_the_minimum_is_refused():
    with pytest.raises(BelowMinimumError, match="1 updates were folded, the minimum is 2"):
        committed(folded=1)
    assert committed(folded=2).phase == "COMMITTED"


def test_round_that_is_not_extensible_is_abandoned_at_its_deadline():
    after = {"assigned": lambda: 0, "now": 1e9, "extensible": False}
    assert judge(collecting(), updates=0, **after) is RoundDecision.ABANDON
    assert judge(collecting(), updates=0, **{**after, "extensible": True}) is RoundDecision.EXTEND
    assert judge(collecting(), updates=0, **{**after, "now": 0.0}) is RoundDecision.CONTINUE


def test_next_round_opens_after_the_interval():
    following = next_round(committed(), POLICY, now=1030.0)
    assert (following.key, following.terms.opened_at) == (RoundKey("t", 4, 0), 1100.0)
    assert (following.terms.base.version, following.terms.expected_seconds) == (3, 20.0)
    assert next_round(committed(), POLICY, now=2000.0).terms.opened_at == 2000.0


def test_no_round_follows_the_last_commit():
    assert next_round(committed(RoundKey("t", 4, 0)), POLICY, now=0.0) is None
    assert next_round(committed(broadcast=None), POLICY, now=0.0) is None


def test_abandoned_attempt_is_retried_at_once_from_the_same_checkpoint():
    ended = abandon(collecting(), reason="few", tally=Tally(), now=1060.0)
    again = next_round(ended, POLICY, now=1061.0)
    assert again.key == RoundKey("t", 3, 3)
    assert (again.terms.base, again.terms.broadcast, again.terms.opened_at) == (BASE, BLOB, 1061.0)
    assert isinstance(close(again, now=0.0), Aggregating)


def test_number_of_shards_follows_from_the_cap():
    many = TaskPolicy(goal=1000, over_selection=1.001)
    terms = open_round(
        KEY, many, plan="p", base=BASE, broadcast=BLOB, sums_in_the_clear=False, opens_at=0.0, expected_seconds=None
    ).terms
    assert (terms.cap, terms.shards) == (1001, 3)


@given(st.integers(0, 200), st.integers(1, 30))
def test_shares_sum_to_the_cap(cap, counters):
    shares = [slots.share(counter, cap=cap, counters=counters) for counter in range(counters)]
    assert sum(shares) == cap
    assert max(shares) - min(shares) <= 1


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data(), st.integers(1, 6), st.sampled_from([8.0, 30.0, 0.7]))
def test_outstanding_assignments_never_exceed_the_cap(data, cap, seconds):
    fields: dict[str, int] = {}
    out: list[tuple[int, float]] = []  # interval and expiry of the outstanding assignments
    now = 1000.0
    for _ in range(data.draw(st.integers(1, 40))):
        now += data.draw(st.floats(0, seconds / 2))
        limit = slots.limit(fields, 0, cap=cap, counters=1, now=now, assignment_seconds=seconds)
        out = [(interval, expiry) for interval, expiry in out if expiry > now]
        if out and data.draw(st.booleans()):
            interval, _ = out.pop(data.draw(st.integers(0, len(out) - 1)))
            failed = data.draw(st.booleans())
            added = {slots.used_field(interval): 1, **({slots.FAILED: 1} if failed else {})}
        elif slots.assigned(fields) < limit:
            interval = slots.interval_of(now, assignment_seconds=seconds)
            out.append((interval, now + seconds))
            added = {slots.ISSUED: 1, slots.issued_field(interval): 1}
        else:
            continue
        fields = {name: fields.get(name, 0) + added.get(name, 0) for name in {*fields, *added}}
        assert len(out) <= cap
    # Once all assignments have expired, the unused slots are free again.
    used = sum(count for name, count in fields.items() if name.startswith("used_"))
    limit = slots.limit(fields, 0, cap=cap, counters=1, now=now + 3 * seconds, assignment_seconds=seconds)
    assert limit - slots.assigned(fields) == cap - used + fields.get(slots.FAILED, 0)


def ledger_of(updates, chunk, shards):
    """Returns the manifests that folding makes, and the updates that are stored at the end.

    Of the folded updates some are deleted already.
    """
    manifests = [[] for _ in range(shards)]
    listed = [[] for _ in range(shards)]
    for number, shard in enumerate(updates):
        listed[shard % shards].append(f"s{shard % shards}/{number:03d}")
        counted = {name for manifest in manifests[shard % shards] for name in manifest.updates}
        full = next_chunk(listed[shard % shards], counted, chunk=chunk)
        if full is not None:
            manifests[shard % shards].append(Manifest(full))
            # All are deleted but the first, which its client has uploaded again.
            listed[shard % shards] = [name for name in listed[shard % shards] if name not in full[1:]]
    return manifests, [name for shard in listed for name in shard]


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(2, 5), st.integers(1, 4))
def test_closing_counts_each_update_once_and_never_folds_one_alone(updates, chunk, shards):
    manifests, listed = ledger_of(updates, chunk, shards)
    closing = close_ledger(manifests, listed, chunk=chunk)
    frozen = [name for shard in manifests for manifest in shard for name in manifest.updates]
    rest = [name for names_ in closing.rest for name in names_]
    assert sorted(frozen + rest) == sorted(f"s{shard % shards}/{number:03d}" for number, shard in enumerate(updates))
    assert closing.updates == len(updates)
    assert all(len(names_) <= chunk + 1 for names_ in closing.rest)
    if any(len(names_) == 1 for names_ in closing.rest):
        assert len(closing.rest) == 1
        assert (closing.onto is None) == (len(updates) == 1)
    else:
        assert closing.onto is None
    parts = closing.parts()
    assert len(parts) == len(set(parts)) == sum(closing.shards) + len(closing.rest) - (closing.onto is not None)
    assert closing.onto not in parts


def test_closing_of_an_empty_round_is_empty():
    assert close_ledger([[], []], [], chunk=2) == Closing((0, 0), (), None, 0)


@given(st.integers(1, 10**6), st.integers(0, 9999), st.integers(1, 10**6), st.integers(0, 9999))
def test_round_ids_sort_in_the_order_of_rounds(number, epoch, other_number, other_epoch):
    one, other = RoundKey("t", number, epoch), RoundKey("t", other_number, other_epoch)
    assert RoundKey.parse("t", one.id) == one
    if max(number, other_number) < 10**6:
        assert (one < other) == (one.id < other.id)


def test_round_is_parsed_from_names_of_updates_and_partials():
    for name in (names.update_name(KEY, 7, "f" * 32), names.partial_name(KEY, "rest-000000")):
        assert names.round_of(name) == KEY


def test_pseudonyms_differ_by_client_attempt_and_key():
    keys = [KEY, RoundKey("t", 3, 3), RoundKey("t", 4, 2), RoundKey("u", 3, 2)]
    pseudonyms = {
        names.pseudonym(secret, key, client) for secret in (b"a", b"b") for key in keys for client in ("x", "y")
    }
    assert len(pseudonyms) == 16
    assert all(0 <= names.shard_of(name, 5) < 5 for name in pseudonyms)


@given(st.floats(0, 1e9), st.floats(0, 0.999))
def test_wait_stays_between_floor_and_longest_wait(now, jitter):
    round_ = collecting(opens_at=1000.0)
    for open_ in (None, round_):
        assert 0.5 <= checkin_delay(open_, now=now, floor=0.5, jitter=jitter) <= DEFAULT_LONGEST_WAIT * 1.25
        assert 0.5 <= checkin_delay(open_, now=now, floor=0.5, jitter=jitter, longest=2.0) <= 2.5


def checkins(*, goal: int, knows_quiet: bool) -> int:
    """Returns the number of a client's check-ins in a round of 600 s that lacks its last update.

    Args:
      goal: The round's goal.
      knows_quiet: Whether the coordinator knows how long ago the last update arrived.
    """
    round_ = collecting(opens_at=0.0)
    round_ = replace(round_, terms=replace(round_.terms, goal=goal, cap=goal))
    now, count = 5.0, 0
    while now < 600.0:
        quiet = now - 5.0 if knows_quiet else 0.0
        now += checkin_delay(round_, now=now, floor=1.0, jitter=0.0, updates=goal - 1, quiet=quiet)
        count += 1
    return count


def test_waits_grow_while_a_round_lacks_its_last_update():
    assert checkins(goal=50, knows_quiet=False) > 200
    assert checkins(goal=50, knows_quiet=True) < 60


def test_wait_is_at_most_an_eighth_of_the_quiet_time():
    round_ = collecting(opens_at=0.0)
    for quiet in (8.0, 80.0, 400.0):
        wait = checkin_delay(round_, now=500.0, floor=0.1, jitter=0.0, updates=3, quiet=quiet)
        assert wait <= max(quiet / 8, checkin_delay(round_, now=500.0, floor=0.1, jitter=0.0, updates=3))


def test_tallies_add_up():
    one = Tally(assigned=1, failed={"data": 1}, folded=2, dropped={"missing": 1}, update_bytes=3)
    both = one.plus(Tally(reported=4, failed={"data": 1, "other": 1}))
    assert both == Tally(1, 4, {"data": 2, "other": 1}, 2, {"missing": 1}, 3)
