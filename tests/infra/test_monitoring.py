"""Alerts, objectives and dashboard of a plan, parsed by Google's protos and by PromQL's grammar.

The provider's schema accepts any text for a query or a dashboard, and mostly for an enum. These
tests plan the monitoring module with everything optional turned on, and parse the planned values
with `google-cloud-monitoring`, `google-cloud-monitoring-dashboards` and `promql-parser`. A test
whose package is not installed is skipped and names it, or fails where Terraform is required.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from support import terraform

MODULE = "modules/monitoring"
SERVICES = ("client_api", "operator_api", "aggregator", "committer")
VALUES = {
    "project_id": "a-project",
    "project_number": "123456789012",
    "region": "europe-west1",
    "services": {function: f"muster-{function.replace('_', '-')}" for function in SERVICES},
    "queues": ["muster", "muster-commits"],
    "tick": "muster-tick",
    "buckets": {kind: f"muster-{kind}" for kind in ("updates", "partials", "blobs")},
    "firestore_database": "muster",
    "notification_channels": ["projects/a-project/notificationChannels/1"],
    "health_url": "https://fl.example.org",
    "data_access_logs": True,
    "aggregator_account": "aggregator@a-project.iam.gserviceaccount.com",
    "objectives": {"rounds_in_console": True},
}
LOG_METRIC = re.compile(r"logging\.googleapis\.com/user/([a-z_/]+)")
MAX_TEXT = 8192  # characters of a policy's documentation, in the API's reference
MAX_QUERY = 2048  # characters, the API's limit of a filter; its reference has none for PromQL
# Fields of Terraform that are no fields of the API's messages.
OWN_FIELDS = {"id", "name", "project", "deletion_policy", "timeouts", "log_check_failures", "uptime_check_id"}

Plan = list[dict[str, Any]]
Check = Callable[[Plan], dict[str, str]]

pytestmark = pytest.mark.xdist_group("terraform modules/monitoring")


@pytest.fixture(scope="module")
def plan(copy, tmp_path_factory) -> Plan:
    """Returns the planned resources: their addresses, types and values."""
    folder, output = copy.init(MODULE), tmp_path_factory.mktemp("plan")
    (output / "plan.tfvars.json").write_text(json.dumps(VALUES))
    options = ("-refresh=false", "-lock=false", "-no-color", f"-var-file={output / 'plan.tfvars.json'}")
    done = terraform.run("terraform", "plan", *options, f"-out={output / 'plan'}", cwd=folder)
    assert done.code == 0, done.errors
    shown = terraform.run("terraform", "show", "-json", str(output / "plan"), cwd=folder)
    return list(json.loads(shown.output)["planned_values"]["root_module"]["resources"])


def package(module: str, name: str) -> Any:
    """Returns a module. Without it, skips or fails the test, and names the missing package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        terraform.missing(f"{name} is not installed: {error}")
        raise


def of_type(plan: Plan, kind: str) -> dict[str, dict[str, Any]]:
    found = {resource["address"]: resource["values"] for resource in plan if resource["type"] == kind}
    assert found, f"the plan has no {kind}"
    return found


