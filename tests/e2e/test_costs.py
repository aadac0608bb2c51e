"""What rounds cost in calls to the stores: flat in clients, and as docs/explanation/costs.md says."""

from __future__ import annotations

from pathlib import Path

from support.costs import CLASS_A, CLASS_B, CLIENTS, DELETE, QUEUED, READ, WRITE, counted, price, round_cost, table
from support.faults import Schedule
from support.harness import Harness
from support.plans import sum_update

from muster.wire.messages import TaskStatus, WaitReason
from muster_coordinator.domain.rounds import SLOTS_FOR_A_SHARD

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "costs.md"
CLIENTS_IN_STORM, SECONDS = 2000, 4


def test_calls_are_flat_in_clients_and_documented(measured):
    costs = [round_cost(clients) for clients in CLIENTS]
    text = "\n".join([*table(costs), "", *price(costs[-1])])
    measured(f"Calls to the stores:\n{text}")
    _, some, many = costs
    # Three counters go up for a contribution, and its client's slot is recorded and deleted with the round; the round's own documents
    # do not depend on how many there are, but for the looks at several shards, some dozens of them.
    for cost in costs:
        looks = cost.billed(WRITE) - (4 * cost.clients + 5)
        assert looks == cost.calls["documents.create"] + cost.calls["documents.replace"] - cost.clients - 5
        assert looks == 0 if cost.clients <= SLOTS_FOR_A_SHARD else 0 < looks < 24
        assert cost.billed(DELETE) - cost.clients <= 6
    # One look at the round for each update that comes in, one for the slot of each client that checks in, and one when the round's
    # slots are listed to be deleted; the rest goes with time and shards.
    assert many.billed(READ) / many.clients < 4
    for operation in (CLASS_A, CLASS_B, QUEUED):
        each = [cost.billed(operation) / cost.clients for cost in (some, many)]
        assert each[1] <= 1.25 * each[0], operation
    assert text in PAGE.read_text(), f"docs/explanation/costs.md must show:\n{text}"


def test_a_storm_of_check_ins_against_a_full_round_writes_nothing_and_reads_by_the_second(tmp_path, measured):
    schedule = Schedule()
    h = Harness(tmp_path, cache_seconds=1.0, wrap=lambda platform: counted(platform, schedule))
    h.begin(goal=20, minimum=1)
    for client in range(20):
        h.assigned(client)
    schedule.calls.clear()
    schedule.writes.clear()
    for client in range(CLIENTS_IN_STORM):
        answer = h.checkin(f"idle-{client}")
        assert answer.status == "wait"
        assert answer.reason is WaitReason.ROUND_FULL
        h.clock.advance(SECONDS / CLIENTS_IN_STORM)
    reads = schedule.calls["documents.get"] + schedule.calls["documents.listed"]
    looks = schedule.calls["blobs.stat"]
    measured(
        f"{CLIENTS_IN_STORM} check-ins against a full round in {SECONDS} s: 0 writes, {reads} document reads, {looks} looks at a blob"
    )
    assert schedule.writes == []
    assert looks == 0
    # A list, the task, the round and a ticket counter, once a second.
    assert reads <= 4 * (SECONDS + 1)


def test_a_task_that_is_over_costs_a_tick_no_list_of_the_bucket(tmp_path):
    schedule = Schedule()
    h = Harness(tmp_path, wrap=lambda platform: counted(platform, schedule))
    h.begin(rounds=2, goal=1)
    for _ in range(2):
        h.upload(h.assigned(1).token, sum_update(1))
        h.deliver_all()
    assert h.task().status is TaskStatus.COMPLETED
    h.clock.advance(3 * 3600.0)
    schedule.calls.clear()
    h.tick()
    assert schedule.calls["blobs.listed"] == 2  # for all tasks together: updates and partials that nobody owns any more
    assert schedule.calls["documents.delete"] == 0
