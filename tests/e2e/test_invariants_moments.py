"""Races at chosen moments: an event happens exactly between two steps of another request.

Each test interposes one event before one store call of a close, a fold, a commit or an upload, or
starts from the state that such an interruption leaves.

A failure is: an update that is counted twice, or accepted before the close and not counted; a round
that ends with the wrong result, gets stuck, or is abandoned without need; obsolete data that no
sweep or tick deletes.

Not a failure: an upload that is accepted during the aggregation and not counted, and work that is
done twice.

Out of scope: interleavings that no test names (`test_invariants_races` and the simulation in
`test_invariants` search for them), and more than one interruption per request.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.faults import Access, Crash, FaultyBlobs, FaultyDocuments, Interposed, Schedule, When
from support.harness import TASK, Harness
from support.plans import SumRuntime, sum_update

from muster.wire.messages import TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode
from muster_coordinator.domain import names, rounds
from muster_coordinator.domain.rounds import Abandoned, Aggregating, Collecting
from muster_coordinator.domain.tally import Tally
from muster_coordinator.domain.tasks import cancel
from muster_coordinator.state.round_ledger import RoundLedger


def contribute(h, *clients):
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))


def total(*clients):
    return sum(1 << client for client in clients)


def close_round(h):
    """Ends the collecting phase like a close that died right after."""
    record = h.inner.round(h.key())
    h.inner.rounds.replace(record, rounds.close(record.value, now=h.clock.now()))


def test_fold_after_the_freeze_creates_no_manifest(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, chunk=2, rounds=2)
    contribute(h, 0, 1, 2)
    h.queue.held.clear()

    def freeze():
        close_round(h)
        RoundLedger(h.inner, h.key()).freeze(h.round(), Tally())

    # The round closes after the fold has listed the updates and before it creates its manifest.
    blobs = Interposed(h.inner.blobs, "create", "manifests/", freeze)
    h.application(platform=replace(h.inner, blobs=blobs)).update_aggregator.fold_shard(h.key(), 0)
    h.app.round_closer.close(h.key())
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1, 2)


def test_manifest_created_before_the_seal_is_counted(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, chunk=2, rounds=2)
    contribute(h, 0, 1, 2)
    h.queue.held.clear()
    close_round(h)
    closed = h.round()
    # A fold that read the round while it collected creates a manifest right before the close seals
    # the shard.
    ledger = RoundLedger(h.inner, closed.key)
    blobs = Interposed(h.inner.blobs, "create", "manifests/", lambda: ledger.freeze_chunk(0, chunk=2))
    h.application(platform=replace(h.inner, blobs=blobs)).round_closer.close(closed.key)
    assert ledger.frozen().closing.shards == (1,)
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1, 2)


@pytest.mark.parametrize(("method", "prefix"), [("list", "updates/"), ("read", "manifests/")])
def test_updates_folded_during_the_close_count_towards_the_minimum(method, prefix, tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=5, minimum=2, chunk=2, rounds=2, round_seconds=100)
    contribute(h, 0, 1)
    key = h.key()
    h.queue.held = [held for held in h.queue.held if held.work.kind != "fold"]
    h.clock.advance(101)
    blobs = Interposed(h.inner.blobs, method, prefix, lambda: h.app.update_aggregator.fold_shard(key, 0))
    h.application(platform=replace(h.inner, blobs=blobs)).round_closer.close(key)
    assert h.blobs("updates/") == []
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1)
    assert h.abandoned() == []


def test_fold_stops_if_another_aggregator_has_folded_its_updates(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=4, chunk=2, rounds=2)
    contribute(h, 0, 1)
    key = h.key()
    blobs = Interposed(h.inner.blobs, "read", "updates/", lambda: h.app.update_aggregator.fold_shard(key, 0))
    h.application(platform=replace(h.inner, blobs=blobs)).update_aggregator.fold_shard(key, 0)
    contribute(h, 2, 3)
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1, 2, 3)
    assert h.committed()[0].tally.dropped == {}


def test_upload_is_refused_and_deleted_if_its_round_ends_meanwhile(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, rounds=2, round_seconds=100, assignment_seconds=500)
    contribute(h, 0)
    token, body = h.assigned(1).token, bytearray(encode(sum_update(1)))
    with pytest.raises(ProblemError) as refused:
        h.app.upload_receiver.upload(token, lambda size: read_after_commit(h, body, size), length=len(body))
    assert refused.value.type is ProblemType.ROUND_CLOSED
    h.deliver_all()
    assert h.blobs("updates/") == []
    assert h.leftovers() == []


def read_after_commit(h, body, size):
    """Reads the body. The round commits and is swept before the first read."""
    if h.key().number == 1:
        h.clock.advance(100)
        h.deliver_all()
        assert h.key().number == 2
    piece = bytes(body[:size])
    del body[:size]
    return piece


def test_upload_during_the_aggregation_is_accepted_and_not_counted(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, over_selection=2.0, rounds=2)
    slow = h.assigned(5).token
    contribute(h, 0, 1)
    body = bytearray(encode(sum_update(5)))

    def read(size: int) -> bytes:
        if isinstance(h.round(), Collecting):
            h.app.round_closer.close(h.key())
            assert isinstance(h.round(), Aggregating)
        piece = bytes(body[:size])
        del body[:size]
        return piece

    assert h.app.upload_receiver.upload(slow, read, length=None).status == "accepted"
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1)
    assert h.leftovers() == []


def test_round_is_abandoned_if_updates_vanish_before_the_freeze(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, minimum=2, rounds=2)
    contribute(h, 0, 1)
    close_round(h)
    h.inner.blobs.delete(h.blobs("updates/")[:1])
    h.deliver_all()
    (abandoned,) = h.abandoned()
    assert abandoned.reason == "1 updates were stored at the close; the minimum is 2"
    assert not [name for name in h.blobs("partials/") if "-0000/" in name]
    assert h.runtime.reported == []


def test_repeated_last_upload_closes_the_round_after_a_crash(tmp_path):
    for after in ("blobs.create updates/", "documents.increment tasks/sum/rounds/000001-0000/shards"):
        schedule = Schedule()
        h = Harness(
            tmp_path / after[:5],
            wrap=lambda inner, schedule=schedule: replace(
                inner, documents=FaultyDocuments(inner.documents, schedule), blobs=FaultyBlobs(inner.blobs, schedule)
            ),
        )
        h.begin(goal=2, rounds=2)
        contribute(h, 0)
        token = h.assigned(1).token
        first = len(schedule.writes)
        number = first + (1 if after.startswith("blobs") else 2)
        schedule._faults[Access.WRITE, number, When.AFTER] = Crash
        with pytest.raises(Crash):
            h.upload(token, sum_update(1))
        assert schedule.writes[number - 1].startswith(after)
        h.restart()
        h.deliver_all()
        assert h.committed() == []
        assert h.upload(token, sum_update(1)).status == "accepted"
        h.deliver_all()
        assert int(h.result(1)["ids"]) == total(0, 1)


def test_tick_completes_an_interrupted_cancel(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, chunk=2, rounds=2)
    contribute(h, 0, 1)
    h.deliver_all()
    contribute(h, 2)
    h.queue.held.clear()
    h.inner.change_task(TASK, cancel)  # only the first step of a cancel
    assert h.blobs("partials/")
    assert h.blobs("updates/")
    h.tick()
    assert isinstance(h.round(), Abandoned)
    assert h.blobs("updates/") == h.blobs("partials/") == h.blobs("broadcasts/") == []
    assert h.leftovers() == []
    assert h.inner.documents.list(names.population_tasks_path("phones")) == []


def test_tick_deletes_late_blobs_of_an_old_round(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=9)
    for _ in range(6):
        contribute(h, 0, 1)
        h.deliver_all()
    old = names.RoundKey(TASK, 1, 0)
    for name in (names.update_name(old, 0, "f" * 32), names.partial_name(old, "0000-000000")):
        h.inner.blobs.create(name, [b"late"])
    assert len(h.leftovers()) == 2
    h.tick()
    assert h.leftovers() == []


def test_task_cancelled_during_a_commit_gets_no_checkpoint(tmp_path):
    runtime = SumRuntime(before_update=lambda: h.operate("cancel"))
    h = Harness(tmp_path, runtime=runtime)
    h.begin(goal=2, rounds=3)
    contribute(h, 0, 1)
    h.deliver_all()
    assert runtime.updated == 1
    assert h.task().status is TaskStatus.CANCELLED
    assert isinstance(h.round(), Abandoned)
    assert h.committed() == []
    assert {name.partition("/")[0] for name in h.blobs()} == {"plans", "checkpoints"}
    assert h.blobs("checkpoints/") == [h.round().terms.base.blob.name]


def test_failed_computation_pauses_the_task_until_it_is_resumed(tmp_path):
    class Failing(SumRuntime):
        def report(self, accumulator, **_):  # noqa: ARG002  the runtime's signature
            raise ProblemError(ProblemType.COMPUTATION_FAILED, "The plan's report failed: division by zero")

    h = Harness(tmp_path, runtime=Failing())
    h.begin(goal=2, rounds=2)
    contribute(h, 0, 1)
    h.deliver_all()
    assert h.task().status is TaskStatus.PAUSED
    assert h.task().note == "Round 1 can't be committed: The plan's report failed: division by zero"
    h.settle()
    h.runtime = SumRuntime()
    h.operate("resume")
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1)
    assert h.task().status is TaskStatus.ACTIVE


def test_second_rollback_during_the_first_wins(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=9)
    for _ in range(2):
        contribute(h, 0, 1)
        h.deliver_all()
    h.operate("rollback", version=0)
    h.queue.held.clear()
    rollbacks = [lambda: h.operate("rollback", version=1)]

    class Interrupted(SumRuntime):
        def prepare(self, state, **limit):
            if rollbacks:
                rollbacks.pop()()
            return super().prepare(state, **limit)

    h.application(runtime=Interrupted()).task_opener.open(TASK)
    assert h.task().status is TaskStatus.OPENING
    h.deliver_all()
    assert (h.task().status, h.round().terms.base.version) == (TaskStatus.ACTIVE, 1)
    contribute(h, 3, 4)
    h.deliver_all()
    h.settle()
    assert [round_.key.number for round_ in h.committed()] == [1, 2, 3]
    assert h.leftovers() == []
