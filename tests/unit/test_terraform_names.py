"""Agreement of the Terraform modules with the code, and resources that no module may declare."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from muster_coordinator.domain import names

TERRAFORM = Path(__file__).parents[2] / "infra" / "terraform"


def _sources() -> list[Path]:
    return [path for path in sorted(TERRAFORM.rglob("*.tf")) if ".terraform" not in path.parts]


def _documents() -> list[str]:
    """Returns the paths of documents in the table of the module's docstring."""
    table = (names.__doc__ or "").partition("Documents:")[2].partition("Blobs:")[0]
    return re.findall(r"^(\w+/\S+) ", table, re.MULTILINE)


def test_every_collection_is_exempt_from_indexes() -> None:
    variables = (TERRAFORM / "modules" / "state" / "variables.tf").read_text()
    listed = re.search(r'variable "collections" \{.*?default += \[(.*?)\]', variables, re.DOTALL)
    assert listed
    exempt = set(re.findall(r'"(\w+)"', listed[1]))

    used = {part for path in _documents() for part in path.split("/")[::2]}

    assert {"tasks", "rounds", "tickets", "shards", "populations", "sweeps"} <= used
    assert used <= exempt


@pytest.mark.parametrize("kind", ["google_service_account_key", "google_storage_hmac_key", "google_storage_object_acl"])
def test_no_module_creates_keys_or_acls(kind: str) -> None:
    assert _sources()
    assert not [path for path in _sources() if kind in path.read_text()]


def test_no_policy_or_binding_revokes_roles_of_others() -> None:
    # `…_iam_member` adds one member. `…_iam_binding` and `…_iam_policy` revoke a role, or all
    # roles, of all others. One exception revokes those that Google grants to the project's Editors
    # and Viewers on the buckets of updates and partials, who would read them otherwise. The other
    # is the whole policy of the state's bucket, which the same example creates for itself alone.
    found = [
        (path.relative_to(TERRAFORM).as_posix(), *match)
        for path in _sources()
        for match in re.findall(r'^resource "(\w+_iam_(?:binding|policy))" "(\w+)"', path.read_text(), re.MULTILINE)
    ]
    assert found == [
        ("examples/ci/main.tf", "google_storage_bucket_iam_policy", "state"),
        ("modules/identity/main.tf", "google_storage_bucket_iam_binding", "closed"),
    ]


def test_the_only_whole_policy_is_of_a_bucket_made_beside_it() -> None:
    text = (TERRAFORM / "examples/ci/main.tf").read_text()
    block = text.partition('resource "google_storage_bucket_iam_policy" "state" {')[2].partition("\n}")[0]
    assert re.search(r"^ +bucket +\= google_storage_bucket\.state\.name$", block, re.MULTILINE)
    assert 'resource "google_storage_bucket" "state" {' in text


def test_the_only_bindings_are_of_updates_and_partials() -> None:
    text = (TERRAFORM / "modules/identity/main.tf").read_text()
    block = text.partition('resource "google_storage_bucket_iam_binding" "closed" {')[2].partition("\n}")[0]
    assert 'setproduct(["updates", "partials"], keys(local.closed_roles))' in block


@pytest.mark.parametrize("kind", ["alert_policy", "dashboard", "slo", "uptime_check_config"])
def test_only_the_module_of_monitoring_declares_queries(kind: str) -> None:
    # tests/infra/test_monitoring.py parses the queries and policies of this module alone.
    declaration = f'resource "google_monitoring_{kind}"'
    found = {path.relative_to(TERRAFORM).parent for path in _sources() if declaration in path.read_text()}
    assert found == {Path("modules/monitoring")}
