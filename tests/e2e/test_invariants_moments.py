"""What comes just between two steps of another: each race that a design like this has, staged so that it always happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.faults import Access, Crash, FaultyBlobs, FaultyDocuments, Schedule, When
from support.harness import TASK, Harness
from support.plans import SumRuntime, sum_update

from muster.wire.messages import TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode
from muster_coordinator.domain import names, rounds
from muster_coordinator.domain.rounds import Abandoned, Aggregating, Collecting, Tally
from muster_coordinator.domain.tasks import cancel
from muster_coordinator.state.round_ledger import RoundLedger


class Interposed:
    """A port that runs `action` once, just before the first call of `method` on a name that starts with `prefix`."""

    def __init__(self, inner: Any, method: str, prefix: str, action: Callable[[], Any]) -> None:
        self._inner = inner
        self._method = method
        self._prefix = prefix
        self._actions = [action]

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(subject: Any, *rest: Any, **more: Any) -> Any:
            if method == self._method and self._actions and str(subject).startswith(self._prefix):
                self._actions.pop()()
            return getattr(self._inner, method)(subject, *rest, **more)

        return call


def contribute(h, *clients):
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))


def total(*clients):
    return sum(1 << client for client in clients)


def close_round(h):
    """Ends the collecting as the close does, and no more."""
    found = h.inner.round(h.key())
    h.inner.rounds.replace(found, rounds.close(found.value, now=h.clock.now()))


def test_a_manifest_that_comes_after_the_closing_is_not_made(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, chunk=2, rounds=2)
    contribute(h, 0, 1, 2)
    h.queue.held.clear()

    def freeze():
        close_round(h)
        RoundLedger(h.inner, h.key()).freeze(h.round(), Tally())

    # The fold has listed the updates and is about to make its manifest when the round closes.
    blobs = Interposed(h.inner.blobs, "create", "manifests/", freeze)
    h.application(platform=replace(h.inner, blobs=blobs)).folding.fold_shard(h.key(), 0)
    h.app.closing(h.key())
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1, 2)


def test_a_manifest_that_comes_before_the_seal_counts(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, chunk=2, rounds=2)
    contribute(h, 0, 1, 2)
    h.queue.held.clear()
    close_round(h)
    held = h.round()
    # The close is about to seal the shard when a fold that saw the round still collecting makes a manifest, folds and deletes.
    ledger = RoundLedger(h.inner, held.key)
    blobs = Interposed(h.inner.blobs, "create", "manifests/", lambda: ledger.freeze_chunk(0, chunk=2))
    h.application(platform=replace(h.inner, blobs=blobs)).closing(held.key)
    assert ledger.frozen().closing.shards == (1,)
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1, 2)


@pytest.mark.parametrize(("method", "prefix"), [("list", "updates/"), ("read", "manifests/")])
def test_updates_that_are_folded_while_the_close_counts_them_count_towards_the_minimum(method, prefix, tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=5, minimum=2, chunk=2, rounds=2, round_seconds=100)
    contribute(h, 0, 1)
    key = h.key()
    h.queue.held = [held for held in h.queue.held if held.work.kind != "fold"]
    h.clock.advance(101)
    blobs = Interposed(h.inner.blobs, method, prefix, lambda: h.app.folding.fold_shard(key, 0))
    h.application(platform=replace(h.inner, blobs=blobs)).closing(key)
    assert h.blobs("updates/") == []
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1)
    assert h.abandoned() == []


def test_an_aggregator_that_finds_its_updates_folded_by_another_lets_it_be(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=4, chunk=2, rounds=2)
    contribute(h, 0, 1)
    key = h.key()
    blobs = Interposed(h.inner.blobs, "read", "updates/", lambda: h.app.folding.fold_shard(key, 0))
    h.application(platform=replace(h.inner, blobs=blobs)).folding.fold_shard(key, 0)
    contribute(h, 2, 3)
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1, 2, 3)
    assert h.committed()[0].tally.dropped == {}


def test_an_upload_whose_round_ends_while_it_streams_is_refused_and_leaves_nothing(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, rounds=2, round_seconds=100, assignment_seconds=500)
    contribute(h, 0)
    token, body = h.assigned(1).token, bytearray(encode(sum_update(1)))
    with pytest.raises(ProblemError) as refused:
        h.app.uploads.upload(token, lambda size: late(h, body, size), length=len(body))
    assert refused.value.type is ProblemType.ROUND_CLOSED
    h.deliver_all()
    assert h.blobs("updates/") == []
    assert h.leftovers() == []


def late(h, rest, size):
    """Gives the body bit by bit; before its first bit, the round commits and is swept."""
    if h.key().number == 1:
        h.clock.advance(100)
        h.deliver_all()
        assert h.key().number == 2
    piece = bytes(rest[:size])
    del rest[:size]
    return piece


def test_an_upload_that_comes_while_its_round_is_folded_may_be_answered_but_is_not_counted(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, over_selection=2.0, rounds=2)
    slow = h.assigned(5).token
    contribute(h, 0, 1)
    body = bytearray(encode(sum_update(5)))

    def read(size: int) -> bytes:
        if isinstance(h.round(), Collecting):
            h.app.closing(h.key())
            assert isinstance(h.round(), Aggregating)
        piece = bytes(body[:size])
        del body[:size]
        return piece

    assert h.app.uploads.upload(slow, read, length=None).status == "accepted"
    h.deliver_all()
    assert int(h.result(1)["ids"]) == total(0, 1)
    assert h.leftovers() == []


def test_a_round_whose_updates_went_between_judgement_and_close_is_abandoned(tmp_path):
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


def test_the_last_upload_sent_again_after_a_crash_closes_the_round_without_a_tick(tmp_path):
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


def test_a_cancelled_task_whose_canceller_died_is_cleared_away_by_a_tick(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, chunk=2, rounds=2)
    contribute(h, 0, 1)
    h.deliver_all()
    contribute(h, 2)
    h.queue.held.clear()
    h.inner.change_task(TASK, cancel)  # and no more of what a cancel does
    assert h.blobs("partials/")
    assert h.blobs("updates/")
    h.tick()
    assert isinstance(h.round(), Abandoned)
    assert h.blobs("updates/") == h.blobs("partials/") == h.blobs("broadcasts/") == []
    assert h.leftovers() == []
    assert h.inner.documents.list(names.population_tasks_path("phones")) == []


def test_what_a_late_request_left_in_a_round_long_past_is_cleared_away_by_a_tick(tmp_path):
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


def test_a_task_that_is_cancelled_while_it_commits_gets_no_checkpoint_and_stays_cancelled(tmp_path):
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


def test_a_computation_that_fails_pauses_the_task_and_a_resume_tries_it_again(tmp_path):
    class Failing(SumRuntime):
        def report(self, accumulator, **_):  # noqa: ARG002  as the runtime has it
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


def test_a_second_rollback_while_the_first_is_under_way_wins(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=9)
    for _ in range(2):
        contribute(h, 0, 1)
        h.deliver_all()
    h.operate("rollback", version=0)
    h.queue.held.clear()
    again = [lambda: h.operate("rollback", version=1)]

    class Slow(SumRuntime):
        def prepare(self, state, **limit):
            if again:
                again.pop()()
            return super().prepare(state, **limit)

    h.application(runtime=Slow()).committing.open(TASK)
    assert h.task().status is TaskStatus.OPENING
    h.deliver_all()
    assert (h.task().status, h.round().terms.base.version) == (TaskStatus.ACTIVE, 1)
    contribute(h, 3, 4)
    h.deliver_all()
    h.settle()
    assert [round_.key.number for round_ in h.committed()] == [1, 2, 3]
    assert h.leftovers() == []
