"""What to look at when a step fails. Commands name the services as Terraform does by default, with the prefix `muster`."""

from __future__ import annotations

from collections.abc import Mapping

from muster.wire.messages import WaitReason
from muster.wire.problems import ProblemError, ProblemType

Hints = Mapping[ProblemType, tuple[str, ...]]


def _logs(function: str) -> str:
    return f"the function's log: `gcloud run services logs read muster-{function} --limit 50` (muster up: logs/ in its folder)"


UNREACHABLE = (
    "whether the address is right: `terraform output client_url` and `terraform output operator_url`",
    "whether it is up, and whether a proxy or firewall lies between: `curl -v URL/openapi.json`",
)
CLIENT_API: Hints = {
    ProblemType.FORBIDDEN: (
        "the invokers of client_api: without `public_clients` just the members with roles/run.invoker get in",
    ),
    ProblemType.UNAUTHENTICATED: (
        "MUSTER_CLIENTS of client_api: with enrolment:KEY give --enrolment-key the private key of that very KEY (`muster enrol key`)",
        "with oidc: or proxy: the smoke test has no identity to show, and what came before this step is what it can tell",
    ),
    ProblemType.NOT_FOUND: ("whether --url is client_api's address, and not another service's",),
    ProblemType.INTERNAL: (_logs("client-api"),),
}
OPERATOR_API: Hints = {
    ProblemType.FORBIDDEN: (
        "whether your account is among `operators`: it needs roles/run.invoker on operator_api",
        "whether the token is for this address and not over: `gcloud auth print-identity-token`, an hour at most",
    ),
    ProblemType.UNAUTHENTICATED: (
        "whether a token is given: --token, or MUSTER_OPERATOR_TOKEN=$(gcloud auth print-identity-token)",
        "whether your address is in MUSTER_OPERATORS of operator_api (Terraform: `operators`); a group's members are named one by one",
    ),
    ProblemType.PLAN_INVALID: (
        "MUSTER_TRUSTED_SIGNERS of operator_api: give --key the private key of one of them (`muster plan keygen`)",
    ),
    ProblemType.NOT_FOUND: ("whether --operator-url is operator_api's address: it is another one than the clients'",),
    ProblemType.INTERNAL: (_logs("operator-api"),),
}
OPENING = (
    "the queue: `gcloud tasks list --queue muster` shows whether work waits, and how often it was tried",
    "whether the queue's account may call the committer: roles/run.invoker for MUSTER_INVOKER",
    "MUSTER_COMMITTER_URL of operator_api, and the committer's memory (TensorFlow takes 400 MB)",
    _logs("committer"),
)
CLOSING = (
    "the queue: `gcloud tasks list --queue muster` shows whether work waits, and how often it was tried",
    "whether the queue's account may call the aggregator: roles/run.invoker for MUSTER_INVOKER",
    "MUSTER_AGGREGATOR_URL of client_api; and whether the scheduler's tick comes, which repairs what got lost",
    _logs("aggregator"),
)
COMMITTING = (
    "the fold: the aggregator must read updates, and write partials and manifests",
    _logs("aggregator"),
    "the commit: the committer must read partials, and write results and checkpoints",
    _logs("committer"),
    "the queue, and MUSTER_COMMITTER_URL of the aggregator: `gcloud tasks list --queue muster`",
)
COMPUTATION = (
    "the note above: the plan's own computation failed in the committer, perhaps for its TensorFlow or memory",
    _logs("committer"),
)
PAUSED = ("who paused it: only operators can. The smoke test makes a task of its own each time: start it again",)
UPLOADING = (
    "whether client_api may create objects in the updates' bucket: storage.objects.create",
    _logs("client-api"),
)
DIRECT = (
    "whether client_api's account may sign: Service Account Token Creator on itself",
    "whether it may create objects in the updates' bucket: storage.objects.create",
    "whether this machine reaches https://storage.googleapis.com; MUSTER_DIRECT_ABOVE=never turns direct uploads off",
    _logs("client-api"),
)
WRONG = (
    "whether all four functions are of one deployment: `gcloud functions list --v2` shows when each was updated",
    "whether the buckets and the database are this deployment's alone",
)
SLOTS = (
    "whether client_api and operator_api have the same MUSTER_STATE: the one does not see the other's task",
    _logs("client-api"),
)
TENSORFLOW = ("this machine's Python: `pip install 'muster-fl[tensorflow]'`",)
_BY_STATUS = {
    401: ProblemType.UNAUTHENTICATED,
    403: ProblemType.FORBIDDEN,
    404: ProblemType.NOT_FOUND,
}
_WAITS = {
    WaitReason.NO_TASK: "client_api knows of no task of this population",
    WaitReason.ROUND_FULL: "client_api says that every slot is taken, though this test's clients are the only ones",
    WaitReason.BETWEEN_ROUNDS: "client_api sees no open round, though operator_api does",
    WaitReason.ALREADY_IN: "client_api says that this client is done, though it has not begun",
    WaitReason.TASK_PAUSED: "the task was paused",
    WaitReason.TOO_SOON: "client_api says that it is too soon, though this client never contributed",
}


def of_problem(error: ProblemError, hints: Hints) -> tuple[str, ...]:
    """What to look at when a call was refused."""
    if error.type is ProblemType.UNAVAILABLE:
        return ("whether the stores answer: the database and the buckets, their roles, and the region's status page",)
    return hints.get(error.type, ())


def of_status(status: int, hints: Hints) -> tuple[str, ...]:
    """Returns the checks to advise after an answer that no coordinator wrote, such as one of Google's front end."""
    return hints.get(_BY_STATUS.get(status, ProblemType.INTERNAL), ()) or UNREACHABLE


def of_wait(reason: WaitReason) -> str:
    """What a wait means here, where there is a slot for each client."""
    return _WAITS.get(reason, f"client_api has no work ({reason.value})")
