"""Rate limits by address and by identity, with a bounded number of buckets."""

from __future__ import annotations

import pytest
from support.harness import POPULATION, Harness, problem_of
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from muster.wire.problems import ProblemType
from muster_coordinator.domain.limits import Rate, RateLimits, TokenBuckets
from muster_coordinator.http.limits import address_of

CHECKIN = f"/v1/populations/{POPULATION}:checkin"


def harness_with(tmp_path, text, **more):
    h = Harness(tmp_path, guards=lambda _: {"rate_limits": RateLimits.parse(text), **more})
    h.begin(goal=10)
    return h


def ask(harness, client="a", *, address="192.0.2.1", **headers):
    overrides = {"REMOTE_ADDR": address}
    return harness.call("POST", CHECKIN, json={"client": client}, environ_overrides=overrides, headers=headers)


def test_limited_address_gets_retry_after(tmp_path):
    harness = harness_with(tmp_path, "address=3/m")
    assert [ask(harness).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    response = ask(harness)
    problem = problem_of(response)
    assert problem.type is ProblemType.RATE_LIMITED
    assert problem.retry_after == pytest.approx(20)
    assert response.headers["Retry-After"] == "20"
    harness.clock.advance(20)
    assert [ask(harness).status_code for _ in range(2)] == [200, 429]
    assert ask(harness, address="192.0.2.2").status_code == 200


def test_every_client_route_counts_for_an_address(tmp_path):
    harness = harness_with(tmp_path, "address=1/h")
    routes = [("PUT", "/v1/updates"), ("POST", "/v1/updates:report"), ("GET", f"/v1/plans/{'0' * 64}")]
    assert ask(harness).status_code == 200
    for method, path in routes:
        response = harness.call(method, path, environ_overrides={"REMOTE_ADDR": "192.0.2.1"})
        assert response.status_code == 429
    # Operators and other functions are not limited.
    assert harness.call("GET", "/v1/tasks", environ_overrides={"REMOTE_ADDR": "192.0.2.1"}).status_code == 200


def test_limited_identity_does_not_affect_others(tmp_path):
    harness = harness_with(tmp_path, "identity=2/m")
    assert [ask(harness, "a").status_code for _ in range(3)] == [200, 200, 429]
    assert ask(harness, "b").status_code == 200


def test_nothing_is_counted_without_limits(tmp_path):
    harness = harness_with(tmp_path, "")
    assert {ask(harness).status_code for _ in range(50)} == {200}


def test_forwarded_addresses_are_separate_and_unforgeable(tmp_path):
    harness = harness_with(tmp_path, "address=1/m", trusted_proxies=1)
    assert ask(harness, **{"X-Forwarded-For": "198.51.100.1"}).status_code == 200
    assert ask(harness, **{"X-Forwarded-For": "198.51.100.2"}).status_code == 200
    assert ask(harness, **{"X-Forwarded-For": "203.0.113.9, 198.51.100.1"}).status_code == 429


@pytest.mark.parametrize(
    ("trusted", "header", "address"),
    [
        (0, "198.51.100.1", "192.0.2.1"),
        (1, None, "192.0.2.1"),
        (1, "198.51.100.1", "198.51.100.1"),
        (1, "forged, 198.51.100.1", "198.51.100.1"),
        (2, "forged, 198.51.100.1, 10.0.0.1", "198.51.100.1"),
        (2, "10.0.0.1", "192.0.2.1"),
        (1, "198.51.100.1, ", "192.0.2.1"),
    ],
)
def test_outermost_trusted_hop_is_the_address(trusted, header, address):
    headers = {} if header is None else {"X-Forwarded-For": header}
    environ = EnvironBuilder(headers=headers, environ_overrides={"REMOTE_ADDR": "192.0.2.1"}).get_environ()
    assert address_of(Request(environ), trusted) == address


def test_ipv6_addresses_of_one_subscriber_share_a_bucket(tmp_path):
    harness = harness_with(tmp_path, "address=1/m")
    statuses = [
        ask(harness, address=address).status_code for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    ]
    assert statuses == [200, 429, 200]
    statuses = [ask(harness, address=address).status_code for address in ("192.0.2.7", "::ffff:192.0.2.7")]
    assert statuses == [200, 429]


def test_memory_is_bounded_for_any_number_of_callers():
    buckets = TokenBuckets(Rate.parse("1/m"), most=100)
    for number in range(1000):
        buckets.take(str(number), now=0.0)
    assert len(buckets) == 100
    assert buckets.take("999", now=0.0) == 60.0
    assert buckets.take("0", now=0.0) == 0.0  # forgotten


def test_clock_set_back_changes_no_bucket():
    buckets = TokenBuckets(Rate(2, 10.0))
    waits = [buckets.take("a", now=now) for now in (100.0, 50.0, 50.0, 55.0)]
    assert waits == [0.0, 0.0, 5.0, 0.0]


@pytest.mark.parametrize(
    "text", ["address", "address=60", "address=0/m", "others=1/s", "address=1/s,address=2/s", "=1/s"]
)
def test_invalid_limits_are_refused(text):
    with pytest.raises(ValueError, match=r"not a (rate|limit)"):
        RateLimits.parse(text)


def test_limits_are_parsed():
    assert RateLimits.parse("address=60/m, identity=10/h") == RateLimits(Rate(60, 60.0), Rate(10, 3600.0))
    assert RateLimits.parse("") == RateLimits()
