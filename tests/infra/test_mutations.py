"""Mutation tests of the Terraform tests: each mutation of a copy must make its assertion fail.

The mutations of one wave of a module are applied to one copy, which is tested once. Each must make
exactly its own assertions fail. Mutations that would hide each other are in different waves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
from support import terraform
from support.terraform import Copy, Verdict


@dataclass(frozen=True)
class Mutation:
    """Change that a test must detect: `replacement` for the only match of `pattern`."""

    name: str
    module: str
    file: str
    pattern: str
    replacement: str
    messages: tuple[str, ...]  # messages of the assertions that must fail
    wave: int = 0


MONITORING = "modules/monitoring"
EDGE = "modules/edge"
STATE = "modules/state"
IDENTITY = "modules/identity"
FUNCTIONS = "modules/functions"
QUEUE = "modules/queue"

MUTATIONS = [
    Mutation(
        "alert reaches nobody",
        MONITORING,
        "alerts.tf",
        r'(: \$\{each\.value\.title\}"\n(?:.*\n){2} +notification_channels += )var\.notification_channels',
        r"\1[]",
        ("each alert must reach the notification channels",),
    ),
    Mutation(
        "abandoned rounds raise no alert",
        MONITORING,
        "alerts.tf",
        r'"> \$\{var\.thresholds\.abandon_rate\}"',
        '"> 99"',
        ("the alert on abandoned rounds must compare with the threshold",),
    ),
    Mutation(
        "late clients raise an alert",
        MONITORING,
        "main.tf",
        r'no_refusal = \["round_closed", ',
        "no_refusal = [",
        ("clients that come too late are no reason for an alert",),
    ),
    Mutation(
        "old updates go unnoticed for a day",
        MONITORING,
        "variables.tf",
        r"update_age_seconds  = optional\(number, 3600\)",
        "update_age_seconds = optional(number, 86400)",
        ("updates older than an hour must raise an alert",),
    ),
    Mutation(
        "budget watches every project",
        MONITORING,
        "alerts.tf",
        r'projects +\= \["projects/\$\{var\.project_number\}"\]',
        "projects = []",
        ("the budget must watch this project alone",),
    ),
    Mutation(
        "condition needs its metric at a first apply",
        MONITORING,
        "alerts.tf",
        r"conditions\.value\.duration\n +evaluation_interval += .*\n +disable_metric_validation = true",
        'conditions.value.duration\nevaluation_interval = "60s"\ndisable_metric_validation = false',
        ("no condition may need a metric to exist: a first apply would stop",),
    ),
    Mutation(
        "one error at night pages",
        MONITORING,
        "variables.tf",
        r"error_requests      = optional\(number, 50\)",
        "error_requests = optional(number, 1)",
        ("one error among ten requests at night is no reason for an alert",),
    ),
    Mutation(
        "errors of all functions are added up",
        MONITORING,
        "alerts.tf",
        r'(requests +\= .*)service_name=~\\"\$\{join\("\|", sort\(values\(var\.services\)\)\)\}\\"',
        r"\1service_name=~\"${var.name}-.*\"",
        ("the alert on 5xx must watch each function by itself",),
    ),
    Mutation(
        "tick that never ran raises no alert",
        MONITORING,
        "alerts.tf",
        r'"absent_over_time\(',
        '"0 == count_over_time(',
        ("ten minutes without a tick must raise an alert, even if there never was one",),
    ),
    Mutation(
        "scheduler's failures go unnoticed",
        MONITORING,
        "alerts.tf",
        r"local\.metric\.tick_failures",
        "local.metric.rounds_committed",
        ("failed attempts of Cloud Scheduler must raise an alert",),
    ),
    Mutation(
        "successful attempts count as failures",
        MONITORING,
        "main.tf",
        r'"severity>=ERROR"',
        '"severity>=DEFAULT"',
        ("failed attempts at the tick, and no others, must be counted",),
    ),
    Mutation(
        "command of an alert names no region",
        MONITORING,
        "alerts.tf",
        r"queues describe \$\{queue\} --location=\$\{var\.region\}",
        "queues describe ${queue}",
        ("each gcloud command of an alert must name project and region",),
    ),
    Mutation(
        "uptime check asks for a page that is not there",
        MONITORING,
        "alerts.tf",
        r'path +\= "/health"',
        'path = "/"',
        ("the uptime check must ask client_api for /health",),
    ),
    Mutation(
        "unreachable service raises no alert",
        MONITORING,
        "alerts.tf",
        r'host=\\"\$\{local\.health_hosts\[count\.index\]\}',
        r"host=\"localhost",
        ("failed uptime checks must raise an alert",),
    ),
    Mutation(
        "reads of the aggregator alone raise an alert",
        MONITORING,
        "alerts.tf",
        r'^( +")NOT (protoPayload\.authenticationInfo\.principalEmail)',
        r"\1\2",
        ("each read of an update by another account than the aggregator's must raise an alert",),
    ),
    Mutation(
        "an incident of a read has no limit of messages",
        MONITORING,
        "alerts.tf",
        r'period = "300s"\n    \}\n  \}\n\n  documentation',
        'period = "0s"\n    }\n  }\n\n  documentation',
        ("an alert on log entries must have a limit of notifications",),
    ),
    Mutation(
        "objective on a metric that Monitoring does not know",
        MONITORING,
        "objectives.tf",
        r"var\.objectives\.rounds_in_console \? 1 : 0",
        "1",
        ("an objective on a log-based metric is refused at a first apply",),
    ),
    Mutation(
        "error budget is spent unnoticed",
        MONITORING,
        "alerts.tf",
        r"14\.4 \* \(1 - ",
        "100 * (1 - ",
        ("an error budget of check-ins that is spent 14.4 times too fast must raise an alert",),
    ),
    Mutation(
        "slow rounds go unnoticed",
        MONITORING,
        "alerts.tf",
        r'"%\.6g", 6 \* \(1 - ',
        '"%.6g", 19 * (1 - ',
        ("an error budget of rounds that is spent six times too fast must raise an alert",),
    ),
    Mutation(
        "one slow round pages",
        MONITORING,
        "alerts.tf",
        r"\[6h\]\)\) > 2",
        "[6h])) > 0",
        ("one slow round is no reason for an alert",),
    ),
    Mutation(
        "second queue is not shown",
        MONITORING,
        "dashboard.tf",
        r"for queue in var\.queues :",
        "for queue in slice(var.queues, 0, 1) :",
        ("the dashboard must show each queue",),
    ),
    Mutation(
        "a day's measurement is drawn by the minute",
        MONITORING,
        "dashboard.tf",
        r'period = "86400s"',
        'period = "60s"',
        ("bytes of buckets are measured once a day, and must be shown so",),
    ),
    Mutation(
        "state of queues is not shown",
        MONITORING,
        "dashboard.tf",
        r'"Queues: state now"',
        '"Queues"',
        ("the dashboard must show depth and state of the queues",),
    ),
    Mutation(
        "plain HTTP is answered",
        EDGE,
        "main.tf",
        r'port_range( +)= "443"',
        r'port_range\1= "80"',
        ("the load balancer must listen on port 443 alone",),
    ),
    Mutation(
        "old TLS is spoken",
        EDGE,
        "main.tf",
        r'"TLS_1_2"',
        '"TLS_1_0"',
        ("TLS below 1.2 must be refused",),
    ),
    Mutation(
        "policy stands before nothing",
        EDGE,
        "main.tf",
        r"security_policy +\= google_compute_region_security_policy\.edge\.id",
        "security_policy = null",
        ("the policy must stand before client_api",),
    ),
    Mutation(
        "limit is for all addresses together",
        EDGE,
        "main.tf",
        r'enforce_on_key = "IP"',
        'enforce_on_key = "ALL"',
        ("each address must be limited, and told so with 429",),
    ),
    Mutation(
        "default rule lets all pass",
        EDGE,
        "main.tf",
        r'"deny\(403\)"',
        '"allow"',
        ("the default rule must refuse what came past the limit",),
    ),
    Mutation(
        "deleted updates are kept for a week",
        STATE,
        "main.tf",
        r"updates  = \{ delete_after = var\.longest_round_days, soft_delete_days = 0 \}",
        "updates = { delete_after = var.longest_round_days, soft_delete_days = 7 }",
        (
            "A deleted update must be gone: soft delete of its bucket must be 0.",
            "A deleted update must be gone, whatever is set.",
        ),
    ),
    Mutation(
        "deleted partials are kept for a week",
        STATE,
        "main.tf",
        r"delete_after = var\.longest_round_days \+ 29, soft_delete_days = 0",
        "delete_after = var.longest_round_days + 29, soft_delete_days = 7",
        ("A deleted partial must be gone: soft delete of its bucket must be 0.",),
    ),
    Mutation(
        "public access is left to the organisation",
        STATE,
        "main.tf",
        r'"enforced"',
        '"inherited"',
        ("Public access prevention must be enforced on every bucket, not inherited.",),
    ),
    Mutation(
        "objects have lists of access of their own",
        STATE,
        "main.tf",
        r"uniform_bucket_level_access = true",
        "uniform_bucket_level_access = false",
        ("Every bucket must have uniform access: an object's own list of access would go past IAM.",),
    ),
    Mutation(
        "versions are kept",
        STATE,
        "main.tf",
        r"versioning \{\n    enabled = false",
        "versioning {\n    enabled = true",
        ("Versioning would keep what was deleted: it must be off.",),
    ),
    Mutation(
        "oldest key signs",
        STATE,
        "main.tf",
        r"for id in var\.signing_keys : \"",
        'for id in reverse(var.signing_keys) : "',
        ("The key ring must have the newest key first: the first signs.",),
    ),
    Mutation(
        "keys are short",
        STATE,
        "main.tf",
        r"length = 32",
        "length = 16",
        ("A signing key must have 32 bytes.",),
    ),
    Mutation(
        "documents end by themselves",
        STATE,
        "main.tf",
        r"index_config \{\}",
        "index_config {}\n  ttl_config {}",
        ("No TTL: it deletes within a day or so, which is too late for privacy and too early for a round.",),
    ),
    Mutation(
        "nothing catches updates that are left behind",
        STATE,
        "main.tf",
        r"updates  = \{ delete_after = var\.longest_round_days,",
        "updates = { delete_after = null,",
        (
            "As a backstop, updates must be deleted after a day.",
            "No update and no partial of a round that still collects may be deleted by age.",
        ),
        wave=1,
    ),
    Mutation(
        "client API reads updates",
        IDENTITY,
        "../../access.json",
        r'("client_api": \{\s*"updates": *\{\s*"updates/": *\[)"create"',
        r'\1"get", "create"',
        (
            "The client API may create and list updates, and must not read or delete one.",
            "Only the aggregator may read and delete updates.",
        ),
    ),
    Mutation(
        "committer reads the signing keys",
        IDENTITY,
        "main.tf",
        r'(secretAccessor"\n +member += "serviceAccount:\$\{local\.emails\[)"client_api"',
        r'\1"committer"',
        ("Only the client API may read the signing keys.",),
    ),
    Mutation(
        "client API reads every blob",
        IDENTITY,
        "main.tf",
        r"/objects/\$\{prefix\}",
        "/objects/",
        (
            "The client API may read nothing but plans and broadcasts: no checkpoint, no result, no manifest.",
            "The operator API may replace plans, which takes a delete, and delete nothing else.",
        ),
    ),
    Mutation(
        "operator API deletes results",
        IDENTITY,
        "../../access.json",
        r'"results/": \["get"\]',
        '"results/": ["get", "delete"]',
        ("The operator API may replace plans, which takes a delete, and delete nothing else.",),
        wave=1,
    ),
    Mutation(
        "functions reach every database",
        IDENTITY,
        "main.tf",
        r"/databases/\$\{var\.database\}",
        "/databases/(default)",
        ("Access to documents must be to this deployment's database alone.",),
    ),
    Mutation(
        "role may do more than it says",
        IDENTITY,
        "main.tf",
        r'permissions = \["storage\.objects\.\$\{each\.key\}"\]',
        'permissions = ["storage.objects.${each.key}", "storage.objects.update"]',
        ("A role must hold one permission on objects, and no other.",),
    ),
    Mutation(
        "functions administer the queue",
        IDENTITY,
        "main.tf",
        r"roles/cloudtasks\.enqueuer",
        "roles/cloudtasks.admin",
        ("Functions may put work into the queue, and not run, list or delete it.",),
    ),
    Mutation(
        "committer reads updates",
        IDENTITY,
        "../../access.json",
        r'"committer": \{',
        '"committer": {"updates": {"updates/": ["get"]},',
        (
            "Only the aggregator may read and delete updates.",
            (
                "Nobody but the client API and the aggregator may do anything to updates: the committer "
                "and the operator API see none."
            ),
        ),
        wave=1,
    ),
    Mutation(
        "anyone calls the aggregator",
        FUNCTIONS,
        "main.tf",
        r'aggregator +\= \["serviceAccount:\$\{var\.invoker\}"\]',
        'aggregator = ["allUsers"]',
        (
            (
                "Anyone may call the client API, operators the operator API, and the invoker alone the "
                "aggregator and the committer."
            ),
        ),
    ),
    Mutation(
        "aggregator is reached from outside",
        FUNCTIONS,
        "main.tf",
        r'aggregator +\= "ALLOW_INTERNAL_ONLY"',
        'aggregator = "ALLOW_ALL"',
        (
            (
                "The internal routes must not be reached from outside: the ingress of aggregator and "
                "committer must be internal."
            ),
        ),
    ),
    Mutation(
        "changed bundle does not deploy",
        FUNCTIONS,
        "main.tf",
        r"-\$\{filesha256\(each\.value\)\}",
        "",
        ("A bundle's hash must be in its object's name: else a change does not deploy.",),
    ),
    Mutation(
        "every function has the signing keys",
        FUNCTIONS,
        "main.tf",
        r'each\.key == "client_api" \? \[var\.secret\] : \[\]',
        "[var.secret]",
        ("Only the client API may have the signing keys.",),
    ),
    Mutation(
        "functions share an account",
        FUNCTIONS,
        "main.tf",
        r"var\.accounts\[each\.key\]",
        'var.accounts["client_api"]',
        ("Each function must run as its own account.",),
    ),
    Mutation(
        "callers may change the service",
        FUNCTIONS,
        "main.tf",
        r'"roles/run\.invoker"',
        '"roles/run.admin"',
        ("Callers may call, and nothing else.",),
    ),
    Mutation(
        "anyone is an operator",
        FUNCTIONS,
        "main.tf",
        r"operator_api = var\.operators",
        'operator_api = ["allUsers"]',
        (
            (
                "Anyone may call the client API, operators the operator API, and the invoker alone the "
                "aggregator and the committer."
            ),
            "Where nobody is named, nobody may call the client API and the operator API.",
        ),
        wave=1,
    ),
    Mutation(
        "tick's token is for somebody else",
        QUEUE,
        "main.tf",
        r"audience +\= var\.aggregator_url",
        'audience = "https://elsewhere.example"',
        ("The tick must carry the invoker's token, for the aggregator.",),
    ),
    Mutation(
        "work is given up",
        QUEUE,
        "main.tf",
        r"max_attempts +\= -1",
        "max_attempts = 5",
        ("Work must be delivered until it is done, without an end by count or time.",),
    ),
    Mutation(
        "clients go past the load balancer",
        ".",
        "main.tf",
        r'var\.domain == null \? "ALLOW_ALL" : "ALLOW_INTERNAL_AND_GCLB"',
        '"ALLOW_ALL"',
        ("With a domain, clients are to come by the load balancer alone.",),
    ),
    Mutation(
        "a destroy disables others' APIs",
        ".",
        "main.tf",
        r"disable_on_destroy = false",
        "disable_on_destroy = true",
        ("A destroy must not disable an API that others in the project may use.",),
    ),
    Mutation(
        "a page reaches every bucket",
        STATE,
        "main.tf",
        r'each\.key == "updates" && length\(var\.cors_origins\)',
        "length(var.cors_origins)",
        ("Pages of the named origins may put updates, and read nothing.",),
    ),
    Mutation(
        "service accounts are let in as people",
        ".",
        "main.tf",
        r'"serviceAccount" : "user"',
        '"user" : "user"',
        ("Cloud Run must let through operators, viewers and further members, each as what it is.",),
    ),
    Mutation(
        "viewers operate",
        ".",
        "main.tf",
        r'"&viewers=',
        '"&operators=',
        ("Each address must have its own role in Muster, and nobody beside them one.",),
    ),
    Mutation(
        "gcloud's own tokens are refused",
        ".",
        "main.tf",
        r",\$\{local\.gcloud\}",
        "",
        (
            (
                "Each function must be told what it has to do with, and nothing else: stores, who "
                "operates, who clients are."
            ),
        ),
    ),
    Mutation(
        "load balancer's address is taken for every client's",
        ".",
        "main.tf",
        r"var\.domain == null \? 1 : 2",
        "var.domain == null ? 1 : 1",
        ("What is set of clients must reach the client API, with the load balancer as one more proxy.",),
    ),
    Mutation(
        "aggregator runs anybody's plan",
        ".",
        "main.tf",
        r"aggregator += \{ MUSTER_TRUSTED_SIGNERS = local\.signers \}",
        "aggregator = {}",
        ("Every function that stores or runs plans must know whose to trust.",),
    ),
]


def waves(mutations):
    return [
        pytest.param(
            mutation,
            id=mutation.name,
            marks=pytest.mark.xdist_group(f"terraform mutated {mutation.module} {mutation.wave}"),
        )
        for mutation in mutations
    ]


@pytest.fixture(scope="session")
def verdicts(tmp_path_factory):
    terraform.require()

    @cache
    def verdict(module: str, wave: int) -> Verdict:
        copy = Copy(tmp_path_factory.mktemp("mutated"))
        for mutation in MUTATIONS:
            if (mutation.module, mutation.wave) == (module, wave):
                copy.change(f"{module}/{mutation.file}", mutation.pattern, mutation.replacement)
        return copy.test(module)

    return verdict


@pytest.mark.parametrize("mutation", waves(MUTATIONS))
def test_mutation_is_detected(verdicts, mutation):
    verdict = verdicts(mutation.module, mutation.wave)
    same_wave = [other for other in MUTATIONS if (other.module, other.wave) == (mutation.module, mutation.wave)]
    assert set(mutation.messages) <= verdict.assertions
    assert verdict.assertions == {message for other in same_wave for message in other.messages}
    assert not verdict.errors
