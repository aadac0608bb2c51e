"""The pages on Google Cloud, the smoke test's advice and the example pipeline agree."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from muster.smoke import advice

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs/how-to"
GUIDE = ROOT / advice.GUIDE
TABLES = ROOT / "docs/reference/google-cloud.md"
ALERTS = HOW_TO / "watch-and-steer-tasks.md"
COSTS = ROOT / "docs/explanation/costs.md"
TERRAFORM = ROOT / "infra/terraform"
MONITORING = TERRAFORM / "modules/monitoring"
CI = TERRAFORM / "examples/ci"
PAGES = [GUIDE, HOW_TO / "restore-in-google-cloud.md", HOW_TO / "deploy-from-a-pipeline.md", TABLES, CI / "README.md"]
# Commands that neither belong to a project nor name it by --project.
GLOBAL = ("auth login", "auth application-default login", "auth print-identity-token", "projects describe PROJECT")
GLOBAL += ("billing projects describe PROJECT",)
# Variables of the module that the pages explain.
VARIABLES = (
    "accept_gcloud_tokens",
    "allow_open_clients",
    "allow_unlisted_region",
    "audit_database",
    "backup_retention_days",
    "bucket_administrators",
    "bundle_digests",
    "data_access_logs",
    "disable_invoker_check",
    "images",
    "kms_key",
    "log_retention_days",
    "log_sink",
    "public_clients",
    "queue_rates",
    "restrict_build_sources",
    "signing_keys_secret",
    "vpc_egress",
    "vpc_network",
    "worker_pool",
)
# Groups whose commands fail without a location, since the project has no App Engine app.
LOCATED = {"tasks": "--location", "scheduler": "--location", "run": "--region", "functions": "--regions"}
UNLOCATED = ("tasks locations list", "scheduler locations list", "tasks cmek-config update")


def advised():
    texts = [*advice.UNREACHABLE, *advice.OPENING, *advice.CLOSING, *advice.COMMITTING, *advice.COMPUTATION]
    texts += [*advice.UPLOADING, *advice.DIRECT, *advice.WRONG, *advice.SLOTS]
    for hints in (advice.CLIENT_API, advice.OPERATOR_API):
        texts += [line for lines in hints.values() for line in lines]
    return "\n".join(texts)


def gcloud_commands(text):
    """Returns the gcloud commands of a text's blocks and quoted commands, without `gcloud`."""
    quoted = re.findall(r"`gcloud ((?:beta )?[^`]+)`", text)
    blocks = "\n".join(re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL))
    return [re.sub(r"\s+", " ", command) for command in [*quoted, *re.findall(r"gcloud ((?:beta )?[^;|\n)]+)", blocks)]]


def faults(command):
    words = command.removeprefix("beta ")
    if words.startswith(GLOBAL) or re.match(r"storage \S+.* gs://", words):
        return
    if "--project" not in words:
        yield f"gcloud {command}: name the project"
    option = LOCATED.get(words.split()[0])
    if option and not words.startswith(UNLOCATED) and option not in words:
        yield f"gcloud {command}: name {option}"


def test_smoke_advice_and_the_guide_name_the_same_stops():
    page = GUIDE.read_text()
    table = page[page.index("## It may stop") : page.index("### Afterwards")]
    for stop in advice.KNOWN_STOPS:
        assert stop in table, f"{advice.GUIDE} does not name {stop}"
        assert f"`{stop}`" in advised()


@pytest.mark.parametrize(
    "error",
    [
        'Error 404: Cannot find metric(s) that match type = "logging.googleapis.com/user/muster/round_stuck".',
        "Error 403: Cloud Resource Manager API has not been used in project 1 before. SERVICE_DISABLED",
        (
            "Unable to retrieve the repository metadata for projects/p/locations/r/repositories/muster. Ensure that "
            "the Cloud Functions service account has 'artifactregistry.repositories.list'"
        ),
        "Could not create Cloud Run service muster-client-api: maxScale may not exceed 10",
        "CpuAllocPerProjectRegion requested: 60000 allowed: 20000",
        "Error 400: Location 'europe-west4' is not a valid location",
        "Error 400: Service account service-1@gcp-sa-firestore.iam.gserviceaccount.com does not exist",
        "One or more users named in the policy do not belong to a permitted customer, perhaps due to an org policy",
        "FAILED_PRECONDITION: due to quota restrictions, cannot run builds in this region",
    ],
)
def test_error_as_google_words_it_is_found_by_a_known_stop(error):
    assert any(stop in error for stop in advice.KNOWN_STOPS)


