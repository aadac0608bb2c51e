"""Races of several processes on one round, stray deliveries, and rounds below their minimum.

Threads with separate applications over the same stores stand in for processes. A barrier starts
them at once; the operating system chooses the interleaving, so these tests search for unknown
races.

A failure is: an update or a client that is counted twice or lost, more assignments than the cap,
two commits of one round, a release below the minimum, a delivery that changes an ended round,
obsolete data at the end, or an error in any thread.

Not a failure: repeated computation, and work that is enqueued without need.

Out of scope: chosen interleavings (`test_invariants_moments`), crashes (`test_invariants_crash`),
and races of stores other than the embedded ones (`tests/contract`).
"""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from support.archive import Archive
from support.harness import START, Harness
from support.plans import SumRuntime, sum_update

from muster.wire.messages import Assignment, TaskStatus, Wait, WaitReason
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode, encode
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Aggregating
from muster_coordinator.state.round_ledger import RoundLedger


def together(*actions):
    """Runs the actions concurrently in separate threads. Raises the first error."""
    barrier = threading.Barrier(len(actions))

    def run(action):
        barrier.wait(timeout=60)
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result(timeout=60) for future in [pool.submit(run, action) for action in actions]]


def contribute(h, *clients):
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))


def total(*clients):
    return sum(1 << client for client in clients)


@pytest.mark.parametrize("attempt", range(6))
def test_concurrent_aggregators_count_each_update_once(attempt, tmp_path):
    h = Harness(tmp_path, durable=True)
    clients = range(11)
    h.begin(goal=len(clients), chunk=2, shards=1 + attempt % 3, rounds=2)
    contribute(h, *clients[:-1])
    key, others = h.key(), [h.application() for _ in range(3)]
    last = h.assigned(clients[-1])

    def fold(app):
        for shard in range(h.round(key).terms.shards):
            app.update_aggregator.fold_shard(key, shard)

    together(
        *(lambda app=app: fold(app) for app in others),
        lambda: h.upload(last.token, sum_update(clients[-1])),
    )
    together(*(lambda app=app: app.round_closer.close(key) for app in others))
    h.deliver_all()
    result = h.result(1)
    assert (int(result["ids"]), int(result["count"])) == (total(*clients), len(clients))
    h.settle()
    assert h.leftovers() == []


def test_first_of_two_commits_wins_and_the_other_leaves_no_output(tmp_path):
    noise = itertools.count(1000)
    barrier = threading.Barrier(2)
    # Each commit waits in `update` for the other, so both compute different states before either
    # writes.
    runtime = SumRuntime(noise=lambda: next(noise), before_update=lambda: barrier.wait(timeout=60))
    h = Harness(tmp_path, durable=True, runtime=runtime)
    h.begin(goal=2, rounds=2)
    contribute(h, 0, 1)
    key = h.key()
    h.app.round_closer.close(key)
    assert isinstance(h.round(key), Aggregating)
    apps = [h.application(), h.application()]
    together(*(lambda app=app: app.round_committer.commit(key) for app in apps))
    assert runtime.updated == 2
    h.deliver_all()  # the losing committer must not delete; it enqueues a sweep
    round_ = h.round(key)
    for kind, blob in (
        ("checkpoints", round_.checkpoint.blob),
        ("results", round_.result),
        ("broadcasts", round_.broadcast),
    ):
        outputs = [name for name in h.blobs(names.output_prefix(kind, key.task, 1)) if not name.endswith("open0")]
        assert outputs == [blob.name]
    state = decode(h.checkpoint(1))
    assert int(state["total"]) in (total(0, 1) + 1000, total(0, 1) + 1001)
    # The clients of the next round start from the committed state.
    assert int(decode(h.inner.blobs.read(h.round().terms.broadcast.name))["total"]) == int(state["total"])
    before = h.checkpoint(1)
    apps[0].round_committer.commit(key)
    h.deliver_all()
    assert h.checkpoint(1) == before
    assert runtime.updated == 2


def test_concurrent_check_ins_respect_the_cap(tmp_path):
    h = Harness(tmp_path, durable=True)
    h.begin(goal=10, over_selection=1.3, shards=3)
    clients = iter(range(1000))
    batches = together(*(lambda: [h.checkin(next(clients)) for _ in range(8)] for _ in range(4)))
    answers = [answer for batch in batches for answer in batch]
    assert sum(isinstance(answer, Assignment) for answer in answers) == 13
    assert {answer.reason for answer in answers if isinstance(answer, Wait)} == {WaitReason.ROUND_FULL}


def test_client_with_two_concurrent_uploads_is_counted_once(tmp_path):
    h = Harness(tmp_path, durable=True)
    h.begin(goal=2, over_selection=2.0)
    tokens = [h.assigned(0).token, h.assigned(0).token]
    receipts = together(*(lambda token=token: h.upload(token, sum_update(0)) for token in tokens))
    assert [receipt.status for receipt in receipts] == ["accepted", "accepted"]
    assert len(h.blobs("updates/")) == 1
    contribute(h, 1)
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1)


def test_work_delivered_again_after_its_round_has_no_effect(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, chunk=2, rounds=4)
    works = []
    for number in (1, 2, 3):
        for client in range(3):
            contribute(h, client)
            works += h.deliver_all()
        assert h.task().checkpoint == number
    kinds = {held.work.kind for held in works}
    assert kinds >= {"fold", "close", "commit", "sweep"}
    before = [h.checkpoint(version) for version in range(4)]
    commits = h.runtime.updated
    for held in reversed(works):
        assert h.deliver(held, keep=True) == 204
    h.settle()
    assert [h.checkpoint(version) for version in range(4)] == before
    assert h.runtime.updated == commits
    assert h.leftovers() == []


