"""Options of a task's policy: windows, eligibility rules, guards and retention as text."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from muster.cli.task.arguments import selector_of
from muster.cli.task.policy_options import _TYPES, rule_of, window_of, with_policy_options, worsening_of
from muster.wire.messages import EligibilityRule, TaskPolicy, Window, WorseningGuard


def policy_from(**options: Any) -> dict[str, Any]:
    received: list[dict[str, Any]] = []

    def command(*, policy: dict[str, Any]) -> None:
        received.append(policy)

    parameters = with_policy_options(command).__signature__.parameters  # type: ignore[attr-defined]
    with_policy_options(command)(**{**dict.fromkeys(parameters), **options})
    return received[0]


def test_every_field_of_a_policy_has_an_option() -> None:
    parts = {"windows", "eligibility", "guards", "retention"}
    assert {*_TYPES, *parts} == set(TaskPolicy.model_fields)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("22:00-06:00", {"start": "22:00", "end": "06:00"}),
        ("sat,sun 08:00-20:00 Europe/Berlin", {"days": ("sat", "sun"), "start": "08:00", "end": "20:00"}),
        ("fri-mon 00:00-24:00", {"days": ("fri", "sat", "sun", "mon"), "start": "00:00", "end": "24:00"}),
    ],
)
def test_windows(text: str, fields: dict[str, Any]) -> None:
    zone = "Europe/Berlin" if "Berlin" in text else "UTC"
    assert Window.from_dict(window_of(text)) == Window.from_dict({**fields, "time_zone": zone})


@pytest.mark.parametrize("text", ["", "22-06", "xyz 22:00-06:00", "mon-xyz 22:00-06:00", "22:00-06:00 UTC x"])
def test_text_that_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a window such as"):
        window_of(text)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("app_version version_gte 2.10", {"key": "app_version", "op": "version_gte", "values": ("2.10",)}),
        ("locale in de, fr", {"key": "locale", "op": "in", "values": ("de", "fr")}),
        ("battery gte 0.5", {"key": "battery", "op": "gte", "values": (0.5,)}),
        ("age lte 12", {"key": "age", "op": "lte", "values": (12,)}),
        ("charging exists", {"key": "charging", "op": "exists"}),
        ("beta in true", {"key": "beta", "op": "in", "values": (True,)}),
    ],
)
def test_rules(text: str, fields: dict[str, Any]) -> None:
    assert EligibilityRule.from_dict(rule_of(text)) == EligibilityRule.from_dict(fields)


def test_rule_without_an_operation_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="is not a rule such as"):
        rule_of("charging")


def test_guards() -> None:
    guard = WorseningGuard.from_dict(worsening_of("client_work/train/accuracy:5:higher"))
    assert (guard.metric, guard.rounds, guard.better) == ("client_work/train/accuracy", 5, "higher")
    with pytest.raises(typer.BadParameter, match="neither a number of rounds"):
        worsening_of("loss:often")


def test_options_that_are_not_set_change_nothing() -> None:
    assert policy_from() == {}


def test_options_become_fields_of_a_policy() -> None:
    fields = policy_from(
        rounds=40, window=["22:00-06:00"], require=["beta in true"], keep_last=3, pause_if_worse="loss", weight=2.0
    )
    policy = TaskPolicy.from_dict(fields)
    assert (policy.rounds, policy.weight, policy.retention.last) == (40, 2.0, 3)
    assert (policy.guards.worsening.metric, policy.windows[0].start, policy.eligibility[0].key) == (
        "loss",
        "22:00",
        "beta",
    )


def test_keep_every_needs_keep_last() -> None:
    with pytest.raises(typer.BadParameter, match="needs --keep-last"):
        policy_from(keep_every=10)


def test_selectors_hold_json_or_text() -> None:
    assert selector_of(["split=test", "most=3", "of=[1,2]"]) == {"split": "test", "most": 3, "of": [1, 2]}
    assert selector_of(None) is None
    with pytest.raises(typer.BadParameter, match="is not an entry such as split=test"):
        selector_of(["split"])
