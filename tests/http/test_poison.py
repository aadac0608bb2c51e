"""Extreme values in accepted requests and stored documents never break a list."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.harness import POPULATION, TASK, Harness
from support.plans import sum_update

from muster.wire.messages import AuditList, CheckpointList, RevocationList, RoundList, TaskList
from muster.wire.tensors import encode
from muster.wire.times import LATEST
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey

LISTS = [
    "/v1/tasks",
    f"/v1/tasks/{TASK}",
    f"/v1/tasks/{TASK}/rounds",
    f"/v1/tasks/{TASK}/checkpoints",
    "/v1/revocations",
    "/v1/audit",
]

# Values at the limits of the schema, and beyond them.

_NUMBERS = st.one_of(
    st.sampled_from(
        [
            0,
            1,
            -1,
            2**31,
            2**53 + 1,
            2**63,
            2**64,
            10**30,
            -(10**30),
            10**400,
            0.5,
            5e-324,
            -0.0,
            1e-300,
            1e15,
            1e300,
            1.7e308,
        ]
    ),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(),
    st.floats(),
)
_OFFSETS = st.sampled_from(["Z", "+00:00", "-12:00", "+14:00", "+23:59", "-23:59", ""])
_MOMENTS = st.one_of(
    st.sampled_from(
        [
            "0001-01-01T00:00:00",
            "1969-12-31T23:59:59",
            "1970-01-01T00:00:00",
            "8999-12-31T23:59:59",
            "9000-01-01T00:00:00",
            "9999-12-31T23:59:59",
        ]
    ),
    st.datetimes().map(datetime.isoformat),
)
_TIMES = st.builds(lambda moment, offset: moment + offset, _MOMENTS, _OFFSETS)
_GOOD_TIMES = st.builds(
    lambda moment, offset: moment + offset,
    st.one_of(
        st.sampled_from(["1970-01-02T00:00:00", "8999-12-30T00:00:00"]),
        st.datetimes(datetime(1970, 1, 2), datetime(8999, 12, 30)).map(datetime.isoformat),  # noqa: DTZ001  the offset is added
    ),
    _OFFSETS.filter(bool),
)
_TEXTS = st.one_of(st.text(max_size=300), st.sampled_from(["", "\0", "x" * 257, "../..", "\u202e", "\U0010ffff"]))
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS, _TIMES),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


def _either(good, bad=_JSON):
    """Mostly values of the declared type, so that many messages are accepted."""
    return st.one_of(*[good] * 11, bad)


_ENDS = {
    "rounds": [1, 1_000_000],
    "goal": [1, 2, 10_000_000],
    "minimum": [1],
    "over_selection": [1.0, 10.0, 1 + 2**-52],
    "round_seconds": [1.0, 30 * 86400.0],
    "assignment_seconds": [1.0, 86400.0],
    "chunk": [2, 10_000],
    "shards": [1, 1000],
    "interval_seconds": [0.0, 5e-324, 366 * 86400.0],
    "separation_seconds": [0.0, 5e-324, 366 * 86400.0],
    "max_update_norm": [5e-324, 1.7e308],
    "max_update_age": [1.0, 30 * 86400.0],
    "graph_seconds": [0.001, 3000.0],
}
_POLICIES = st.fixed_dictionaries(
    {},
    optional={
        **{field: _either(st.sampled_from(ends), _NUMBERS) for field, ends in _ENDS.items()},
        "starts_at": _either(_GOOD_TIMES, _TIMES),
        "allow_non_finite": _either(st.booleans()),
        "clip": _either(st.booleans()),
    },
).map(lambda policy: {**policy, "clip": policy.get("clip", False) if "max_update_norm" in policy else False})
_IDS = st.text("0123456789abcdef", min_size=32, max_size=32)
_REVOCATIONS = st.fixed_dictionaries({"id": _either(_IDS)}, optional={"expires_at": _either(_GOOD_TIMES, _TIMES)})
_CHECKINS = st.fixed_dictionaries({}, optional={"client": _either(_TEXTS), "cookie": _either(_TEXTS)})
_REPORTS = st.fixed_dictionaries(
    {"reason": _either(st.sampled_from(["data", "other"]))}, optional={"detail": _either(_TEXTS)}
)
_STARTS = st.fixed_dictionaries({"size": _either(_NUMBERS), "crc32c": _either(st.just("AAAAAA=="))})
_ROLLBACKS = st.fixed_dictionaries({"version": _either(st.just(0), _NUMBERS)})
_OTHERS = st.tuples(_REVOCATIONS, _CHECKINS, _REPORTS, _STARTS, _ROLLBACKS)


def check_lists(h, name=TASK):
    """Reads every list and all its pages; `Harness.call` fails on a 500."""
    for path in dict.fromkeys([*LISTS, *(path.replace(TASK, name) for path in LISTS)]):
        for query in ("", "?limit=1") if path.endswith(("rounds", "audit")) else ("",):
            response = h.call("GET", path + query)
            assert response.status_code in (200, 404), (path, response.data)
            json.loads(response.data, parse_constant=pytest.fail)  # NaN and infinity are not valid JSON


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    h = Harness(tmp_path_factory.mktemp("poison"))
    h.begin(goal=3, rounds=50, over_selection=10.0)
    return h


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(policy=_POLICIES, others=_OTHERS)
def test_accepted_messages_never_break_a_list(shared, policy, others):
    h, revocation, checkin, report, start, rollback = shared, *others
    name = f"t{len(h.inner.documents.list('tasks'))}"
    spec = {"name": name, "population": name, "plan": h.plan.sha256, "policy": policy}
    made = h.call("POST", "/v1/tasks", body=json.dumps(spec).encode())
    assert made.status_code in (201, 400)
    if made.status_code == 201:
        assert h.call("POST", "/v1/tasks", body=json.dumps(spec).encode()).status_code == 201  # a repeat
        h.deliver_all()
        for verb in ("pause", "resume"):
            assert h.call("POST", f"/v1/tasks/{name}:{verb}").status_code == 200
        answer = json.loads(h.ask("POST", f"/v1/populations/{name}:checkin", body=json.dumps({"client": "c"}).encode()))
        token = answer["answer"].get("token")
        if token is not None:
            h.call("POST", "/v1/updates:start", body=json.dumps(start).encode(), token=token)
            h.call("POST", "/v1/updates:report", body=json.dumps(report).encode(), token=token)
        answer = json.loads(h.ask("POST", f"/v1/populations/{name}:checkin", body=json.dumps({"client": "d"}).encode()))
        if "token" in answer["answer"]:
            h.call("PUT", "/v1/updates", body=encode(sum_update(1)), token=answer["answer"]["token"])
        h.tick()
    h.call("POST", f"/v1/populations/{POPULATION}:checkin", body=json.dumps(checkin).encode())
    h.call("POST", "/v1/revocations", body=json.dumps(revocation).encode())
    h.call("POST", f"/v1/tasks/{name}:rollback", body=json.dumps(rollback).encode())
    check_lists(h, name)
    if made.status_code == 201:
        h.deliver_all()
        assert h.call("POST", f"/v1/tasks/{name}:cancel").status_code in (200, 409)
        check_lists(h, name)


def test_task_that_starts_at_the_maximum_time_is_listed(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    h.create_task(starts_at=LATEST - timedelta(seconds=1), round_seconds=30 * 86400.0, interval_seconds=366 * 86400.0)
    h.deliver_all()
    check_lists(h)
    assert h.operate("cancel").status.value == "cancelled"
    check_lists(h)


@pytest.mark.parametrize("never", ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00", "9000-01-01T00:00:00Z"])
def test_unreachable_start_time_is_refused_with_advice(tmp_path, never):
    h = Harness(tmp_path)
    h.put_plan()
    spec = {"name": "a", "population": "a", "plan": h.plan.sha256, "policy": {"starts_at": never}}
    for path, message in (("/v1/tasks", spec), ("/v1/revocations", {"id": "1" * 32, "expires_at": never})):
        response = h.call("POST", path, json=message)
        assert response.status_code == 400
        assert b"leave it out" in response.data
    check_lists(h)


def replace(h, path, change):
    document = h.inner.documents.get(path)
    h.inner.documents.replace(path, change(json.loads(json.dumps(document.data))), version=document.version)
    h.restart()


def test_documents_of_an_earlier_version_are_listed(tmp_path):
    """The earlier version accepted such times: year 9999, no offset, before the year 1."""
    h = Harness(tmp_path)
    h.begin()
    h.call("POST", "/v1/revocations", json={"id": "1" * 32, "expires_at": "2030-01-01T00:00:00Z"})

    def starts_at(text):
        def change(data):
            data["spec"]["policy"]["starts_at"] = text
            return data

        return change

    def deadline(data):
        data["terms"].update(deadline=2.6e11, opened_at=1e300)
        return data

    def expires_at(seconds):
        def change(data):
            data["tokens"]["1" * 32]["expires_at"] = seconds
            return data

        return change

    replace(h, names.round_path(RoundKey(TASK, 1, 0)), deadline)
    for text in ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00", "2026-01-01T00:00:00", "0001-01-01T00:00:00"):
        replace(h, names.task_path(TASK), starts_at(text))
        check_lists(h)
        (task,) = TaskList.decode(h.ask("GET", "/v1/tasks")).tasks
        assert task.spec.policy.starts_at.utcoffset() is not None
        assert task.current.deadline == LATEST
    naive = TaskList.decode(h.ask("GET", "/v1/tasks"))
    assert naive.unreadable == ()
    for seconds in (253402300799.0 + 12 * 3600, -62135647200.0, 1e300):
        replace(h, names.REVOCATIONS, expires_at(seconds))
        check_lists(h)
        assert len(RevocationList.decode(h.ask("GET", "/v1/revocations")).revocations) == 1
        assert h.call("POST", "/v1/revocations", json={"id": "1" * 32}).status_code == 200  # a repeat
    assert h.call("POST", "/v1/revocations", json={"id": "2" * 32}).status_code == 200
    assert h.operate("cancel").status.value == "cancelled"


def test_stored_start_time_without_offset_is_utc(tmp_path):
    h = Harness(tmp_path)
    h.begin()

    def change(data):
        data["spec"]["policy"]["starts_at"] = "2026-01-01T00:00:00"
        return data

    replace(h, names.task_path(TASK), change)
    assert h.record().spec.policy.starts_at == datetime(2026, 1, 1, tzinfo=UTC)


def test_stored_durations_near_zero_do_not_block_check_ins(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3)

    def change(data):
        data["terms"].update(assignment_seconds=5e-324)
        return data

    replace(h, names.round_path(RoundKey(TASK, 1, 0)), change)
    assert h.call("POST", f"/v1/populations/{POPULATION}:checkin", json={"client": "c"}).status_code == 200
    check_lists(h)


@pytest.mark.parametrize("seconds", [5e-324, 1e-9, 0.5, 0.999])
def test_durations_near_zero_are_refused(tmp_path, seconds):
    """They would keep the queue busy; slots are counted in fractions of an assignment's life."""
    h = Harness(tmp_path)
    h.put_plan()
    spec = {"name": "a", "population": "a", "plan": h.plan.sha256}
    for field in ("round_seconds", "assignment_seconds"):
        response = h.call("POST", "/v1/tasks", json={**spec, "policy": {field: seconds}})
        assert response.status_code == 400
        assert b"at least 1 second" in response.data


