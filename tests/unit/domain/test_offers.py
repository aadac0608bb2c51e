"""Offers of tasks to a client: weighted order, eligibility, and the reason of a wait."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest

from muster.wire.messages import CheckinRequest, TaskPolicy, WaitReason
from muster.wire.messages.policy_parts import EligibilityRule
from muster.wire.problems import ProblemError
from muster_coordinator.adapters.system import SeededRandomness
from muster_coordinator.domain.offers import Refusal, in_weighted_order, is_eligible, most_urgent

HUGE = 10**400  # beyond the range of a float


def first_shares(weights, *, draws=10_000, seed=0):
    """Returns the share of draws in which each item is first."""
    uniform = SeededRandomness(seed).uniform
    items = range(len(weights))
    first = Counter(
        in_weighted_order(items, weight=weights.__getitem__, uniform=uniform)[0] for _ in range(draws)
    )  # fmt: skip
    return [first[item] / draws for item in items]


def test_weights_of_99_to_1_offer_one_percent():
    production, experiment = first_shares([99, 1])
    assert experiment == pytest.approx(0.01, abs=0.003)
    assert production + experiment == 1


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 2, 7], [1e6, 1e-6], [1e-9, 1e-9]])
def test_first_item_is_in_proportion_to_its_weight(weights):
    expected = [weight / sum(weights) for weight in weights]
    assert first_shares(weights) == pytest.approx(expected, abs=0.015)


def test_order_is_that_of_drawing_without_replacement():
    weights = {"a": 1.0, "b": 2.0, "c": 7.0}
    uniform = SeededRandomness(1).uniform
    orders = Counter(
        tuple(in_weighted_order(list(weights), weight=weights.__getitem__, uniform=uniform)) for _ in range(20_000)
    )
    for order in permutations(weights):
        one, two, three = (weights[item] for item in order)
        expected = one / 10 * two / (two + three)
        assert orders[order] / 20_000 == pytest.approx(expected, abs=0.012), order


def test_one_task_needs_no_draw_and_several_one_each():
    draws = []

    def uniform():
        draws.append(0.0)
        return 0.0

    assert in_weighted_order(["a"], weight=lambda _: 1.0, uniform=uniform) == ["a"]
    assert not draws
    assert in_weighted_order(["a", "b", "c"], weight=lambda _: 1.0, uniform=uniform) == ["a", "b", "c"]
    assert len(draws) == 3


# op, values, attribute (None: not stated), admitted
ELIGIBILITY = [
    ("exists", (), "de", True),
    ("exists", (), False, True),
    ("exists", (), None, False),
    ("in", ("de", "fr"), "de", True),
    ("in", ("de", "fr"), "DE", False),
    ("in", ("de",), None, False),
    ("in", (1,), 1.0, True),
    ("in", (1,), True, False),
    ("in", (True,), True, True),
    ("in", (True,), 1, False),
    ("in", ("1",), 1, False),
    ("not_in", ("de",), "fr", True),
    ("not_in", ("de",), "de", False),
    ("not_in", ("de",), None, True),
    ("not_in", (0,), False, True),
    ("gte", (4,), 4, True),
    ("gte", (4,), 3.9, False),
    ("gte", (4,), "5", False),
    ("gte", (4,), True, False),
    ("gte", (4,), None, False),
    ("gte", (4,), float("nan"), False),
    ("gte", (4,), HUGE, True),
    ("lte", (4.5,), 4, True),
    ("lte", (4.5,), 5, False),
    ("lte", (4.5,), -HUGE, True),
    ("lte", (HUGE,), 1.0, True),
    ("version_gte", ("2.10",), "2.10.0", True),
    ("version_gte", ("2.10",), "2.9.9", False),
    ("version_gte", ("2.10",), "2.10.1-beta", False),
    ("version_gte", ("2.10",), 2.1, False),
    ("version_gte", ("2.10",), None, False),
    ("version_gte", ("2.10",), "3", True),
    ("version_lt", ("3",), "2.99.99", True),
    ("version_lt", ("3",), "3.0.0", False),
    ("version_lt", ("3",), "", False),
    ("version_lt", ("3",), None, False),
    ("version_lt", ("3.0.1",), "3", True),
]


@pytest.mark.parametrize(("op", "values", "stated", "admitted"), ELIGIBILITY)
def test_eligibility_rule(op, values, stated, admitted):
    rule = EligibilityRule(key="key", op=op, values=values)
    assert rule.admits({} if stated is None else {"key": stated}) is admitted


def test_client_satisfies_every_rule_or_is_not_eligible():
    rules = ({"key": "app", "op": "version_gte", "values": ("2",)}, {"key": "site", "op": "in", "values": ("a", "b")})
    policy = TaskPolicy.from_dict({"eligibility": rules})
    assert is_eligible(policy, {"app": "2.1", "site": "b"})
    assert not is_eligible(policy, {"app": "2.1", "site": "c"})
    assert not is_eligible(policy, {"app": "1.9", "site": "a"})
    assert not is_eligible(policy, {})
    assert is_eligible(TaskPolicy(), {})


@pytest.mark.parametrize(
    "rule",
    [
        {"op": "exists", "values": [1]},
        {"op": "in"},
        {"op": "gte", "values": [1, 2]},
        {"op": "gte", "values": ["1"]},
        {"op": "lte", "values": [True]},
        {"op": "version_gte", "values": ["v2"]},
        {"op": "version_lt", "values": [2]},
        {"op": "matches", "values": [".*"]},
        {"op": "in", "values": [[1]]},
        {"op": "exists", "key": "App"},
    ],
)
def test_rule_that_makes_no_sense_is_refused(rule):
    with pytest.raises(ProblemError, match="eligibility"):
        TaskPolicy.from_dict({"eligibility": [{"key": "app", **rule}]})


def test_attributes_keep_their_json_types():
    body = b'{"attributes":{"debug":true,"ram_gb":4,"load":0.5,"app_version":"2.10"}}'
    attributes = CheckinRequest.decode(body).attributes
    assert [type(value) for value in attributes.values()] == [bool, int, float, str]
    assert CheckinRequest(client="a").encode() == b'{"client":"a"}'  # older coordinators refuse the field


@pytest.mark.parametrize(
    "attributes",
    [{"App": 1}, {"a": [1]}, {"a": {"b": 1}}, {"a": "x" * 129}, {"a": None}, {f"a{n}": n for n in range(33)}],
)
def test_attributes_are_few_flat_and_short(attributes):
    with pytest.raises(ProblemError, match="attributes"):
        CheckinRequest.from_dict({"attributes": attributes})


def test_wait_has_the_reason_that_ends_soonest():
    refusals = [
        Refusal(WaitReason.NOT_ELIGIBLE, 1.0),
        Refusal(WaitReason.OUTSIDE_WINDOW, 60.0),
        Refusal(WaitReason.OUTSIDE_WINDOW, 30.0),
        Refusal(WaitReason.TASK_PAUSED, 2.0),
    ]
    assert most_urgent(refusals) == Refusal(WaitReason.OUTSIDE_WINDOW, 30.0)
    assert most_urgent([*refusals, Refusal(WaitReason.RESERVED, 50.0)]).reason is WaitReason.RESERVED


def test_every_reason_has_an_urgency():
    known = [Refusal(reason, 1.0) for reason in WaitReason if reason is not WaitReason.OTHER]
    assert most_urgent(known).reason is WaitReason.ROUND_FULL
