"""Paths of documents and names of blobs. None of them reveals a client's identity.

Documents:

tasks/{task}                          the task
tasks/{task}/rounds/{round}           one attempt of one round
tasks/{task}/sweeps/progress          the last round up to which all are swept
tasks/{task}/sweeps/retention         up to which round the task's retention has decided
tasks/{task}/requests/{hash}          a run of a driven task, by its request
tasks/{task}/keys/share               key of an evaluation's share of the clients
deleted/{hash}                        a deleted task, whose name is not free again yet
checkins/{hour}.{population}          outcomes of check-ins in one hour
populations/{population}/tasks/{task} a task that the population's check-ins consider
audit/{time}-{nonce}[.outcome]        an operator's action, and its outcome
enrolments/revoked                    the revoked enrolment tokens

Documents of an attempt, under tasks/{task}/rounds/{round}:

tickets/{n}                           slots that were assigned and returned
shards/{n}                            number of accepted updates
shards/looks                          thresholds of the shards for the next goal check
keys/pseudonyms                       key and salt of the round's pseudonyms
holders/{pseudonym}                   the slot that a client holds; deleted with the round

Blobs:

plans/{sha256}/{client|full}          the plan: the client's copy and the full plan
states/{sha256}                       a server state that an operator stored
updates/{hash}/{task}/{round}/{shard}/{pseudonym}
                                      one update; its name is the ledger
updates/{hash}/…/{pseudonym}.uploaded empty: the client's report of a direct upload
manifests/{task}/{round}/…            frozen lists of updates; deleted with the round
partials/{task}/{round}/{part}        one partial
{broadcasts|checkpoints|results}/{task}/{number}-{nonce}
bases/{task}/{number}-{hash}          base of a round from outside the task; deleted with the round
…/client.{encoding}, broadcasts/….{encoding}
                                      an encoded copy
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class RoundKey:
    """Key of one attempt of one round.

    `epoch` counts the attempts and is a fencing token: a token or blob of an older one is void.
    """

    task: str
    number: int
    epoch: int

    @property
    def id(self) -> str:
        """Id of the attempt among those of the task. Ids sort in the order of the rounds."""
        return f"{self.number:06d}-{self.epoch:04d}"

    @classmethod
    def parse(cls, task: str, round_id: str) -> RoundKey:
        """Returns the key with this `id`. Raises `ValueError` for any other text."""
        number, _, epoch = round_id.partition("-")
        return cls(task, int(number), int(epoch))


def task_path(task: str) -> str:
    """Returns the task's document."""
    return f"tasks/{task}"


def rounds_path(task: str) -> str:
    """Returns the collection of the task's rounds."""
    return f"tasks/{task}/rounds"


def round_path(key: RoundKey) -> str:
    """Returns the round's document."""
    return f"{rounds_path(key.task)}/{key.id}"


def tickets_path(key: RoundKey) -> str:
    """Returns the collection of the round's ticket counters."""
    return f"{round_path(key)}/tickets"


def ticket_path(key: RoundKey, counter: int) -> str:
    """Returns a ticket counter's document."""
    return f"{tickets_path(key)}/{counter:04d}"


def shards_path(key: RoundKey) -> str:
    """Returns the collection of the round's shards."""
    return f"{round_path(key)}/shards"


def shard_path(key: RoundKey, shard: int) -> str:
    """Returns the document that counts a shard's updates."""
    return f"{shards_path(key)}/{shard:04d}"


GOAL_THRESHOLDS = "looks"  # id of the document beside the shards' counters


def goal_thresholds_path(key: RoundKey) -> str:
    """Returns the document of the shards' thresholds for the next goal check."""
    return f"{shards_path(key)}/{GOAL_THRESHOLDS}"


def pseudonym_key_path(key: RoundKey) -> str:
    """Returns the document with the key and the salt of the round's pseudonyms."""
    return f"{round_path(key)}/keys/pseudonyms"


def holders_path(key: RoundKey) -> str:
    """Returns the collection of the round's slot holders."""
    return f"{round_path(key)}/holders"


