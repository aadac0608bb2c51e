"""Mutation tests of the Terraform tests: each mutation of a copy must make its assertion fail.

The mutations of one wave of a module are applied to one copy, which is tested once. Each must make
exactly its own assertions fail. Mutations that would hide each other are in different waves.

`make test-mutations` runs them. They take three minutes, and fail only where an assertion of the
Terraform tests was weakened.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import pytest
from support import terraform
from support.terraform import Copy, Verdict

pytestmark = pytest.mark.skipif(
    not os.environ.get("MUSTER_MUTATIONS"), reason="mutations of the Terraform tests: run `make test-mutations`"
)


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
    errors: tuple[str, ...] = ()  # parts of the other errors: of a check, or of a failure that is missing


MONITORING = "modules/monitoring"
EDGE = "modules/edge"
STATE = "modules/state"
LOGGING = "modules/logging"
IDENTITY = "modules/identity"
FUNCTIONS = "modules/functions"
QUEUE = "modules/queue"
PRODUCTION = "examples/production"

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
        r"index_config \{\}(\n\n +# A destroyed exemption)",
        r"index_config {}\n  ttl_config {}\1",
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
        (
            "Access to documents must be to this deployment's database alone.",
            "A second database must leave the access to the first as it is.",
        ),
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
        r'(name +\= var\.queue\n +role +\= )"roles/cloudtasks\.enqueuer"',
        r'\1"roles/cloudtasks.admin"',
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
        "destroyed exemption is indexed again",
        STATE,
        "main.tf",
        r'(the old one as it is\.\n +deletion_policy = )"ABANDON"',
        r'\1"DELETE"',
        ("No exemption may be undone in a database that is left behind: it would be indexed again.",),
    ),
    Mutation(
        "backups are stored for a day",
        STATE,
        "variables.tf",
        r"(backup_retention_days\" \{\n.*\n.*\n +default +\= )14",
        r"\g<1>1",
        ("By default the documents must have a daily backup that is stored for 14 days.",),
    ),
    Mutation(
        "backups can't be switched off",
        STATE,
        "main.tf",
        r"count = var\.backup_retention_days == 0 \? 0 : 1",
        "count = 1",
        ("With 0 days of retention there must be no backups.",),
        wave=1,
    ),
    Mutation(
        "audit database is unprotected",
        STATE,
        "main.tf",
        r'(\n +delete_protection_state +\= )var\.deletion_protection \? .*(\n +deletion_policy += "DELETE" # as)',
        r'\1"DELETE_PROTECTION_DISABLED"\2',
        ("The audit database must be protected, recoverable and encrypted as the documents are.",),
    ),
    Mutation(
        "audit log is indexed",
        STATE,
        "main.tf",
        r'contains\(\["audit", "enrolments"\]',
        'contains(["enrolments"]',
        ("Both fields of audit entries and enrolments must be exempt from indexes in their own database.",),
    ),
    Mutation(
        "live deployment gets a second database",
        STATE,
        "variables.tf",
        r'(variable "audit_database" \{\n(?:.*\n){2} +default +\= )null',
        r'\1"muster-audit"',
        ("A deployment that does not ask for a second database must not get one.",),
        wave=1,
    ),
    Mutation(
        "project's viewers read updates",
        IDENTITY,
        "main.tf",
        r'"roles/storage\.legacyObjectReader" = \[\]',
        '"roles/storage.legacyObjectReader" = ["projectViewer:${var.project_id}"]',
        (
            "Nobody may read updates and partials by a role that Google grants to the project's Editors and Viewers.",
            "By default only the project's owners may administer the buckets of updates and partials.",
        ),
    ),
    Mutation(
        "project's editors may read partials",
        IDENTITY,
        "main.tf",
        r'setproduct\(\["updates", "partials"\]',
        'setproduct(["updates", "blobs"]',
        (
            "Nobody may read updates and partials by a role that Google grants to the project's Editors and Viewers.",
            "An authoritative binding must be on updates and partials alone, and of no role that a function has.",
        ),
        wave=1,
    ),
    Mutation(
        "client API issues tokens",
        IDENTITY,
        "main.tf",
        r'permissions = \["iam\.serviceAccounts\.signBlob"\]',
        'permissions = ["iam.serviceAccounts.signBlob", "iam.serviceAccounts.getAccessToken"]',
        ("The client API may sign, and issue no tokens.",),
    ),
    Mutation(
        "client API writes the audit log",
        IDENTITY,
        "main.tf",
        r'client_api   = "projects/.*/roles/.*documents_get\[0\]\.role_id\}"',
        'client_api = "roles/datastore.user"',
        (
            (
                "Only the operator API may write the audit database; the client API may get from it, and the "
                "others have no permission."
            ),
        ),
    ),
    Mutation(
        "client API lists the audit log",
        IDENTITY,
        "main.tf",
        r'permissions = \["datastore\.entities\.get"\]',
        'permissions = ["datastore.entities.get", "datastore.entities.list"]',
        ("The client API must not list the audit log.",),
    ),
    Mutation(
        "client API can't cause a commit",
        IDENTITY,
        "main.tf",
        r"var\.commits_queue == null \? \[\] : local\.functions",
        'var.commits_queue == null ? [] : ["aggregator", "committer", "operator_api"]',
        ("Each function may put work into the committer's queue, and not run, list or delete it.",),
    ),
    Mutation(
        "builds read partials",
        IDENTITY,
        "main.tf",
        r'(for store in \["updates"), "partials"\]',
        r"\1]",
        ("No build may read updates and partials, whatever else it may read.",),
    ),
    Mutation(
        "committer is overrun",
        QUEUE,
        "main.tf",
        r"max_concurrent_dispatches = var\.commit_rates\.concurrent_dispatches",
        "max_concurrent_dispatches = var.rates.concurrent_dispatches",
        (
            "The committer's queue must not deliver more than the committer can process.",
            "The committer's rates must be those of its own queue.",
        ),
    ),
    Mutation(
        "commits share the aggregator's queue",
        QUEUE,
        "main.tf",
        r'"\$\{var\.name\}-commits"',
        "var.name",
        ("The committer's work must have a queue of its own, and the first queue must keep its name.",),
    ),
    Mutation(
        "reads are logged but of documents",
        LOGGING,
        "main.tf",
        r'"datastore\.googleapis\.com", ',
        "",
        ("Reads of documents, objects and secrets must be logged.",),
    ),
    Mutation(
        "addresses are stored for a month",
        LOGGING,
        "main.tf",
        r"retention_days = var\.log_retention_days",
        "retention_days = 30",
        ("Requests must be stored for as many days as are set, in the region that is set.",),
    ),
    Mutation(
        "events are left out of the log",
        LOGGING,
        "main.tf",
        r"(_Default.*\n(?:.*\n)*? +description = .*\n +filter +\= )local\.requests",
        r"\1local.functions",
        ("Exactly the requests that are stored elsewhere must be left out of _Default.",),
    ),
    Mutation(
        "addresses leave the project",
        LOGGING,
        "main.tf",
        r"try\(var\.log_sink\.requests, false\)",
        "true",
        ("The copy must hold the audit logs, and no addresses of clients unless they are asked for.",),
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
            "The callers of a service must be those of the function.",
            "Where the check is switched off, nothing may be granted to all.",
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
            "A service must be reached from where the function is.",
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
        r'(dynamic "secret_environment_variables" \{\n +for_each = ).*',
        r"\1[var.secret]",
        ("Only the client API may have the signing keys.",),
    ),
    Mutation(
        "functions share an account",
        FUNCTIONS,
        "main.tf",
        r"service_account_email( +)= var\.accounts\[each\.key\]",
        r'service_account_email\1= var.accounts["client_api"]',
        ("Each function must run as its own account.",),
    ),
    Mutation(
        "services share an account",
        FUNCTIONS,
        "main.tf",
        r"service_account( +)= var\.accounts\[each\.key\]",
        r'service_account\1= var.accounts["client_api"]',
        ("Each service must run as its function's account.",),
    ),
    Mutation(
        "every service has the signing keys",
        FUNCTIONS,
        "main.tf",
        r'(dynamic "env" \{\n +for_each = )each\.key == "client_api" \? .*',
        r"\1[var.secret]",
        ("Only the client API's service may have the signing keys.",),
    ),
    Mutation(
        "invoker check is switched off everywhere",
        FUNCTIONS,
        "main.tf",
        r'each\.key == "client_api" && var\.disable_invoker_check',
        "var.disable_invoker_check",
        ("The invoker check may be switched off for the client API alone.",),
    ),
    Mutation(
        "long commit is killed in a service",
        FUNCTIONS,
        "main.tf",
        r"^ +CLOUD_RUN_TIMEOUT_SECONDS = .*\n",
        "",
        ("A service must have the function's environment, and what Cloud Functions adds to it.",),
    ),
    Mutation(
        "instance gets requests before it answers",
        FUNCTIONS,
        "main.tf",
        r'path = "/health"',
        'path = "/"',
        ("An instance may get requests only once it answers.",),
    ),
    Mutation(
        "secret's project is named by its id",
        FUNCTIONS,
        "main.tf",
        r"coalesce\(var\.project_number, var\.project_id\)",
        "var.project_id",
        ("The secret's project must be named by its number.",),
    ),
    Mutation(
        "functions are built in Google's pool",
        FUNCTIONS,
        "main.tf",
        r"worker_pool( +)= var\.worker_pool",
        r"worker_pool\1= null",
        ("Functions must be built for the chosen runtime, in the chosen pool.",),
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
            "The callers of a service must be those of the function.",
            "Where the check is switched off, nothing may be granted to all.",
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
        r"(no longer needs succeeds at once\.\n +retry_config \{\n +max_attempts +\= )-1",
        r"\g<1>5",
        ("Work must be delivered until it is done, without an end by count or time.",),
    ),
    Mutation(
        "clients go past the load balancer",
        ".",
        "main.tf",
        r'try\(var\.domain\.exclusive, false\) \? "ALLOW_INTERNAL_AND_GCLB" : "ALLOW_ALL"',
        '"ALLOW_ALL"',
        ("With a domain, clients are to come by the load balancer alone.",),
    ),
    Mutation(
        "a new domain cuts off the clients of a live deployment",
        ".",
        "main.tf",
        r"try\(var\.domain\.exclusive, false\)",
        "var.domain != null",
        ("A domain that is not exclusive must leave the client API's own address to the clients that use it.",),
        wave=1,
    ),
    Mutation(
        "defaults are above a new project's quota",
        ".",
        "main.tf",
        r"local\.open_max_instances : 20\)",
        "local.open_max_instances : 50)",
        (
            (
                "The defaults must stay within a new project's quota of 20 CPUs and 40 GiB for each "
                "function in a region."
            ),
            "The default number of instances must be 20 for the client API and 5 for the committer.",
            "Where IAM admits callers, an open deployment is not open to all.",
        ),
    ),
    Mutation(
        "anybody starts many instances",
        ".",
        "main.tf",
        r"local\.open_to_all \? local\.open_max_instances : 20\)",
        "20)",
        ("While anyone may join, the client API must have few instances, since every caller costs money.",),
        wave=1,
    ),
    Mutation(
        "first functions do not wait for their permissions",
        ".",
        "main.tf",
        r'create_duration = "90s"',
        'create_duration = "0s"',
        ("A first apply must wait for enabled APIs and for granted permissions, and a destroy for nothing.",),
    ),
    Mutation(
        "an API that is enabled later is not waited for",
        ".",
        "main.tf",
        r'join\(",", sort\(local\.apis\)\)',
        '""',
        ("An API that is enabled later must be waited for too.",),
    ),
    Mutation(
        "Cloud Functions' agent changes images",
        ".",
        "main.tf",
        r"roles/artifactregistry\.reader",
        "roles/artifactregistry.writer",
        ("Cloud Functions' service agent must be able to read the repository of images.",),
    ),
    Mutation(
        "a refused region names far ones",
        ".",
        "main.tf",
        r'startswith\(region, "\$\{other\}-"\)',
        'region != "${other}-"',
        ("Where a region is refused, the supported ones nearby must be named, and no other.",),
    ),
    Mutation(
        "gcloud's own tokens are always accepted",
        ".",
        "main.tf",
        r'var\.accept_gcloud_tokens \? local\.gcloud : ""',
        "local.gcloud",
        ("Without gcloud's tokens, the operator API's own address must be the only audience.",),
        wave=1,
    ),
    Mutation(
        "production is open to all",
        PRODUCTION,
        "main.tf",
        r"clients +\= var\.clients\n([\s\S]*?)max_instances = 20",
        'clients = "open"\n  allow_open_clients = true\n\\1max_instances = 3',
        (),
        wave=1,
        errors=("clients is open: client identity is self-asserted",),
    ),
    Mutation(
        "production is open to all by mistake",
        PRODUCTION,
        "main.tf",
        r"clients +\= var\.clients\n",
        'clients = "open"\n',
        (),
        wave=2,
        errors=("clients is open, and the client API is public",),
    ),
    Mutation(
        "a region without Cloud Tasks is accepted",
        ".",
        "variables.tf",
        r"contains\(local\.supported_regions, var\.region\)",
        'var.region != ""',
        (),
        wave=2,
        errors=("var.region, was expected to report an error",),
    ),
    Mutation(
        "an image by tag is accepted",
        FUNCTIONS,
        "variables.tf",
        r'"@sha256:\[0-9a-f\]\{64\}\$"',
        '":"',
        (),
        wave=1,
        errors=("var.images, was expected to report an error",),
    ),
    Mutation(
        "production is above a new project's quota",
        PRODUCTION,
        "main.tf",
        r"max_instances = 5 \}",
        "max_instances = 6 }",
        (
            (
                "The production example must stay within a new project's quota of 20 CPUs and 40 GiB for "
                "each function in a region."
            ),
        ),
    ),
    Mutation(
        "production accepts gcloud's own tokens",
        PRODUCTION,
        "main.tf",
        r"accept_gcloud_tokens = false",
        "accept_gcloud_tokens = true",
        ("The production example must accept operators' tokens for its own operator API alone.",),
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
        r'var\.accept_gcloud_tokens \? local\.gcloud : ""',
        '""',
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


# The only file of tests that a wave needs, by module and wave: each file of the root takes many
# seconds. Other waves need all files of their module.
FILES = {
    (".", 0): "deployment.tftest.hcl",
    (".", 1): "deployment.tftest.hcl",
    (".", 2): "refusals.tftest.hcl",
}


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
        return copy.test(module, FILES.get((module, wave)))

    return verdict


@pytest.mark.parametrize("mutation", waves(MUTATIONS))
def test_mutation_is_detected(verdicts, mutation):
    verdict = verdicts(mutation.module, mutation.wave)
    same_wave = [other for other in MUTATIONS if (other.module, other.wave) == (mutation.module, mutation.wave)]
    assert set(mutation.messages) <= verdict.assertions
    assert verdict.assertions == {message for other in same_wave for message in other.messages}
    assert all(any(part in error for error in verdict.errors) for part in mutation.errors)
    expected = [part for other in same_wave for part in other.errors]
    assert not [error for error in verdict.errors if not any(part in error for part in expected)]
