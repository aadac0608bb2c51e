"""Attempts to take more than one slot of a round."""

from __future__ import annotations

from support.plans import sum_update
from support.secured_harness import SecuredHarness

from muster.wire.messages import Wait, WaitReason
from muster_coordinator.domain import names, slots

CAP = 20


def taken(h):
    return sum(slots.assigned(document.data) for document in h.inner.documents.list(names.tickets_path(h.key())))


def test_repeated_check_ins_of_one_client_take_one_slot(tmp_path, issuer):
    h = SecuredHarness(tmp_path, issuer)
    h.begin(goal=CAP, rounds=1, minimum=CAP)
    answers = [h.assigned(0) for _ in range(50)]
    assert len({answer.token for answer in answers}) == 1
    assert taken(h) == 1
    others = [h.checkin(client) for client in range(1, CAP + 10)]
    assert sum(not isinstance(answer, Wait) for answer in others) == CAP - 1
    assert {answer.reason for answer in others if isinstance(answer, Wait)} == {WaitReason.ROUND_FULL}
    # A full round returns the slot of a client that lost its response.
    assert h.assigned(0).token == answers[0].token
    for client, answer in enumerate([answers[0], *others[: CAP - 1]]):
        h.upload(answer.token, sum_update(client))
    h.deliver_all()
    assert int(h.result(1)["count"]) == CAP
    assert h.leftovers() == []


def test_returned_slot_is_free_for_other_clients_only(tmp_path, issuer):
    h = SecuredHarness(tmp_path, issuer)
    h.begin(goal=2, rounds=1)
    token = h.assigned(0).token
    for _ in range(5):
        h.report(token)
        assert h.checkin(0).reason is WaitReason.ALREADY_IN
    assert [h.checkin(client).status for client in (1, 2, 3)] == ["assigned", "assigned", "wait"]