def test_work_delivered_too_early_has_no_effect(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=4, chunk=2, rounds=2)
    contribute(h, 0)
    body = {"task": "sum", "round": 1, "epoch": 0}
    for kind, fields in (
        ("commit", {}),
        ("sweep", {}),
        ("close", {}),
        ("fold", {"shard": 0}),
        ("fold", {"part": "rest-000000"}),
    ):
        assert h.call("POST", f"/internal/{kind}", json={**body, **fields}).status_code == 204
    for number, epoch in ((1, 1), (2, 0), (9, 9)):
        for kind in ("commit", "sweep", "close", "fold"):
            late = {"task": "sum", "round": number, "epoch": epoch}
            assert h.call("POST", f"/internal/{kind}", json=late).status_code == 204
    contribute(h, 1, 2, 3)
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1, 2, 3)


def test_round_below_its_minimum_is_repeated_with_new_clients(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, minimum=2, rounds=2, round_seconds=100, assignment_seconds=500)
    late = h.assigned(5)
    contribute(h, 0)
    h.clock.advance(100)
    h.deliver_all()
    (abandoned,) = h.abandoned()
    assert abandoned.reason == "1 updates arrived by the deadline; the minimum is 2"
    assert (abandoned.tally.assigned, abandoned.tally.reported) == (2, 1)
    assert (h.runtime.reported, h.runtime.updated) == ([], 0)
    assert h.leftovers() == []
    assert h.key() == names.RoundKey("sum", 1, 1)
    with pytest.raises(ProblemError, match="takes no more updates") as refused:
        h.upload(late.token, sum_update(5))
    assert refused.value.type is ProblemType.ROUND_CLOSED
    contribute(h, 1, 2, 3)
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(1, 2, 3)
    assert h.runtime.reported == [3]


def test_round_is_abandoned_if_too_few_updates_are_valid(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, minimum=2, rounds=2)
    contribute(h, 0, 1)
    (name, _) = h.blobs("updates/")
    h.inner.blobs.delete([name])
    h.inner.blobs.create(name, [encode({"ids": [1.5]})])
    h.deliver_all()
    (abandoned,) = h.abandoned()
    assert abandoned.reason == "1 updates could be folded; the minimum is 2"
    assert dict(abandoned.tally.dropped) == {"update_invalid": 1}
    assert h.runtime.reported == []
    h.settle()
    assert h.leftovers() == []


def test_round_without_check_ins_uses_up_no_attempt(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, round_seconds=100)
    for _ in range(5):
        h.clock.advance(100)
        h.deliver_all()
    assert [round_.key.epoch for round_ in h.rounds()] == [0]
    assert len(h.queue.held) == 1
    assert h.round().terms.deadline == START + 600


def test_no_partial_holds_a_single_update(tmp_path):
    for count, shards in ((2, 2), (3, 3), (5, 2), (7, 3)):
        h = Harness(tmp_path / f"{count}-{shards}")
        h.begin(goal=count, chunk=2, shards=shards, rounds=2)
        counts = {}
        for client in range(count):
            contribute(h, client)
            while h.queue.held and h.queue.held[-1].due <= h.clock.now():
                h.deliver(h.queue.held[-1])
                for name in h.blobs("partials/"):
                    counts[name] = int(decode(h.inner.blobs.read(name))["count"])
        h.deliver_all()
        assert int(h.result(1)["count"]) == count
        assert counts, "no partial was observed"
        assert min(counts.values()) >= 2


def test_late_opening_does_not_abandon_the_round_of_an_earlier_one(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    h.create_task(goal=2, rounds=2)
    prepared = []

    class Interrupted(SumRuntime):
        def prepare(self, state, **limit):
            # While this opening computes, another one opens the round, and clients upload.
            if not prepared:
                prepared.append(True)
                h.deliver_all()
                contribute(h, 0, 1)
                h.app.round_closer.close(h.key())
            return super().prepare(state, **limit)

    h.application(runtime=Interrupted()).task_opener.open("sum")
    h.deliver_all()
    assert h.abandoned() == []
    assert int(h.result(1)["ids"]) == total(0, 1)


def test_rollback_of_a_paused_commit_changes_no_checkpoint(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=5)
    contribute(h, 0, 1)
    h.operate("pause")
    h.deliver_all()
    assert h.task().checkpoint == 0 or len(h.committed()) == 1
    first = h.checkpoint(1)
    h.operate("rollback", version=0)
    h.deliver_all()
    assert h.task().status is TaskStatus.PAUSED
    h.operate("resume")
    contribute(h, 2, 3)
    h.deliver_all()
    h.settle()
    assert [round_.key.number for round_ in h.committed()] == [1, 2]
    assert h.checkpoint(1) == first
    assert int(decode(h.checkpoint(2))["total"]) == total(2, 3)


def test_update_sent_again_after_its_fold_is_not_counted_again(tmp_path):
    archive = Archive(tmp_path / "archive")
    h = Harness(tmp_path, wrap=archive.wrap)
    h.begin(goal=4, chunk=2, rounds=2)
    tokens = [h.assigned(client).token for client in range(4)]
    for client in (0, 1):
        h.upload(tokens[client], sum_update(client))
    h.deliver_all()
    assert h.blobs("updates/") == []
    assert len(h.blobs("partials/")) == 1
    for _ in range(3):
        assert h.upload(tokens[0], sum_update(0)).status == "accepted"
        h.deliver_all()
    assert h.task().current.phase.value == "COLLECTING"
    for client in (2, 3):
        h.upload(tokens[client], sum_update(client))
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1, 2, 3)
    assert RoundLedger(replace(h.inner, blobs=archive.blobs), names.RoundKey("sum", 1, 0)).frozen().closing.updates == 4