@pytest.mark.parametrize("status", [429, 503])
def test_front_end_without_free_instances_names_the_quotas(status):
    lines = "\n".join(advice.of_status(status, advice.CLIENT_API))
    assert "max_instances" in lines
    assert "CpuAllocPerProjectRegion and MemAllocPerProjectRegion" in lines


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_gcloud_commands_of_a_page_name_project_and_location(page):
    blocks = [command for command in gcloud_commands(page.read_text()) if len(command.split()) > 3]
    assert [fault for command in blocks for fault in faults(command)] == []


def test_gcloud_commands_of_the_smoke_advice_name_project_and_location():
    commands = gcloud_commands(advised())
    assert len(commands) > 10
    assert [fault for command in commands for fault in faults(command)] == []


def test_guide_asks_for_the_terraform_that_the_module_needs():
    required = re.search(r'required_version = ">= ([\d.]+)"', (TERRAFORM / "versions.tf").read_text())[1]
    for page in (GUIDE, TERRAFORM / "README.md"):
        assert f"Terraform {required} or newer" in page.read_text(), page


def test_explained_variables_are_those_of_the_module():
    declared = set(re.findall(r'^variable "(\w+)"', (TERRAFORM / "variables.tf").read_text(), re.MULTILINE))
    text = "\n".join(page.read_text() for page in PAGES)
    for name in VARIABLES:
        assert f"`{name}`" in text or f"`{name} = " in text, name
        assert name in declared, name


def test_first_hour_has_every_step_in_order():
    page = GUIDE.read_text()
    hour = page[page.index("## The first hour") : page.index("## It may stop")]
    steps = [
        "$ gcloud services enable cloudresourcemanager.googleapis.com",
        "gcloud beta services identity create",
        "$ make bundle",
        "$ muster enrol key",
        "$ terraform -chdir=infra/terraform init",
        "$ terraform -chdir=infra/terraform plan",
        "$ terraform -chdir=infra/terraform apply",
        "Wait five minutes",
        "$(gcloud auth print-identity-token)",
        "$ muster smoke",
        "$ muster plan build",
        "$ muster task create",
        "muster client run",
    ]
    places = [hour.index(step) for step in steps]
    assert places == sorted(places)
    assert hour.count("You see:") >= 12


def test_deployer_of_the_example_has_the_documented_roles():
    source = (CI / "main.tf").read_text()
    listed = re.search(r"deployer_roles = \[(.*?)\]", source, re.DOTALL)[1]
    granted = set(re.findall(r"roles/[\w.]+", listed))
    page = TABLES.read_text()
    table = page[
        page.index("## Roles of the account that applies") : page.index("A planner, which must change nothing")
    ]
    rows = [line for line in table.splitlines() if line.startswith("| `roles/") and "only with" not in line]
    documented = {role for row in rows for role in re.findall(r"roles/[\w.]+", row.split("|")[1])}
    assert granted == documented - {"roles/storage.objectUser"}  # on the state's bucket


def test_table_of_alerts_lists_the_alerts_of_the_module():
    source = (MONITORING / "alerts.tf").read_text()
    titles = re.findall(r'^ +title += "(.+)"', source, re.MULTILINE)
    titles += re.findall(r'^ +display_name += "\$\{var\.name\}: ([a-z][^"$]+)"\n +combiner', source, re.MULTILINE)
    page = ALERTS.read_text()
    rows = re.findall(r"^\| ([^|]+?)(?: \(with [^)]*\))? \|", page[page.index("## Alerts") :], re.MULTILINE)
    assert len(titles) == 11
    assert set(rows) - {"alert", "budget"} == set(titles)


