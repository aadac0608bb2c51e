"""Store calls of a round: constant per contribution, and as documented."""

from __future__ import annotations

from pathlib import Path

from support.costs import CLASS_A, CLASS_B, CLIENTS, DELETE, QUEUED, READ, WRITE, counted, price, round_cost, table
from support.faults import Schedule
from support.harness import Harness
from support.plans import sum_update

from muster.wire.messages import TaskStatus, WaitReason
from muster_coordinator.domain.rounds import SLOTS_PER_SHARD

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "costs.md"
CLIENTS_IN_STORM, SECONDS = 2000, 4
MAX_COUNTER_WRITES = 0.05  # a contribution


def test_calls_per_contribution_are_constant_and_documented(measured):
    costs = [round_cost(clients) for clients in CLIENTS]
    text = "\n".join([*table(costs), "", *price(costs[-1])])
    measured(f"Calls to the stores:\n{text}")
    _, medium, large = costs
    # A contribution increments three counters and records a slot, which is deleted with the round.
    # The number of the round's other documents is constant, except for the goal checks of several
    # shards, some dozens of writes.
    for cost in costs:
        goal_checks = cost.billed(WRITE) - cost.counter_writes - (4 * cost.clients + 5)
        assert goal_checks == cost.calls["documents.create"] + cost.calls["documents.replace"] - cost.clients - 5
        assert goal_checks == 0 if cost.clients <= SLOTS_PER_SHARD else 0 < goal_checks < 24
        assert cost.billed(DELETE) - cost.clients <= 6
    # An update reads the round, a check-in reads the client's slot, and the sweep lists the slot.
    # The other reads depend on time and shards.
    assert large.billed(READ) / large.clients < 4
    for operation in (CLASS_A, CLASS_B, QUEUED):
        per_client = [cost.billed(operation) / cost.clients for cost in (medium, large)]
        assert per_client[1] <= 1.25 * per_client[0], operation
    assert text in PAGE.read_text(), f"docs/explanation/costs.md must show:\n{text}"


def test_counters_of_check_ins_cost_little(measured):
    for clients in (100, 1000):
        cost = round_cost(clients)
        per_contribution = cost.counter_writes / clients
        measured(f"Counters of check-ins, round of {clients}: {per_contribution:.4f} store writes a contribution")
        assert per_contribution <= MAX_COUNTER_WRITES


def test_check_ins_against_a_full_round_write_nothing_and_read_rarely(tmp_path, measured):
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
    lookups = schedule.calls["blobs.stat"]
    measured(
        f"{CLIENTS_IN_STORM} check-ins against a full round in {SECONDS} s: 0 writes, {reads} document reads, "
        f"{lookups} blob lookups"
    )
    assert schedule.writes == []
    assert lookups == 0
    # One list, and the task, the round and a ticket counter, once a second.
    assert reads <= 4 * (SECONDS + 1)


def test_tick_lists_no_blobs_of_a_completed_task(tmp_path):
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
    # Orphaned updates and partials, for all tasks together
    assert schedule.calls["blobs.listed"] == 2
    assert schedule.calls["documents.delete"] == 0
