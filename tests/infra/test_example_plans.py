"""Plans of the root module and of each example, checked against what Google's services accept.

Descriptions of the APIs are in tests/data/google; no test calls Google.
"""

from __future__ import annotations

import copy as copying
import json
import re

import pytest
from support import google_api, terraform
from support.google_api import FOLDER
from support.terraform import TREE

EXAMPLES = [directory for directory in terraform.directories() if directory.startswith("examples/")]
PLANNED = [".", ". with images", *EXAMPLES]
PLAN = 'run "plan" {\n command = plan\n}\n'
# Examples that deploy Muster; others prepare a project for it.
DEPLOYMENTS = [
    ".",
    ". with images",
    *(name for name in EXAMPLES if 'source = "../.."' in (TREE / name / "main.tf").read_text()),
]
# Values of variables, by name. {region} is the default region of the folder.
VALUES = {
    "project_id": "a-project",
    "budget": {"billing_account": "012345-6789AB-CDEF01", "amount": 500},
    "clients": "enrolment:KEY",
    "dns_zone": "example-org",
    "domain": "fl.example.org",
    "environment": "staging",
    "kms_key": "projects/a-project/locations/{region}/keyRings/r/cryptoKeys/k",
    "on_call": "on-call@example.org",
    "operator": "me@example.org",
    "operators": {"me@example.org": "operator", "ci@a-project.iam.gserviceaccount.com": "viewer"},
    "repository": "example/muster",
    "repository_id": "4711",
    "trusted_signers": ["ed25519:" + "A" * 43],
    "vpc_connector": "projects/a-project/locations/{region}/connectors/c",
}
REGIONS = json.loads((FOLDER / "regions.json").read_text())
# The root module with images, which makes Cloud Run services in place of functions.
SERVICES = ". with images"
FUNCTIONS = ("client_api", "operator_api", "aggregator", "committer")
# The quota of a new project in a region (CpuAllocPerProjectRegion, MemAllocPerProjectRegion).
MAX_CPUS = 20
MAX_GIBIBYTES = 40
BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "K": 10**3, "M": 10**6, "G": 10**9}

pytestmark = [pytest.mark.xdist_group("terraform examples"), pytest.mark.timeout(600)]


def variables(directory):
    """Returns the text of each variable's block."""
    text = (TREE / directory / "variables.tf").read_text()
    return dict(re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL))


def default_region(directory):
    declared = re.search(r'^  default\s+= "(.*)"', variables(directory).get("region", ""), re.MULTILINE)
    return declared[1] if declared else None


def values(directory):
    """Returns values of the variables that a folder declares; its own default of the region."""
    if directory == SERVICES:
        image = "europe-docker.pkg.dev/a-project/muster/image@sha256:" + "0" * 64
        return {**values("."), "images": dict.fromkeys(FUNCTIONS, image)}
    region = default_region(directory)
    filled = json.loads(json.dumps(VALUES).replace("{region}", region or "europe-west1"))
    if region is None:
        filled["region"] = "europe-west1"
    if directory == ".":
        # The module's defaults.
        filled = {name: filled[name] for name in ("project_id", "region", "operators", "clients")}
    return {name: value for name, value in filled.items() if name in variables(directory)}


@pytest.fixture(scope="module")
def plan(copy):
    """Returns the plan of a folder, in JSON."""
    plans, failed = {}, set()

    def of(directory):
        if directory in failed:
            pytest.fail(f"{directory} can't be planned, see the first test of it")
        if directory not in plans:
            failed.add(directory)
            plans[directory] = copy.plans(directory.split(" ", maxsplit=1)[0], PLAN, **values(directory))["plan"]
        failed.discard(directory)
        return plans[directory]

    return of


@pytest.mark.parametrize("directory", PLANNED)
def test_every_planned_value_is_one_that_the_api_accepts(plan, directory, measured):
    report = google_api.check(plan(directory)["resource_changes"])
    measured(f"plan of {directory}, checked against Google's APIs: {report}")
    assert not report.findings
    assert report.resources
    if directory in DEPLOYMENTS:
        assert report.resources > 80
        assert report.values > 500
        assert report.enums > 40


