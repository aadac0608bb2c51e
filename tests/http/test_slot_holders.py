"""A client holds one slot of a round, at any number of instances, and despite crashes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from support.costs import counted
from support.faults import Crash, Fault, FaultyDocuments, Schedule, When
from support.harness import SECRET, Harness
from support.plans import sum_update
from werkzeug.test import Client
from werkzeug.wrappers import Request

from muster.wire.messages import Assignment, CheckinRequest, CheckinResponse, Wait, WaitReason
from muster_coordinator.domain import names, slots
from muster_coordinator.domain.slots import Ticket
from muster_coordinator.http import router
from muster_coordinator.state.slot_holders import HeldSlot, SlotHolders
from muster_coordinator.tokens import SKEW, Tokens

CAP = 20


def taken(h):
    """Returns the number of taken slots according to the counters."""
    return sum(slots.assigned(document.data) for document in h.inner.documents.list(names.tickets_path(h.key())))


def claims(h, answer):
    return h.app.tokens.read_assignment(answer.token, now=h.clock.now())


def instances(h, number):
    """Instances over the same stores."""
    clients = [Client(Request.application(router(h.application()))) for _ in range(number)]

    def checkin(instance, client):
        body = CheckinRequest(client=str(client)).encode()
        response = clients[instance].post("/v1/populations/phones:checkin", data=body)
        assert response.status_code == 200, response.data
        return CheckinResponse.decode(response.data).answer

    return checkin


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("cache_seconds", [0.0, 1.0])
def test_concurrent_check_ins_of_one_client_take_one_slot(tmp_path, shards, cache_seconds):
    h = Harness(tmp_path, durable=True, cache_seconds=cache_seconds)
    h.begin(goal=CAP, rounds=1, shards=shards)
    checkin, start = instances(h, 4), threading.Barrier(8)

    def ask(at):
        start.wait()
        return [checkin(at % 4, "one") for _ in range(6)]

    with ThreadPoolExecutor(8) as pool:
        answers = [answer for responses in pool.map(ask, range(8)) for answer in responses]
    assigned = [answer for answer in answers if isinstance(answer, Assignment)]
    # While a losing check-in returns its slot, the counter may be full; that client retries.
    assert {answer.reason for answer in answers if isinstance(answer, Wait)} <= {WaitReason.ROUND_FULL}
    assert len({answer.token for answer in assigned}) == 1
    assert taken(h) == 1
    assert len(h.inner.documents.list(names.holders_path(h.key()))) == 1
    others = [checkin(number % 4, number) for number in range(2 * CAP)]
    assert sum(isinstance(answer, Assignment) for answer in others) >= CAP - 1 - shards  # of a cached read
    h.clock.advance(2)
    others += [checkin(number % 4, 100 + number) for number in range(2 * CAP)]
    assert sum(isinstance(answer, Assignment) for answer in others) == CAP - 1


def test_cap_is_exact_under_concurrent_check_ins(tmp_path):
    h = Harness(tmp_path, durable=True)
    h.begin(goal=CAP, rounds=1)
    checkin, start = instances(h, 4), threading.Barrier(10)

    def ask(thread):
        start.wait()
        return [(client, checkin((thread + client) % 4, client)) for client in range(thread, 50, 5) for _ in range(2)]

    with ThreadPoolExecutor(10) as pool:  # two threads for each client
        answers = [answer for responses in pool.map(lambda at: ask(at % 5), range(10)) for answer in responses]
    answers += [(client, checkin(0, client)) for client in range(50) for _ in range(2)]
    held = {}
    for client, answer in answers:
        if isinstance(answer, Assignment):
            held.setdefault(client, set()).add(answer.token)
    assert len(held) == CAP
    assert all(len(tokens) == 1 for tokens in held.values())
    assert taken(h) == CAP


def test_repeated_check_in_gets_the_same_assignment(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=1, minimum=2, assignment_seconds=100)
    first = h.assigned(0)
    assert (first.seconds, first.goal, first.minimum) == (100, 2, 2)
    h.clock.advance(60)
    again = h.assigned(0)
    assert (again.token, again.expires_at, again.seconds) == (first.token, first.expires_at, 40)
    h.clock.advance(40)
    new = h.assigned(0)
    assert (
        claims(h, new).ticket.interval
        > Tokens(SECRET).read_assignment(first.token, now=h.clock.now() - 41).ticket.interval
    )
    assert (new.seconds, taken(h)) == (100, 2)  # the old slot is freed a quarter later, as usual
    h.clock.advance(30)
    assert h.assigned(1).status == "assigned"
    assert h.assigned(0).token == new.token


def test_client_that_is_done_gets_no_second_slot(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=9, rounds=1, assignment_seconds=100)
    h.upload(h.assigned(0).token, sum_update(0))
    h.report(h.assigned(1).token)
    for _ in range(2):
        for client in (0, 1):
            assert h.checkin(client).reason is WaitReason.ALREADY_IN
        h.clock.advance(101)


def test_slot_of_a_folded_update_is_not_reassigned(tmp_path):
    """Its update's blob is gone; without a cookie it gets its old slot, and counts once."""
    h = Harness(tmp_path)
    h.begin(goal=4, rounds=1, chunk=2)
    first = [h.assigned(client) for client in (0, 1)]
    for client, answer in enumerate(first):
        h.upload(answer.token, sum_update(client))
    h.deliver_all()
    assert h.blobs("updates/") == []
    assert h.assigned(0).token == first[0].token
    assert taken(h) == 2