BROKEN = {
    "newer": lambda data: {**data, "schema_version": 2},
    "no version": lambda data: {key: value for key, value in data.items() if key != "schema_version"},
    "other fields": lambda _: {"schema_version": 1, "odd": True},
    "other types": lambda data: {**data, **{key: ["odd"] for key in data if key != "schema_version"}},
}


@pytest.mark.parametrize("broken", BROKEN)
def test_unreadable_document_hides_no_other_document(tmp_path, broken):
    h = Harness(tmp_path)
    h.begin(goal=1, rounds=4)
    for client in range(3):
        h.upload(h.assigned(client).token, sum_update(client))
        h.settle()
    h.call("POST", "/v1/revocations", json={"id": "1" * 32})
    h.operate("pause")
    rounds = RoundList.decode(h.ask("GET", f"/v1/tasks/{TASK}/rounds"))
    entries = [entry.id for entry in h.inner.documents.list(names.AUDIT)]
    assert len(rounds.rounds) == 4
    assert len(entries) >= 8
    second = RoundKey(TASK, 2, 0)
    replace(h, names.round_path(second), BROKEN[broken])
    replace(h, names.audit_path(entries[2]), BROKEN[broken])
    replace(h, names.audit_path(entries[5]), BROKEN[broken])
    check_lists(h)

    page = RoundList.decode(h.ask("GET", f"/v1/tasks/{TASK}/rounds"))
    assert [round_.round for round_ in page.rounds] == [1, 3, 4]
    assert page.unreadable == (second.id,)
    checkpoints = CheckpointList.decode(h.ask("GET", f"/v1/tasks/{TASK}/checkpoints"))
    assert [checkpoint.version for checkpoint in checkpoints.checkpoints] == [
        0,
        1,
        2,
        3,
    ]  # the third round names the second checkpoint
    assert checkpoints.unreadable == (second.id,)
    for number in (1, 3):
        assert h.result(number)

    log = AuditList.decode(h.ask("GET", "/v1/audit"))
    assert log.unreadable == (entries[2], entries[5])
    assert len(log.entries) == len(entries) // 2 - 1
    assert [entry.result for entry in log.entries].count("unknown") == 1
    paged, after = [], ""
    while True:
        page = AuditList.decode(h.ask("GET", f"/v1/audit?limit=1{after}"))
        paged += [*page.entries, *page.unreadable]
        if page.next is None:
            break
        after = f"&after={page.next}"
    assert [item for item in paged if isinstance(item, str)] == list(log.unreadable)
    assert [item for item in paged if not isinstance(item, str)] == list(log.entries)

    seen, after = [], ""
    while True:
        page = RoundList.decode(h.ask("GET", f"/v1/tasks/{TASK}/rounds?limit=1{after}"))
        seen += [*(RoundKey(TASK, item.round, item.epoch).id for item in page.rounds), *page.unreadable]
        if page.next is None:
            break
        after = f"&after={page.next}"
    assert seen == [RoundKey(TASK, number, 0).id for number in (1, 2, 3, 4)]