def test_table_of_alerts_has_the_default_thresholds():
    source = (MONITORING / "variables.tf").read_text()
    default = {name: float(value) for name, value in re.findall(r"(\w+) += optional\(number, ([\d.]+)\)", source)}
    rows = dict(re.findall(r"^\| ([^|]+?)(?: \(with [^)]*\))? \| ([^|]+) \|", ALERTS.read_text(), re.MULTILINE))
    assert f"{default['round_stuck_seconds'] / 60:g} minutes" in rows["a round is stuck"]
    assert default["update_age_seconds"] == default["round_seconds"] == 3600
    assert "older than an hour" in rows["single updates are stored too long"]
    assert "longer than an hour" in rows["rounds take too long"]
    assert f"more than {default['refused_updates']:g}" in rows["updates are refused"]
    assert f"more than {default['queue_depth']:,g} pieces" in rows["the queue does not drain"]
    assert f"more than {default['error_rate'] * 100:g} %" in rows["a function fails"]
    assert f"of more than {default['error_requests']:g} in five minutes" in rows["a function fails"]
    assert f"more than {default['abandon_rate'] * 100:g} %" in rows["rounds are abandoned"]
    assert default["tick_silent_seconds"] == 600
    assert "ten minutes" in rows["the tick does not run"]
    check_ins = rows["check-ins use up their error budget"]
    assert f"more than {14.4 * (1 - default['check_in_availability']) * 100:.3g} %" in check_ins
    assert f"{default['check_in_availability'] * 100:g} % in {default['rolling_days']:g} days" in check_ins
    assert f"more than {6 * (1 - default['rounds_in_time']) * 100:.3g} %" in rows["rounds take too long"]


def test_costs_count_the_conditions_of_the_alerts():
    source = (MONITORING / "alerts.tf").read_text()
    always = len(re.findall(r"^ +query +=", source[: source.index("# The host of client_api")], re.MULTILINE))
    assert always == 10
    costs = COSTS.read_text()
    assert f"| {always + 1} conditions of alerts" in costs  # and that of the uptime check
    assert f"{always} conditions exist in every deployment" in costs


def test_region_table_is_the_list_that_a_plan_compares_with():
    regions = json.loads((TERRAFORM / "regions.json").read_text())
    page = TABLES.read_text()
    table = page[page.index("## Regions") : page.index("## Quotas")]
    *everywhere, new = [
        set(re.findall(r"`([a-z]+-[a-z]+\d+)`", row)) for row in re.findall(r"^\|.*$", table, re.MULTILINE)
    ][2:]
    assert set.union(*everywhere) == set(regions["cloud_tasks"]) & set(regions["cloud_scheduler"])
    assert new == set(regions["cloud_build_new_projects"])


def test_example_pipeline_plans_on_pull_requests_and_stores_no_key():
    pipeline = yaml.safe_load((CI / "workflows/pipeline.yml").read_text())
    deploy = yaml.safe_load((CI / "workflows/deploy.yml").read_text())
    assert set(pipeline[True]) == {"pull_request", "push", "workflow_dispatch"}  # YAML reads `on` as true
    for name in ("staging", "production"):
        job = pipeline["jobs"][name]
        assert job["permissions"] == {"contents": "read", "id-token": "write"}
        assert job["with"]["apply"] == "${{ github.event_name != 'pull_request' }}"
        assert job["with"]["bundles-sha256"] == "${{ needs.bundles.outputs.sha256 }}"
    assert "staging" in pipeline["jobs"]["production"]["needs"]
    plan, apply = deploy["jobs"]["plan"], deploy["jobs"]["apply"]
    assert "environment" not in plan
    assert (apply["if"], apply["environment"]) == ("inputs.apply", "${{ inputs.environment }}")
    accounts = {
        step["with"]["service_account"]: name
        for name, job in deploy["jobs"].items()
        for step in job["steps"]
        if step.get("uses", "").startswith("google-github-actions/auth")
    }
    assert accounts == {"${{ inputs.planner }}": "plan", "${{ inputs.deployer }}": "apply"}
    commands = [step.get("run", "") for step in apply["steps"]]
    applied = next(index for index, command in enumerate(commands) if command.endswith("apply tfplan"))
    assert any("muster smoke" in command for command in commands[applied:])
    assert "credentials_json" not in json.dumps(deploy)
