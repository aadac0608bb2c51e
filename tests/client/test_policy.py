"""Policy files: rules, defaults and fault descriptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from muster.client import BudgetRules, ClientPolicy, Limits, PolicyFileError
from muster.client.policy_rules import RULES
from muster.wire.manifest import FoldKind
from muster.wire.signatures import SigningKey

EXAMPLE = Path(__file__).parents[2] / "examples" / "clients" / "ward.toml"
ADDRESS = "0123456789abcdef" * 4


def load(folder: Path, text: str) -> ClientPolicy:
    file = folder / "ward.toml"
    file.write_text(text)
    return ClientPolicy.load(file)


def test_empty_policy_allows_everything(tmp_path: Path) -> None:
    assert load(tmp_path, "") == ClientPolicy()
    assert ClientPolicy().limits == Limits()


def test_example_policy_is_valid_and_has_every_rule() -> None:
    policy = ClientPolicy.load(EXAMPLE)
    assert policy.model_fields_set == set(ClientPolicy.model_fields)
    assert policy.budget is not None
    assert policy.budget.model_fields_set == set(BudgetRules.model_fields)
    assert policy.folds == (FoldKind.SUM,)
    assert policy.minimum == 10


def test_every_rule_has_a_description_and_an_example() -> None:
    for model in (ClientPolicy, BudgetRules):
        for name, field in model.model_fields.items():
            assert field.description, name
            assert field.examples, name


def test_policy_with_byte_order_mark_and_crlf_is_read(tmp_path: Path) -> None:
    file = tmp_path / "ward.toml"
    file.write_bytes(b'\xef\xbb\xbfminimum = 3\r\nfolds = ["sum"]\r\n')
    assert ClientPolicy.load(file).minimum == 3


def test_repeated_addresses_and_keys_are_merged(tmp_path: Path) -> None:
    key = SigningKey.generate().signer
    policy = load(tmp_path, f'plans = ["{ADDRESS}", "{ADDRESS.upper()}"]\nsigners = ["{key}", "{key}"]')
    assert policy.plans == (ADDRESS,)
    assert policy.signers == (key,)


def test_relative_budget_file_is_relative_to_the_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    policy = load(tmp_path / "etc", '[budget]\nper_day = 1\nfile = "spent"')
    monkeypatch.chdir(tmp_path)
    assert policy.budget is not None
    assert policy.budget.path == tmp_path / "etc" / "spent"


def test_default_budget_file_is_in_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = BudgetRules(per_day=1)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "unit"))
    assert rules.path == tmp_path / "unit" / "budget"
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setattr("muster.client.policy.sys.platform", "linux")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert rules.path == tmp_path / "state" / "muster" / "budget"
    monkeypatch.setattr("muster.client.policy.sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert rules.path == tmp_path / "local" / "muster" / "budget"


FAULTS = {
    'minimum = "ten"': 'minimum = "ten" is not a whole number. Write, for example: minimum = 10',
    "minimum = 0": "minimum = 0 is below 1",
    "minimum = true": "minimum = true is not a whole number",
    "minimum = 10.0": "minimum = 10.0 is not a whole number",
    "minimum = [1]": "minimum = [1] is not a whole number",
    "mininum = 3": "mininum is not a rule of a policy. Do you mean minimum?",
    "nonsense = 1": "nonsense is not a rule of a policy. The rules are plans, signers,",
    'plans = ["c9a370f4…"]': "is not a full plan address",
    "plans = []": "plans = [] is empty; leave the rule out to allow everything",
    f'plans = "{ADDRESS}"': "is not a list in brackets",
    "plans = [3]": "plans = 3 is not a text in quotes",
    'folds = ["sum", "avg"]': 'folds = "avg" is not one of',
    'kinds = ["spy"]': 'kinds = "spy" is not one of',
    "clear_secure_sums = 1": "clear_secure_sums = 1 is neither true nor false",
    'string_tensors = "false"': "is neither true nor false",
    'signers = ["alice"]': 'signers = "alice" is not a public key',
    "signers_required = 2": "signers_required = 2 is more than the 0 different keys in signers",
    "max_seconds = inf": "max_seconds = inf is not a finite number",
    "max_seconds = 0": "max_seconds = 0 is not above 0",
    "update_bytes_per_data_byte = nan": "is not a finite number",
    "max_update_bytes = 1.5": "is not a whole number",
    "[budget]\nper_day = -1": "budget.per_day = -1 is below 0",
    "[budget]\nper_dai = 1": "budget.per_dai is not a rule of [budget]. Do you mean per_day?",
    '[budget]\nfile = "x"': "sets no limit",
    "[budget]\nseparation_hours = true": "budget.separation_hours = true is not a number",
    "[budget]": "sets no limit",
    "budget = 3": "budget = 3 is not a section",
    "minimum = ": "is not valid TOML: Invalid value",
    "minimum = 1\nminimum = 2": "is not valid TOML",
}


@pytest.mark.parametrize("text", FAULTS)
def test_fault_names_file_key_reason_and_fix(tmp_path: Path, text: str) -> None:
    with pytest.raises(PolicyFileError) as caught:
        load(tmp_path, text)
    shown = str(caught.value)
    assert str(tmp_path / "ward.toml") in shown
    assert FAULTS[text] in shown
    assert "pydantic" not in shown
    assert "\n" not in shown


def test_every_fault_is_listed(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError) as caught:
        load(tmp_path, "minimum = 0\ngaol = 3\n[budget]\nper_day = -1")
    assert [line.partition(": ")[2].split()[0] for line in str(caught.value).splitlines()] == [
        "minimum",
        "budget.per_day",
        "gaol",
    ]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_policy_is_named(tmp_path: Path, content: Any) -> None:
    file = tmp_path / "ward.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PolicyFileError, match=r"ward\.toml"):
        ClientPolicy.load(file)


def test_stricter_limit_applies() -> None:
    policy = ClientPolicy(max_update_bytes=100, max_seconds=5.0)
    limits = Limits(max_update_bytes=50, max_download_bytes=7, max_seconds=9.0)
    assert policy.limits.stricter(limits) == Limits(max_download_bytes=7, max_update_bytes=50, max_seconds=5.0)
    assert Limits(max_update_bytes=0).stricter(Limits()) == Limits(max_update_bytes=0)


def test_rule_names_are_policy_keys() -> None:
    assert {"policy.minimum", "policy.budget.per_day", "policy.budget", "limits.max_seconds"} <= RULES
    assert all(name.replace(".", "").replace("_", "").isalpha() for name in RULES)