def planted(plan, address, path, value):
    """Returns the findings about a plan in which one value is another."""
    changes = copying.deepcopy(plan("examples/production")["resource_changes"])
    change = next(change for change in changes if re.search(address, change["address"]))
    *parents, last = path.split(".")
    target = change["change"]["after"]
    for parent in parents:
        target = target[parent]
        target = target[0] if isinstance(target, list) else target
    target[last] = value
    return google_api.check(changes).findings


@pytest.mark.parametrize(
    ("address", "path", "value", "finding"),
    [
        pytest.param(
            r"google_cloudfunctions2_function.this\[\"committer\"\]",
            "service_config.ingress_settings",
            "ALLOW_INTERNAL",
            "service_config.ingress_settings is 'ALLOW_INTERNAL', not one of INGRESS_SETTINGS_UNSPECIFIED, ALLOW_ALL",
            id="ALLOW_INTERNAL",
        ),
        pytest.param(
            r"google_firestore_database",
            "type",
            "NATIVE",
            "type is 'NATIVE', not one of DATABASE_TYPE_UNSPECIFIED, FIRESTORE_NATIVE",
            id="NATIVE",
        ),
        pytest.param(
            r"google_firestore_database",
            "concurrency_mode",
            "STRICT",
            "concurrency_mode is 'STRICT', not one of",
            id="STRICT",
        ),
        pytest.param(
            r"google_compute_region_ssl_policy", "profile", "STRICT", "profile is 'STRICT', not one of", id="profile"
        ),
        pytest.param(
            r"google_cloud_tasks_queue\.",
            "retry_config.attempts",
            3,
            "retry_config.attempts: the API has no field attempts",
            id="a field that does not exist",
        ),
        pytest.param(
            r"google_cloud_tasks_queue\.",
            "retry_config.min_backoff",
            "1",
            "retry_config.min_backoff is '1', not in the format google-duration",
            id="a duration without a unit",
        ),
        pytest.param(
            r"google_cloudfunctions2_function",
            "service_config.timeout_seconds",
            "15m",
            "service_config.timeout_seconds is '15m', not in the format int32",
            id="a number with a unit",
        ),
        pytest.param(
            r"google_storage_bucket\.",
            "public_access_prevention",
            "forced",
            "public_access_prevention is 'forced', not one of inherited, enforced",
            id="a value that only prose documents",
        ),
        pytest.param(
            r"google_cloudfunctions2_function", "state", "ACTIVE", "state: the API sets state itself", id="read-only"
        ),
    ],
)
def test_planted_mistake_in_a_plan_is_found(plan, address, path, value, finding):
    assert any(finding in line for line in planted(plan, address, path, value))


@pytest.mark.parametrize(
    ("path", "value", "finding"),
    [
        pytest.param("combiner", "ANY", "combiner is 'ANY', not one of", id="combiner"),
        pytest.param("severity", "FATAL", "severity is 'FATAL', not one of", id="severity"),
        pytest.param(
            "conditions.condition_prometheus_query_language.duration",
            "300",
            "duration is '300', not in the format google-duration",
            id="a duration without a unit",
        ),
        pytest.param(
            "conditions.condition_prometheus_query_language.disable_metric_validation",
            "yes",
            "disable_metric_validation is 'yes', not a boolean",
            id="a text for a boolean",
        ),
        pytest.param(
            "conditions.condition_prometheus_query_language.expression",
            "up == 0",
            "the API has no field expression",
            id="a field that does not exist",
        ),
    ],
)
def test_planted_mistake_in_an_alert_policy_is_found(plan, path, value, finding):
    findings = planted(plan, r"google_monitoring_alert_policy.promql\[\"queue_depth\"\]", path, value)
    assert any(".promql" in line and finding in line for line in findings)


def test_planted_reducer_of_the_dashboard_is_found(plan):
    changes = plan("examples/production")["resource_changes"]
    dashboard = next(change for change in changes if change["type"] == "google_monitoring_dashboard")
    text = dashboard["change"]["after"]["dashboard_json"]
    assert "REDUCE_SUM" in text
    document = json.loads(text.replace("REDUCE_SUM", "REDUCE_SUMM"))
    findings = google_api.check_json("dashboard", "monitoring.v1.Dashboard", document).findings
    assert any("crossSeriesReducer is 'REDUCE_SUMM', not one of" in finding for finding in findings)