@pytest.mark.parametrize("when", When)
@pytest.mark.parametrize("write", range(3))
def test_crash_during_check_in_costs_at_most_one_slot(tmp_path, write, when):
    """The writes of a check-in: the round's key, the ticket, the holder."""
    schedule = Schedule()
    h = Harness(tmp_path, wrap=lambda inner: replace(inner, documents=FaultyDocuments(inner.documents, schedule)))
    h.begin(goal=3, rounds=1, assignment_seconds=100)
    fault = Fault(len(schedule.writes) + 1 + write, when)
    schedule._faults[fault.of, fault.number, fault.when] = fault.error
    with pytest.raises(Crash):
        h.checkin(0)
    h.restart()
    assert h.assigned(0).token == h.assigned(0).token
    lost = (write, when) in ((1, When.AFTER), (2, When.BEFORE))
    assert taken(h) == 1 + lost
    assert [h.checkin(client).status for client in (1, 2)] == ["assigned", "wait" if lost else "assigned"]
    for client in (0, 1):
        h.upload(h.assigned(client).token, sum_update(client))
    h.clock.advance(126)  # the lost slot is free again
    h.upload(h.assigned(2).token, sum_update(2))
    h.deliver_all()
    assert int(h.result(1)["ids"]) == 0b111
    assert h.leftovers() == []


def test_full_round_checks_one_holder_per_cached_read(tmp_path):
    schedule = Schedule()
    h = Harness(tmp_path, cache_seconds=1.0, wrap=lambda platform: counted(platform, schedule))
    h.begin(goal=3, rounds=1)
    tokens = [h.assigned(client).token for client in range(3)]
    h.restart()
    assert h.assigned(1).token == tokens[1]  # at another instance
    assert h.assigned(2).token == tokens[2]  # a slot's holder costs no lookup
    assert h.checkin("idle").reason is WaitReason.ROUND_FULL
    schedule.calls.clear()
    assert [h.checkin(client).reason for client in ("idle", "other", 1)] == [WaitReason.ROUND_FULL] * 3
    assert sum(schedule.calls.values()) == 0
    h.clock.advance(1)
    assert h.assigned(1).token == tokens[1]


def test_round_of_an_earlier_version_gives_no_second_slot(tmp_path):
    """The earlier version recorded no holders."""
    h = Harness(tmp_path)
    h.begin(goal=3, rounds=1)
    h.inner.documents.create(
        names.pseudonym_key_path(h.key()), {"key": h.app.assignment_issuer.pseudonyms.ring.newest.fingerprint}
    )
    h.upload(h.assigned(0).token, sum_update(0))
    for holder in h.inner.documents.list(names.holders_path(h.key())):
        h.inner.documents.delete(holder.path)
    h.restart()
    assert h.checkin(0).reason is WaitReason.ALREADY_IN
    assert taken(h) == 1


def test_slot_of_another_time_is_not_valid():
    held = HeldSlot(Ticket(0, 1), issued_at=1000.0)
    valid = {now: held.is_valid(now, assignment_seconds=100) for now in (999 - SKEW, 1000 - SKEW, 1000, 1099.9, 1100)}
    assert list(valid.values()) == [False, True, True, True, False]


def test_first_of_two_records_of_a_client_is_valid(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3)
    holders, key = SlotHolders(h.inner.documents), h.key()
    life = {"assignment_seconds": 100.0}
    one, two = (HeldSlot(Ticket(counter, 40), issued_at=1000.0) for counter in (0, 1))
    assert holders.record(key, "a" * 32, one, before=None, now=1000.0, **life) is one
    stands = holders.record(key, "a" * 32, two, before=None, now=1001.0, **life)
    assert (stands.ticket, stands.issued_at) == (one.ticket, one.issued_at)
    # Once it has expired, one of two replacements is valid.
    before = holders.find(key, "a" * 32, **life)
    three, four = (HeldSlot(Ticket(counter, 80), issued_at=2000.0) for counter in (2, 3))
    assert holders.record(key, "a" * 32, three, before=before, now=2000.0, **life) is three
    assert holders.record(key, "a" * 32, four, before=before, now=2000.0, **life).ticket == three.ticket
