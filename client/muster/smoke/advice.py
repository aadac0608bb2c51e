"""Checks to advise when a step fails.

Commands use the default names of the Terraform module, with the prefix `muster`. REGION and
PROJECT stand for those of the deployment: gcloud's defaults belong to the machine, or to an App
Engine app that does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping

from muster.wire.messages import WaitReason
from muster.wire.problems import ProblemError, ProblemType

Hints = Mapping[ProblemType, tuple[str, ...]]


# Parts of the errors at which an apply is known to stop. The guide has the cause and fix of each.
KNOWN_STOPS = (
    "Cannot find metric(s) that match type",
    "SERVICE_DISABLED",
    "Unable to retrieve the repository metadata",
    "maxScale may not exceed",
    "CpuAllocPerProjectRegion",
    "MemAllocPerProjectRegion",
    "is not a valid location",
    "does not exist",
    "do not belong to a permitted customer",
    "cannot run builds in this region",
)
GUIDE = "docs/how-to/deploy-to-google-cloud.md"


def _logs(function: str) -> str:
    command = f"gcloud run services logs read muster-{function} --limit 50 --region REGION --project PROJECT"
    return f"the function's log: `{command}` (muster up: logs/ in its folder)"


def _queue(name: str) -> str:
    return (
        f"the queue: `gcloud tasks list --queue {name} --location REGION --project PROJECT` shows waiting work and its "
        f"attempts, `gcloud tasks queues describe {name} --location REGION --project PROJECT` whether it is paused"
    )


_APPLIED = (
    "whether `terraform apply` ended with `Apply complete!`. If it stopped, search "
    f"{GUIDE} for the error, such as " + ", ".join(f"`{stop}`" for stop in KNOWN_STOPS)
)
_WAIT = (
    "the time: in the first ten minutes after an apply, permissions are not known everywhere; wait five and try again"
)
UNREACHABLE = (
    "whether the address is right: `terraform output client_url` and `terraform output operator_url`",
    "whether it runs, and whether a proxy or firewall blocks it: `curl -v URL/openapi.json`",
    _APPLIED,
)
_BUSY = (
    (
        "whether all instances are busy: `max_instances` in `functions`. Before raising it, request more of the quotas "
        "CpuAllocPerProjectRegion and MemAllocPerProjectRegion, or the apply stops at `maxScale may not exceed`"
    ),
    "whether instances start: the function's log at severity ERROR",
)
_UNAVAILABLE = (
    "the database and the buckets: their roles, and the status page of the region",
    "whether the queue sleeps: after 30 days without work Cloud Tasks needs some minutes to wake it up; try again",
)
CLIENT_API: Hints = {
    ProblemType.FORBIDDEN: (
        _WAIT,
        "the invokers of client_api: without `public_clients` only members with roles/run.invoker have access",
        (
            "whether the organization refuses `allUsers` (domain-restricted sharing): `gcloud run services update "
            "muster-client-api --no-invoker-iam-check --region REGION --project PROJECT`"
        ),
    ),
    ProblemType.UNAUTHENTICATED: (
        "MUSTER_CLIENTS of client_api: for enrolment:KEY, pass KEY's private key as --enrolment-key",
        "MUSTER_CLIENTS of client_api: with oidc: or proxy:, the smoke test has no identity and must end here",
    ),
    ProblemType.NOT_FOUND: (
        "whether --url is the address of client_api",
        "whether a `domain` was added: with `exclusive`, it alone is served, and the run.app address answers 404",
        _APPLIED,
    ),
    ProblemType.INTERNAL: (_logs("client-api"),),
}
OPERATOR_API: Hints = {
    ProblemType.FORBIDDEN: (
        _WAIT,
        "whether your account is among `operators`: it needs roles/run.invoker on operator_api",
        "whether the token is for this address and at most an hour old: `gcloud auth print-identity-token`",
    ),
    ProblemType.UNAUTHENTICATED: (
        "whether a token is set: --token, or MUSTER_OPERATOR_TOKEN=$(gcloud auth print-identity-token)",
        "whether your address is in MUSTER_OPERATORS of operator_api (Terraform: `operators`), which lists no groups",
        (
            "whether `accept_gcloud_tokens` is false: then only a service account's token is accepted, `gcloud auth "
            "print-identity-token --impersonate-service-account=ACCOUNT --include-email --audiences=OPERATOR_URL`"
        ),
    ),
    ProblemType.PLAN_INVALID: (
        "MUSTER_TRUSTED_SIGNERS of operator_api: pass the private key of one of them as --key (`muster plan keygen`)",
    ),
    ProblemType.NOT_FOUND: (
        "whether --operator-url is the address of operator_api, which differs from client_api's",
        _APPLIED,
    ),
    ProblemType.INTERNAL: (_logs("operator-api"),),
}
OPENING = (
    _queue("muster-commits"),
    "whether the queue's account may call the committer: roles/run.invoker for MUSTER_INVOKER",
    _WAIT,
    "MUSTER_COMMITTER_URL of operator_api, and the committer's memory (TensorFlow takes 400 MB)",
    _logs("committer"),
)
CLOSING = (
    _queue("muster"),
    "whether the queue's account may call the aggregator: roles/run.invoker for MUSTER_INVOKER",
    (
        "MUSTER_AGGREGATOR_URL of client_api, and whether the scheduler sends ticks, which repair lost work: "
        "`gcloud scheduler jobs describe muster-tick --location REGION --project PROJECT`"
    ),
    _logs("aggregator"),
)
COMMITTING = (
    "the aggregator's roles: it must read updates, and write partials and manifests",
    _logs("aggregator"),
    "the committer's roles: it must read partials, and write results and checkpoints",
    _logs("committer"),
    _queue("muster-commits"),
    "MUSTER_COMMITTER_URL of the aggregator",
)
COMPUTATION = (
    "the note above: the plan's computation failed in the committer, perhaps due to its TensorFlow version or memory",
    _logs("committer"),
)
PAUSED = ("which operator paused it (`muster audit`), then start the smoke test again: it creates a new task",)
UPLOADING = (
    "whether client_api may create objects in the updates' bucket: storage.objects.create",
    _logs("client-api"),
)
DIRECT = (
    "whether client_api's account may sign: it needs iam.serviceAccounts.signBlob on itself",
    _WAIT,
    "whether it may create objects in the updates' bucket: storage.objects.create",
    "whether this machine reaches https://storage.googleapis.com; MUSTER_DIRECT_ABOVE=never turns direct uploads off",
    _logs("client-api"),
)
WRONG = (
    (
        "whether all four functions belong to one deployment: `gcloud functions list --v2 --regions REGION --project "
        "PROJECT` shows their update times"
    ),
    "whether another deployment uses the same buckets or database",
)
SLOTS = (
    "whether client_api and operator_api have the same MUSTER_STATE: otherwise client_api does not see the task",
    _logs("client-api"),
)
TENSORFLOW = ("this machine's Python: `pip install 'muster-fl[tensorflow]'`",)
_BY_STATUS = {
    401: ProblemType.UNAUTHENTICATED,
    403: ProblemType.FORBIDDEN,
    404: ProblemType.NOT_FOUND,
}
_OF_STATUS = {429: _BUSY, 503: _BUSY}
_WAITS = {
    WaitReason.NO_TASK: "client_api has no task of this population",
    WaitReason.ROUND_FULL: "client_api reports a full round, although the test's clients are the only ones",
    WaitReason.BETWEEN_ROUNDS: "client_api sees no open round, although operator_api does",
    WaitReason.ALREADY_IN: "client_api reports a contribution of this client, although it has made none",
    WaitReason.TASK_PAUSED: "the task was paused",
    WaitReason.TOO_SOON: "client_api reports a too early check-in, although this client never contributed",
}


def of_problem(error: ProblemError, hints: Hints) -> tuple[str, ...]:
    """Returns the checks to advise after a refused call."""
    if error.type is ProblemType.UNAVAILABLE:
        return _UNAVAILABLE
    return hints.get(error.type, ())


def of_status(status: int, hints: Hints) -> tuple[str, ...]:
    """Returns the checks to advise after another server's answer, such as Google's front end."""
    if status in _OF_STATUS:
        return _OF_STATUS[status]
    return hints.get(_BY_STATUS.get(status, ProblemType.INTERNAL), ()) or UNREACHABLE


def of_wait(reason: WaitReason) -> str:
    """Returns the meaning of a wait in the smoke test, where each client has a slot."""
    return _WAITS.get(reason, f"client_api has no work ({reason.value})")