def test_resource_type_without_a_mapping_is_found():
    change = {"mode": "managed", "type": "google_new", "address": "google_new.one", "change": {"after": {"name": "n"}}}
    assert google_api.check([change]).findings == [
        "google_new.one: tests/data/google/mapping.json has no schema for google_new"
    ]


# --- Quotas --------------------------------------------------------------------------------------


def gibibytes(size):
    number, unit = re.fullmatch(r"([0-9.]+)([KMG]i?)", size).groups()
    return float(number) * BYTES[unit] / 2**30


def sizes(changes):
    """Returns the instances, CPUs and memory of each function and service of a plan."""
    for change in changes:
        after = change["change"]["after"]
        if change["type"] == "google_cloudfunctions2_function":
            config = after["service_config"][0]
            yield after["name"], config["max_instance_count"], config["available_cpu"], config["available_memory"]
        elif change["type"] == "google_cloud_run_v2_service":
            template = after["template"][0]
            limits = template["containers"][0]["resources"][0]["limits"]
            yield after["name"], template["scaling"][0]["max_instance_count"], limits["cpu"], limits["memory"]


def over_quota(changes):
    """Returns the functions whose largest deployment Cloud Run refuses in a new project.

    Cloud Run compares the limit of instances, times the size of one, with the quota when it
    creates a revision, for each revision by itself.
    """
    findings = []
    for name, instances, cpu, memory in sizes(changes):
        cpus = instances * (float(cpu.removesuffix("m")) / 1000 if cpu.endswith("m") else float(cpu))
        size = instances * gibibytes(memory)
        if cpus > MAX_CPUS or size > MAX_GIBIBYTES:
            findings.append(f"{name}: {instances} instances take {cpus:g} CPUs and {size:g} GiB")
    return findings


@pytest.mark.parametrize("directory", DEPLOYMENTS)
def test_functions_fit_into_the_quota_of_a_new_project(plan, directory):
    changes = plan(directory)["resource_changes"]
    assert len(list(sizes(changes))) >= 4
    assert over_quota(changes) == []


@pytest.mark.parametrize(
    ("instances", "cpu", "memory", "finding"),
    [
        (20, "1", "512Mi", []),
        (10, "2", "4Gi", []),
        (21, "1", "512Mi", ["f: 21 instances take 21 CPUs and 10.5 GiB"]),
        (10, "2", "8Gi", ["f: 10 instances take 20 CPUs and 80 GiB"]),
        (200, "200m", "512Mi", ["f: 200 instances take 40 CPUs and 100 GiB"]),
    ],
)
def test_instances_above_the_quota_are_found(instances, cpu, memory, finding):
    config = {"max_instance_count": instances, "available_cpu": cpu, "available_memory": memory}
    after = {"name": "f", "service_config": [config]}
    assert over_quota([{"type": "google_cloudfunctions2_function", "change": {"after": after}}]) == finding


# --- Regions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("directory", [name for name in EXAMPLES if default_region(name)])
def test_default_region_of_an_example_has_cloud_tasks(directory):
    assert default_region(directory) in REGIONS["cloud_tasks"]


def test_module_accepts_the_regions_of_cloud_tasks():
    certain, later = set(REGIONS["cloud_tasks"]), set(REGIONS["cloud_tasks_later"])
    module = json.loads((TREE / "regions.json").read_text())
    assert certain <= set(module["cloud_tasks"]) <= certain | later


@pytest.mark.parametrize(
    ("planted", "refusal"),
    [
        pytest.param({"region": "europe-west4"}, "Cloud Tasks or Cloud Scheduler is not there", id="no Cloud Tasks"),
        pytest.param({"clients": "open"}, "clients must not be open in production", id="open clients"),
    ],
)
def test_production_example_refuses_a_planted_mistake(copy, planted, refusal):
    with pytest.raises(AssertionError, match=refusal):
        copy.plans("examples/production", PLAN, **{**values("examples/production"), **planted})
