"""The current module is planned over a deployment that the previous version made."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter

import pytest
from support import terraform
from support.google_api import FOLDER

# The module of the version before; tests/data/README.md says how it is replaced at a release.
PREVIOUS = FOLDER / "previous.tar.gz"
VARIABLES = {
    "project_id": "a-project",
    "project_number": "123456789012",
    "region": "europe-west1",
    "operators": {"me@example.org": "operator"},
    "clients": "enrolment:KEY",
    "trusted_signers": ["ed25519:" + "A" * 43],
    "signing_keys": ["k2", "k1"],
    "vpc_connector": "projects/a-project/locations/europe-west1/connectors/c",
    "domain": {"name": "fl.example.org", "dns_zone": "example-org"},
    "notification_channels": ["projects/a-project/notificationChannels/1"],
    "kms_key": "projects/a-project/locations/europe-west1/keyRings/r/cryptoKeys/k",
}
TEST = """
run "previous" {
  command   = apply
  state_key = "deployment"
  module {
    source = "../../previous/infra/terraform"
  }
}

run "upgrade" {
  command   = plan
  state_key = "deployment"
}
"""
# Types of resources that hold data, keys or work, or name those that do; and the attributes that
# can't be changed in place, from the provider's documentation.
HOLDING = {
    "google_artifact_registry_repository": ("project", "location", "repository_id", "format", "kms_key_name"),
    "google_cloud_tasks_queue": ("project", "location", "name"),
    "google_firestore_database": ("project", "name", "location_id", "type", "cmek_config"),
    "google_firestore_field": ("project", "database", "collection", "field"),
    "google_secret_manager_secret": ("project", "secret_id", "replication"),
    "google_secret_manager_secret_version": ("secret", "secret_data"),
    "google_storage_bucket": ("project", "name", "location"),
    "random_bytes": ("length", "keepers"),
}
# Accounts, services and addresses: a new one would have other permissions, or cut clients off.
NAMING = {
    "google_cloudfunctions2_function": ("project", "location", "name"),
    "google_compute_address": ("project", "region", "name"),
    "google_dns_record_set": ("project", "managed_zone", "name", "type"),
    "google_service_account": ("project", "account_id"),
}

pytestmark = [pytest.mark.xdist_group("terraform upgrade"), pytest.mark.timeout(600)]


def unpacked(place):
    """Returns a copy of the current tree, beside the previous version of the module."""
    copy = terraform.Copy(place)
    with tarfile.open(PREVIOUS) as archive:
        archive.extractall(place / "previous", filter="data")
    shutil.copytree(terraform.TREE / "tests/bundles", place / "previous/dist/bundles")
    return copy


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """Returns the planned changes of an upgrade."""
    terraform.require()
    plans = unpacked(tmp_path_factory.mktemp("upgrade")).plans(".", TEST, **VARIABLES)
    return plans["upgrade"]["resource_changes"]


def lost(changes, kinds):
    """Returns the resources of given types that a plan deletes or replaces, with the reason."""
    findings = []
    for change in changes:
        before, after = change["change"]["before"], change["change"]["after"]
        if change["type"] not in kinds or before is None:
            continue
        if "delete" in change["change"]["actions"] or after is None:
            findings.append(f"{change['address']} is deleted")
            continue
        fixed = [name for name in kinds[change["type"]] if before.get(name) != after.get(name)]
        unknown = [
            name for name in kinds[change["type"]] if change["change"].get("after_unknown", {}).get(name) is True
        ]
        findings += [f"{change['address']} is replaced, since {name} changes" for name in sorted({*fixed, *unknown})]
    return findings


def summary(changes):
    """Returns what `terraform plan` prints as its last line."""
    actions = Counter(
        "replace" if len(change["change"]["actions"]) > 1 else change["change"]["actions"][0] for change in changes
    )
    moved = sum(1 for change in changes if "previous_address" in change)
    return (
        f"Plan: {actions['create']} to add, {actions['update']} to change, {actions['delete']} to destroy, "
        f"{actions['replace']} to replace, {actions['no-op']} unchanged, {moved} moved."
    )


def test_previous_version_is_planned_over(changes):
    before = Counter(change["type"] for change in changes if change["change"]["before"] is not None)
    assert before.keys() >= HOLDING.keys()
    assert before["google_storage_bucket"] >= 4


def test_upgrade_loses_no_store_bucket_key_or_queue(changes, measured):
    measured(f"upgrade from the previous module. {summary(changes)}")
    for change in changes:
        if change["change"]["actions"] not in (["no-op"], ["read"]) or "previous_address" in change:
            measured(f"  {'/'.join(change['change']['actions'])} {change['address']}")
    assert lost(changes, HOLDING) == []


def test_upgrade_replaces_no_account_function_or_address(changes):
    assert lost(changes, NAMING) == []


def planned(kind, actions, before, after):
    return {"type": kind, "address": f"{kind}.one", "change": {"actions": actions, "before": before, "after": after}}


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        pytest.param(
            planned("google_cloud_tasks_queue", ["delete"], {"name": "muster"}, None),
            "google_cloud_tasks_queue.one is deleted",
            id="a queue without a successor",
        ),
        pytest.param(
            planned("google_storage_bucket", ["delete", "create"], {"name": "b"}, {"name": "b"}),
            "google_storage_bucket.one is deleted",
            id="a bucket that is replaced",
        ),
        pytest.param(
            planned("google_cloud_tasks_queue", ["update"], {"name": "muster"}, {"name": "muster-folds"}),
            "google_cloud_tasks_queue.one is replaced, since name changes",
            id="a queue with another name",
        ),
        pytest.param(
            planned("google_firestore_database", ["update"], {"location_id": "europe-west1"}, {"location_id": "eur3"}),
            "google_firestore_database.one is replaced, since location_id changes",
            id="a database in another location",
        ),
        pytest.param(
            planned("random_bytes", ["update"], {"length": 32}, {"length": 64}),
            "random_bytes.one is replaced, since length changes",
            id="a longer key",
        ),
    ],
)
def test_planted_loss_is_found(change, finding):
    assert lost([change], HOLDING) == [finding]


def test_new_and_updated_resources_are_no_loss():
    created = planned("google_cloud_tasks_queue", ["create"], None, {"name": "muster-commits"})
    labeled = planned(
        "google_storage_bucket", ["update"], {"name": "b", "labels": {}}, {"name": "b", "labels": {"a": "b"}}
    )
    assert lost([created, labeled], HOLDING) == []
