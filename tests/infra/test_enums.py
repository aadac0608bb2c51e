"""`terraform validate` refuses a value that Google's API does not have.

The real provider checks most enums. The offline mirror's provider checks those of enums.json, which
the tests' support module names in its environment.
"""

from __future__ import annotations

import importlib.util
import json

import pytest
from support import terraform
from support.google_api import FOLDER, MAPPING, SCHEMAS

pytestmark = [pytest.mark.xdist_group("terraform enums"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def extract():
    specification = importlib.util.spec_from_file_location("extract", FOLDER / "extract.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_enums_follow_from_the_schemas(extract, measured):
    enums = extract.provider_enums(MAPPING, SCHEMAS)
    assert json.loads(terraform.ENUMS.read_text()) == enums, "run python tests/data/google/extract.py"
    measured(f"enums that validate checks: {sum(map(len, enums.values()))} of {len(enums)} resource types")
    assert sum(map(len, enums.values())) > 150


def test_attribute_that_may_elsewhere_have_any_value_is_left_out(extract):
    schemas = {
        "a.v1.Thing": {
            "properties": {
                "mode": {"enum": ["A", "MODE_UNSPECIFIED"]},
                "kind": {"enum": ["K"]},
                "inner": {"$ref": "Inner"},
            }
        },
        "a.v1.Inner": {"properties": {"kind": {"type": "string"}, "thing": {"$ref": "Inner"}}},
    }
    mapping = {"types": {"google_thing": {"schema": "a.v1.Thing"}}, "values": {}}
    assert extract.provider_enums(mapping, schemas) == {"google_thing": {"mode": ["A"]}}


def test_renamed_attribute_has_the_values_of_the_field(extract):
    schemas = {"a.v1.Thing": {"properties": {"state": {"enum": ["ON", "OFF"]}}}}
    mapping = {"types": {"google_thing": {"schema": "a.v1.Thing", "fields": {"desired": "state"}}}, "values": {}}
    assert extract.provider_enums(mapping, schemas) == {"google_thing": {"desired": ["OFF", "ON"]}}


# A wrong value in place of one of a resource, by the folder of its module.
PLANTED = [
    ("modules/state", "google_firestore_database.documents", "FIRESTORE_NATIVE", "NATIVE"),
    ("modules/state", "google_firestore_database.documents", "PESSIMISTIC", "STRICT"),
    ("modules/state", "google_firestore_database.audit", "FIRESTORE_NATIVE", "NATIVE"),
    ("modules/state", "google_firestore_database.audit", "PESSIMISTIC", "STRICT"),
    ("modules/state", "google_storage_bucket.this", "enforced", "forced"),
    ("modules/state", "google_artifact_registry_repository.images", "KEEP", "RETAIN"),
    ("modules/edge", "google_compute_region_ssl_policy.edge", "MODERN", "STRICT"),
    ("modules/edge", "google_certificate_manager_dns_authorization.edge", "PER_PROJECT_RECORD", "PER_PROJECT"),
]


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Returns the errors that `terraform validate` reports of all wrong values, by folder."""
    terraform.require()
    planted = terraform.Copy(tmp_path_factory.mktemp("planted"))
    for folder, resource, value, wrong in PLANTED:
        kind, name = resource.split(".")
        # Other resources may have the same value. A block ends at a line that starts with }.
        block = rf'^resource "{kind}" "{name}" {{\n(?:(?!}}).*\n)*?'
        planted.change(f"{folder}/main.tf", rf'({block}.*)"{value}"', rf'\1"{wrong}"')
    return {folder: planted.validate(folder).splitlines() for folder in sorted({folder for folder, *_ in PLANTED})}


@pytest.mark.parametrize(("folder", "resource", "value", "wrong"), PLANTED)
def test_validate_refuses_a_planted_value(errors, folder, resource, value, wrong):
    found = [line for line in errors[folder] if f"{resource}: " in line and f"got {wrong}" in line]
    assert len(found) == 1
    assert value in found[0]  # among the allowed ones
    assert len(errors[folder]) == sum(1 for other, *_ in PLANTED if other == folder)