def holder_path(key: RoundKey, pseudonym: str) -> str:
    """Returns the document of the slot that a client holds."""
    return f"{holders_path(key)}/{pseudonym}"


def round_collections(key: RoundKey) -> tuple[str, ...]:
    """Returns the collections of documents under the round's document."""
    return (tickets_path(key), shards_path(key), f"{round_path(key)}/keys", holders_path(key))


def population_tasks_path(population: str) -> str:
    """Returns the collection of a population's tasks."""
    return f"populations/{population}/tasks"


def member_path(population: str, task: str) -> str:
    """Returns the document that makes a task a member of a population."""
    return f"{population_tasks_path(population)}/{task}"


def sweep_progress_path(task: str) -> str:
    """Returns the document that names the last of the task's rounds up to which all are swept."""
    return f"{task_path(task)}/sweeps/progress"


def retention_progress_path(task: str) -> str:
    """Returns the document that names the last round on which the task's retention has decided."""
    return f"{task_path(task)}/sweeps/retention"


def sweeps_path(task: str) -> str:
    """Returns the collection of the progress of the task's sweeps."""
    return f"{task_path(task)}/sweeps"


def requests_path(task: str) -> str:
    """Returns the collection of the runs of a driven task, by their requests."""
    return f"{task_path(task)}/requests"


def request_path(task: str, request: str) -> str:
    """Returns the document of the run that answers a request."""
    return f"{requests_path(task)}/{_hash(request)}"


def task_keys_path(task: str) -> str:
    """Returns the collection of the names of the task's keys."""
    return f"{task_path(task)}/keys"


def share_key_path(task: str) -> str:
    """Returns the document that names the key of an evaluation's share of the clients."""
    return f"{task_keys_path(task)}/share"


DELETED = "deleted"  # collection of the names of deleted tasks


def deleted_path(task: str) -> str:
    """Returns the document that reserves a deleted task's name. The path does not contain it."""
    return f"{DELETED}/{_hash(task)}"


CHECKINS = "checkins"  # collection of the outcomes of check-ins


def checkins_path(population: str, hour: int) -> str:
    """Returns the document that counts a population's check-ins of one hour.

    Args:
      population: The population.
      hour: The hour, in hours since 1970. Ids sort by hour.
    """
    return f"{CHECKINS}/{checkins_cursor(hour)}{population}"


def checkins_cursor(hour: int) -> str:
    """Returns a cursor that sorts before every id of `hour` and later hours."""
    return f"{hour:08d}."


def checkins_of(document_id: str) -> tuple[int, str]:
    """Returns the hour and the population of a document of check-ins.

    Raises `ValueError` for any other id.
    """
    hour, _, population = document_id.partition(".")
    return int(hour), population


def state_name(sha256: str) -> str:
    """Returns the blob of a stored server state."""
    return f"states/{sha256}"


def base_name(task: str, number: int, source: str) -> str:
    """Returns the blob of the base that a round takes from outside the task.

    Args:
      task: The task.
      number: The round's number.
      source: Text that determines the base's bytes, together with the task's plan.
    """
    return output_prefix("bases", task, number) + _hash(source)


def first_checkpoint_name(task: str, source: str) -> str:
    """Returns the blob of version 0 of a task that starts from the state that `source` names.

    An empty `source` is the plan's initial state.
    """
    return output_prefix("checkpoints", task, 0) + (_hash(source) if source else "initial")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


AUDIT = "audit"


def audit_path(entry: str) -> str:
    """Returns the document of an entry of the audit log."""
    return f"{AUDIT}/{entry}"


REVOCATIONS = "enrolments/revoked"


def plan_name(sha256: str, *, for_client: bool) -> str:
    """Returns the blob of a plan: the client's copy or the full plan."""
    return f"plans/{sha256}/{'client' if for_client else 'full'}"


def variant_name(name: str, encoding: str) -> str:
    """Returns the blob of the encoded copy of `name`."""
    return f"{name}.{encoding}"


def original_name(name: str) -> str:
    """Returns the blob that `name` is an encoded copy of, or `name` itself."""
    return name.partition(".")[0]


