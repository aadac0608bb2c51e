"""checkov over the plan of a whole deployment: every finding is a listed exception."""

from __future__ import annotations

import json
import tomllib

import pytest
from support import terraform
from support.terraform import ROOT, TREE

PLAN = {
    "project_id": "a-project",
    "project_number": "123456789012",
    "region": "europe-west1",
    "bundles": "./tests/bundles",
    "operators": {"me@example.org": "operator"},
    "clients": "enrolment:KEY",
    "kms_key": "projects/a-project/locations/europe-west1/keyRings/r/cryptoKeys/k",
    "vpc_connector": "projects/a-project/locations/europe-west1/connectors/c",
    "signing_keys": ["k2", "k1"],
    "domain": {"name": "fl.example.org", "dns_zone": "example-org"},
    "notification_channels": ["projects/a-project/notificationChannels/1"],
    "budget": {"billing_account": "012345-6789AB-CDEF01", "amount": 500},
}
# checkov must work without the network.
NO_NETWORK = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}

# The first run installs the tools.
pytestmark = [pytest.mark.xdist_group("terraform ."), pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def findings(copy, tmp_path_factory):
    """Returns the failed checks, by check and resource."""
    folder, output = copy.init("."), tmp_path_factory.mktemp("plan")
    (output / "plan.tfvars.json").write_text(json.dumps(PLAN))
    options = ("-refresh=false", "-lock=false", "-no-color", f"-var-file={output / 'plan.tfvars.json'}")
    done = terraform.run("terraform", "plan", *options, f"-out={output / 'plan'}", cwd=folder)
    assert done.code == 0, done.errors
    (output / "plan.json").write_text(
        terraform.run("terraform", "show", "-json", str(output / "plan"), cwd=folder).output
    )
    installation = terraform.run("requirements/make-tools.sh", cwd=ROOT, timeout=900)
    if installation.code:
        terraform.missing(f"checkov can't be installed: {installation.errors.strip().splitlines()[-1:]}")
    settings = ("--config-file", str(TREE / ".checkov.yaml"), "--output", "json")
    # As a module, since pip's script has the environment's path in its first line, which must not
    # contain a space.
    checkov = (str(ROOT / ".venv/tools/bin/python"), "-m", "checkov.main")
    done = terraform.run(*checkov, *settings, "-f", str(output / "plan.json"), cwd=output, **NO_NETWORK)
    report = json.loads(done.output)
    assert report["summary"]["resource_count"] > 100, "checkov did not see the whole plan"
    assert report["summary"]["parsing_errors"] == 0
    failed = report["results"]["failed_checks"]
    return {(check["check_id"], check["resource"]): check["check_name"] for check in failed}


def exceptions():
    listed = tomllib.loads((TREE / "checkov-exceptions.toml").read_text())["exception"]
    return {(item["check"], resource): item["reason"] for item in listed for resource in item["resources"]}


def test_every_finding_is_an_exception(findings):
    assert {key: name for key, name in findings.items() if key not in exceptions()} == {}


def test_every_exception_is_a_finding(findings):
    assert exceptions().keys() <= findings.keys()


def test_every_exception_has_a_reason():
    assert all(len(reason) > 20 for reason in exceptions().values())
