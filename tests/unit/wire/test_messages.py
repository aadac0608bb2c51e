"""Messages and problems: strict, deterministic, with every bad field reported."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from muster.wire import manifest, messages, signatures  # noqa: F401  defines models
from muster.wire.base import Message, WireModel
from muster.wire.problems import STATUS, FieldError, Problem, ProblemError, ProblemType

KINDS = [kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, Message)]
SPEC = messages.TaskSpec(
    name="a", population="p", plan="0" * 64, policy=messages.TaskPolicy(starts_at="2026-01-01T00:00:00Z")
)
BYTES = SPEC.encode()


def models(base):
    for model in base.__subclasses__():
        yield model
        yield from models(model)


@pytest.mark.parametrize("model", [*models(WireModel), Problem, FieldError], ids=lambda model: model.__name__)
def test_model_and_every_field_are_described(model):
    assert model.__doc__
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_message_round_trip():
    assert messages.TaskSpec.decode(BYTES) == SPEC
    assert messages.TaskSpec.from_dict(SPEC.to_dict()) == SPEC
    assert messages.TaskSpec.decode(BYTES).encode() == BYTES


def test_every_bad_field_is_reported_with_its_path():
    bad = {"name": "A b", "plan": 3, "policy": {"goal": "many", "shards": 0, "nope": 1}, "more": None}
    with pytest.raises(ProblemError) as error:
        messages.TaskSpec.from_dict(bad)
    expected = {"name", "population", "plan", "policy.goal", "policy.shards", "policy.nope", "more"}
    assert {field.path for field in error.value.fields} == expected
    assert error.value.type is ProblemType.INVALID_REQUEST
    assert "and 2 more" in error.value.detail


@pytest.mark.parametrize(("goal", "over", "cap"), [(10, 1.0, 10), (10, 1.25, 13), (3, 1.1, 4), (1, 10.0, 10)])
def test_cap_is_goal_times_over_selection_rounded_up(goal, over, cap):
    assert messages.TaskPolicy(goal=goal, over_selection=over).cap == cap


@pytest.mark.parametrize(
    "field", ["round_seconds", "assignment_seconds", "interval_seconds", "separation_seconds", "over_selection"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_duration_must_be_finite_and_positive(field, value):
    with pytest.raises(ProblemError) as error:
        messages.TaskPolicy.from_dict({field: value})
    assert {item.path for item in error.value.fields} == {field}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(BYTES) - 1), st.integers(0, 255), st.integers(0, len(BYTES)))
def test_changed_bytes_are_read_or_refused_with_a_problem(at, byte, end):
    data = bytearray(BYTES)
    data[at] = byte
    for piece in (bytes(data), bytes(data[:end])):
        for kind in KINDS:
            try:
                assert isinstance(kind.decode(piece), kind)
            except ProblemError as problem:
                assert problem.fields  # noqa: PT017
                Problem.model_validate_json(problem.to_problem().model_dump_json())


@pytest.mark.parametrize("kind", ProblemType)
def test_problem_round_trip(kind):
    error = ProblemError(kind, "What, why and how.", fields=(FieldError(path="a.b", reason="bad"),), retry_after=2.5)
    document = error.to_problem().model_dump_json(exclude_none=True)
    decoded = ProblemError.from_problem(Problem.model_validate_json(document))
    assert vars(decoded) == vars(error)
    assert decoded.status == STATUS[kind] >= 400
    assert str(decoded) == f"What, why and how. [{kind.value}]"


def test_unknown_problem_type_becomes_internal():
    unknown = Problem(type="https://muster.dev/problems/new", title="New", status=418, detail="New.")
    assert ProblemError.from_problem(unknown).type is ProblemType.INTERNAL


def test_unknown_fields_and_reasons_of_a_response_are_ignored() -> None:
    newer = b'{"answer": {"status": "wait", "reason": "full_moon", "retry_after": 1.5, "until": "dawn"}, "more": 1}'
    answer = messages.CheckinResponse.decode(newer).answer
    assert isinstance(answer, messages.Wait)
    assert (answer.reason, answer.retry_after) == (messages.WaitReason.OTHER, 1.5)
