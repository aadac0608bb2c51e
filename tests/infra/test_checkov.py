"""checkov over the plan of a whole deployment: nothing is found that is not listed as an exception, with a reason."""

from __future__ import annotations

import json
import tomllib

import pytest
from support import terraform
from support.terraform import ROOT, TREE

PLAN = {
    "project_id": "a-project",
    "project_number": "123456789012",
    "region": "europe-west4",
    "bundles": "./tests/bundles",
    "operators": {"me@example.org": "operator"},
    "clients": "enrolment:KEY",
    "kms_key": "projects/a-project/locations/europe-west4/keyRings/r/cryptoKeys/k",
    "vpc_connector": "projects/a-project/locations/europe-west4/connectors/c",
    "signing_keys": ["k2", "k1"],
    "domain": {"name": "fl.example.org", "dns_zone": "example-org"},
    "notification_channels": ["projects/a-project/notificationChannels/1"],
    "budget": {"billing_account": "012345-6789AB-CDEF01", "amount": 500},
}
# Whoever wants to talk to somebody finds nobody: checkov must come to its verdict alone.
NO_NETWORK = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}

# The first run installs the tools.
pytestmark = [pytest.mark.xdist_group("terraform ."), pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def findings(copy, tmp_path_factory):
    """The checks that failed, by check and resource."""
    folder, place = copy.init("."), tmp_path_factory.mktemp("plan")
    (place / "plan.tfvars.json").write_text(json.dumps(PLAN))
    options = ("-refresh=false", "-lock=false", "-no-color", f"-var-file={place / 'plan.tfvars.json'}")
    done = terraform.run("terraform", "plan", *options, f"-out={place / 'plan'}", cwd=folder)
    assert done.code == 0, done.errors
    (place / "plan.json").write_text(
        terraform.run("terraform", "show", "-json", str(place / "plan"), cwd=folder).output
    )
    made = terraform.run("requirements/make-tools.sh", cwd=ROOT, timeout=900)
    if made.code:
        terraform.missing(f"checkov can't be installed: {made.errors.strip().splitlines()[-1:]}")
    settings = ("--config-file", str(TREE / ".checkov.yaml"), "--output", "json")
    # As a module: pip's script has the environment's path in its first line, where a space breaks it.
    checkov = (str(ROOT / ".venv/tools/bin/python"), "-m", "checkov.main")
    done = terraform.run(*checkov, *settings, "-f", str(place / "plan.json"), cwd=place, **NO_NETWORK)
    found = json.loads(done.output)
    assert found["summary"]["resource_count"] > 100, "checkov did not see the whole plan"
    assert found["summary"]["parsing_errors"] == 0
    return {(each["check_id"], each["resource"]): each["check_name"] for each in found["results"]["failed_checks"]}


def exceptions():
    listed = tomllib.loads((TREE / "checkov-exceptions.toml").read_text())["exception"]
    return {(each["check"], resource): each["reason"] for each in listed for resource in each["resources"]}


def test_finds_nothing_that_is_not_an_exception(findings):
    assert {key: name for key, name in findings.items() if key not in exceptions()} == {}


def test_needs_every_exception(findings):
    assert exceptions().keys() <= findings.keys()


def test_every_exception_has_a_reason():
    assert all(len(reason) > 20 for reason in exceptions().values())