UPDATES = "updates/"
PARTIALS = "partials/"
MANIFESTS = "manifests/"


def updates_prefix(key: RoundKey, shard: int) -> str:
    """Returns the prefix of a shard's updates.

    It starts with a hash, so that a store that splits its keys by range spreads the load.
    """
    spread = hashlib.sha256(f"{key.task}/{key.id}/{shard}".encode()).hexdigest()[:4]
    return f"{UPDATES}{spread}/{key.task}/{key.id}/{shard:04d}/"


def update_name(key: RoundKey, shard: int, pseudonym: str) -> str:
    """Returns the blob of a client's update. A client has only this name in a round."""
    return updates_prefix(key, shard) + pseudonym


def uploaded_name(key: RoundKey, shard: int, pseudonym: str) -> str:
    """Returns the empty blob that makes a client's report of a direct upload idempotent."""
    return update_name(key, shard, pseudonym) + ".uploaded"


def round_of(name: str) -> RoundKey:
    """Returns the round that an update, a partial or a manifest belongs to.

    Raises `ValueError` for any other name.
    """
    parts = name.split("/")
    task, round_id = parts[2:4] if name.startswith(UPDATES) else parts[1:3]
    return RoundKey.parse(task, round_id)


def round_manifests_prefix(key: RoundKey) -> str:
    """Returns the prefix of all of a round's manifests and of its closing."""
    return f"{MANIFESTS}{key.task}/{key.id}/"


def manifests_prefix(key: RoundKey, shard: int) -> str:
    """Returns the prefix of a shard's manifests."""
    return f"{round_manifests_prefix(key)}{shard:04d}/"


def manifest_name(key: RoundKey, shard: int, index: int) -> str:
    """Returns the blob of the `index`-th manifest of a shard."""
    return f"{manifests_prefix(key, shard)}{index:06d}"


def closing_name(key: RoundKey) -> str:
    """Returns the blob of the closing, which freezes the updates that the round counts."""
    return f"{round_manifests_prefix(key)}closing"


def shard_part(shard: int, index: int) -> str:
    """Returns the part (name of a partial) that a shard's manifest folds into."""
    return f"{shard:04d}-{index:06d}"


def rest_part(index: int) -> str:
    """Returns the part that the `index`-th list of remaining updates folds into."""
    return f"rest-{index:06d}"


def partials_prefix(key: RoundKey) -> str:
    """Returns the prefix of a round's partials."""
    return f"{PARTIALS}{key.task}/{key.id}/"


def partial_name(key: RoundKey, part: str) -> str:
    """Returns the blob of a partial."""
    return partials_prefix(key) + part


TASK_BLOBS = ("broadcasts", "checkpoints", "results", "bases", "manifests", "partials")


def task_prefixes(task: str) -> tuple[str, ...]:
    """Returns the prefixes of the task's blobs, without its updates, which start with a hash."""
    return tuple(f"{kind}/{task}/" for kind in TASK_BLOBS)


def output_prefix(kind: str, task: str, number: int) -> str:
    """Returns the prefix of a round's blobs of one kind, including those of lost commits.

    Args:
      kind: `checkpoints`, `results`, `broadcasts` or `bases`.
      task: The task.
      number: The round's number.
    """
    return f"{kind}/{task}/{number:06d}-"


def pseudonym(secret: bytes, key: RoundKey, identity: str, *, salt: bytes = b"") -> str:
    """Returns a client's name in one attempt of one round, which is not linkable to other rounds.

    Args:
      secret: The key of the round's pseudonyms.
      key: The round.
      identity: The client.
      salt: The round's salt. Without it the name can't be computed again, not even with `secret`.
        Empty for a round whose key was fixed by a version without salts.
    """
    text = f"{key.task}\n{key.id}\n{identity}".encode()
    return hmac.new(secret, salt + text, hashlib.sha256).hexdigest()[:32]


def shard_of(pseudonym: str, shards: int) -> int:
    """Returns a client's shard. All its assignments of a round are in one shard, under one name."""
    return int(pseudonym[:8], 16) % shards