def conditions(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    for address, policy in of_type(plan, "google_monitoring_alert_policy").items():
        for condition in policy["conditions"]:
            yield f"{address}, {condition['display_name']}", condition


def dashboard(plan: Plan) -> Any:
    (values,) = of_type(plan, "google_monitoring_dashboard").values()
    return json.loads(values["dashboard_json"])


def queries(plan: Plan) -> dict[str, str]:
    """Returns the PromQL queries of alerts and charts."""
    found = {
        name: block["query"]
        for name, condition in conditions(plan)
        for block in condition["condition_prometheus_query_language"]
    }
    for tile in dashboard(plan)["mosaicLayout"]["tiles"]:
        for line in tile["widget"].get("xyChart", {}).get("dataSets", []):
            if "prometheusQuery" in line["timeSeriesQuery"]:
                found[f"chart {tile['widget']['title']}"] = line["timeSeriesQuery"]["prometheusQuery"]
    assert len(found) > 10
    return found


def message(values: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    """Returns planned values in a proto's JSON form: without nulls, and single blocks unwrapped."""
    result = {}
    for name, value in values.items():
        if value in (None, [], {}) or name in OWN_FIELDS:
            continue
        # Names that Python reserves end with an underscore in these packages.
        field = descriptor.fields_by_name.get(name) or descriptor.fields_by_name.get(f"{name}_")
        if field is None:
            raise ValueError(f"{descriptor.full_name} has no field {name}")
        result[field.name] = field_value(value, field)
    return result


def field_value(value: Any, field: Any) -> Any:
    kind = field.message_type
    is_map = kind is not None and kind.GetOptions().map_entry
    if isinstance(value, list) and not is_map:
        items = [message(item, kind) if isinstance(item, dict) else item for item in value]
        # A single block is a list, too. Older versions of protobuf have no is_repeated.
        is_repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        return items if is_repeated else items[0]
    return message(value, kind) if isinstance(value, dict) and not is_map else value


def parse_problems(values: dict[str, dict[str, Any]], kind: Any) -> dict[str, str]:
    """Returns the error for each resource that the proto refuses."""
    json_format = package("google.protobuf.json_format", "protobuf")
    problems = {}
    for address, value in values.items():
        proto = kind.pb()()
        try:
            json_format.ParseDict(message(value, proto.DESCRIPTOR), proto)
        except (ValueError, json_format.ParseError) as error:
            problems[address] = str(error)
    return problems


def policy_problems(plan: Plan) -> dict[str, str]:
    monitoring = package("google.cloud.monitoring_v3", "google-cloud-monitoring")
    return parse_problems(of_type(plan, "google_monitoring_alert_policy"), monitoring.AlertPolicy)


def uptime_problems(plan: Plan) -> dict[str, str]:
    monitoring = package("google.cloud.monitoring_v3", "google-cloud-monitoring")
    return parse_problems(of_type(plan, "google_monitoring_uptime_check_config"), monitoring.UptimeCheckConfig)


def objective_problems(plan: Plan) -> dict[str, str]:
    monitoring = package("google.cloud.monitoring_v3", "google-cloud-monitoring")
    objectives = {}
    for address, values in of_type(plan, "google_monitoring_slo").items():
        indicators = ("basic_sli", "request_based_sli", "windows_based_sli")
        kept = {name: values[name] for name in ("display_name", "goal", "user_labels")}
        kinds = {name.removesuffix("_sli"): values[name] for name in indicators if values[name]}
        kept["service_level_indicator"] = [kinds]
        kept["rolling_period"] = f"{values['rolling_period_days'] * 86400}s"
        objectives[address] = kept
    return parse_problems(objectives, monitoring.ServiceLevelObjective)


def dashboard_problems(plan: Plan) -> dict[str, str]:
    dashboards = package("google.cloud.monitoring_dashboard_v1", "google-cloud-monitoring-dashboards")
    json_format = package("google.protobuf.json_format", "protobuf")
    try:
        json_format.ParseDict(dashboard(plan), dashboards.Dashboard.pb()())
    except json_format.ParseError as error:
        return {"dashboard": str(error)}
    return {}


def query_problems(plan: Plan) -> dict[str, str]:
    promql = package("promql_parser", "promql-parser")
    problems = {}
    for name, query in queries(plan).items():
        try:
            promql.parse(query)
        except ValueError as error:
            problems[name] = str(error)
    return problems


def first_apply_problems(plan: Plan) -> dict[str, str]:
    """Returns the conditions that Monitoring refuses while it does not know their metric."""
    problems = {}
    for name, condition in conditions(plan):
        for kind in ("condition_threshold", "condition_absent", "condition_monitoring_query_language"):
            if condition[kind]:
                problems[name] = f"{kind} needs the metric to exist"
        if any(not block["disable_metric_validation"] for block in condition["condition_prometheus_query_language"]):
            problems[name] = "without disable_metric_validation, the metric must exist"
    return problems


def metric_problems(plan: Plan) -> dict[str, str]:
    """Returns the uses of log-based metrics, or of their labels, that the plan does not create."""
    metrics = {}
    for values in of_type(plan, "google_logging_metric").values():
        (descriptor,) = values["metric_descriptor"]
        labels = {label["key"] for label in descriptor["labels"]}
        suffixes = ("_bucket", "_count") if descriptor["value_type"] == "DISTRIBUTION" else ("",)
        metrics.update({values["name"] + suffix: labels for suffix in suffixes})
    problems = {}
    for name, query in queries(plan).items():
        for selector in re.findall(r"\{([^{}]*)\}", query):
            for metric in LOG_METRIC.findall(selector):
                if metric not in metrics:
                    problems[name] = f"no metric {metric} is created, or it has another type"
                    continue
                unknown = set(re.findall(r"(\w+)[=!]~?\"", selector)) - metrics[metric] - {"monitored_resource"}
                if unknown:
                    problems[name] = f"{metric} has no label {', '.join(sorted(unknown))}"
    names = {values["name"] for values in of_type(plan, "google_logging_metric").values()}
    for tile in dashboard(plan)["mosaicLayout"]["tiles"]:
        if unknown := set(LOG_METRIC.findall(json.dumps(tile))) - names:
            problems[f"chart {tile['widget']['title']}"] = f"no metric {', '.join(sorted(unknown))} is created"
    return problems


def text_problems(plan: Plan) -> dict[str, str]:
    """Returns the instructions that the API refuses, or with commands that need a default."""
    problems = {}
    for address, policy in of_type(plan, "google_monitoring_alert_policy").items():
        (documentation,) = policy["documentation"]
        if len(documentation["content"]) > MAX_TEXT:
            problems[address] = f"the text is longer than {MAX_TEXT} characters"
        for command in re.findall(r"`(gcloud [^`]*)`", documentation["content"]):
            regional = re.match(r"gcloud (tasks|scheduler|run|functions) ", command)
            wanted = ["--project=a-project", *(["=europe-west1"] if regional else [])]
            if any(option not in command for option in wanted):
                problems[address] = f"{command} does not name its project or region"
    return problems


def size_problems(plan: Plan) -> dict[str, str]:
    return {
        name: f"the query is longer than {MAX_QUERY} characters"
        for name, query in queries(plan).items()
        if len(query) > MAX_QUERY
    }


def test_instructions_have_complete_commands(plan):
    assert text_problems(plan) == {}


def test_queries_are_short_enough(plan):
    assert size_problems(plan) == {}


def test_alert_policies_are_valid(plan):
    assert policy_problems(plan) == {}


def test_uptime_checks_are_valid(plan):
    assert uptime_problems(plan) == {}


def test_objectives_are_valid(plan):
    assert objective_problems(plan) == {}


def test_dashboard_is_valid(plan):
    assert dashboard_problems(plan) == {}


def test_queries_are_promql(plan):
    assert query_problems(plan) == {}


def test_no_condition_needs_its_metric_to_exist(plan):
    assert first_apply_problems(plan) == {}


def test_queries_use_metrics_and_labels_that_are_created(plan):
    assert metric_problems(plan) == {}


@dataclass(frozen=True)
class Mistake:
    """Replacement in a planned value, which a check must report for the named resource or chart."""

    name: str
    check: Check
    reported: str  # part of the key of the problem
    old: str
    new: str


PROMQL = "google_monitoring_alert_policy.promql"
MISTAKES = [
    Mistake("unknown severity", policy_problems, f'{PROMQL}["errors"]', '"severity": "ERROR"', '"severity": "FATAL"'),
    Mistake("unknown combiner", policy_problems, PROMQL, '"combiner": "OR"', '"combiner": "ANY"'),
    Mistake("duration without a unit", policy_problems, PROMQL, '"duration": "300s"', '"duration": "300"'),
    Mistake("unknown method", uptime_problems, "health", '"request_method": "GET"', '"request_method": "HEAD"'),
    Mistake("unknown checker", uptime_problems, "health", '"STATIC_IP_CHECKERS"', '"PUBLIC_CHECKERS"'),
    Mistake("filter in place of a ratio", objective_problems, "check_ins", '"total_service_filter"', '"total_filter"'),
    Mistake("unknown aligner", dashboard_problems, "dashboard", "ALIGN_PERCENTILE_95", "ALIGN_P95"),
    Mistake("unknown reducer", dashboard_problems, "dashboard", "REDUCE_SUM", "REDUCE_SUMM"),
    Mistake("unknown field of a chart", dashboard_problems, "dashboard", "legendTemplate", "legend"),
    Mistake(
        "unbalanced query", query_problems, "round_stuck", "histogram_quantile(0.99, sum", "histogram_quantile(sum"
    ),
    Mistake("unknown function", query_problems, "tick_silent", "absent_over_time(", "missing_over_time("),
    Mistake(
        "unquoted metric", query_problems, "unreachable", '{\\"monitoring.googleapis.com', "{monitoring.googleapis.com"
    ),
    Mistake(
        "command without a region",
        text_problems,
        "queue_depth",
        "muster-commits --location=europe-west1",
        "muster-commits",
    ),
    Mistake(
        "command without a project",
        text_problems,
        "update_read",
        "--freshness=1d --project=a-project",
        "--freshness=1d",
    ),
    Mistake("text without an end", text_problems, "errors", "- 503 `unavailable`", "- 503" * 1800),
    Mistake(
        "query without an end",
        size_problems,
        "round_stuck",
        "histogram_quantile(0.99",
        "(" * 2000 + "histogram_quantile(0.99",
    ),
    Mistake(
        "metric must exist",
        first_apply_problems,
        PROMQL,
        '"disable_metric_validation": true',
        '"disable_metric_validation": false',
    ),
    Mistake(
        "threshold on a metric without data",
        first_apply_problems,
        "update_read",
        '"condition_threshold": [], "display_name": "an object',
        '"condition_threshold": [{"filter": "x"}], "display_name": "an object',
    ),
    Mistake(
        "metric that is not created", metric_problems, "refused_updates", "muster/updates_refused", "muster/refused"
    ),
    Mistake(
        "distribution read as a counter",
        metric_problems,
        "updates_old",
        "oldest_update_seconds_bucket",
        "oldest_update_seconds",
    ),
    Mistake("label that the metric has not", metric_problems, "refused_updates", "problem!~", "reason!~"),
]


@pytest.mark.parametrize("mistake", [pytest.param(mistake, id=mistake.name) for mistake in MISTAKES])
def test_planted_mistake_is_detected(plan, mistake):
    planted = []
    for resource in plan:
        # Metrics themselves keep their names.
        text = json.dumps(resource, sort_keys=True)
        is_metric = resource["type"] == "google_logging_metric"
        planted.append(resource if is_metric else json.loads(text.replace(mistake.old, mistake.new)))
    assert planted != plan, f"{mistake.old} is not in the plan"
    assert any(mistake.reported in key for key in mistake.check(planted))


@pytest.mark.parametrize(
    ("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)], ids=["optional", "required"]
)
def test_missing_package_is_named(monkeypatch, required, outcome):
    monkeypatch.setenv("MUSTER_REQUIRE_TERRAFORM", required)
    with pytest.raises(outcome, match="a-package is not installed"):
        package("no_such_module", "a-package")
