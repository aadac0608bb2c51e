"""Paths of documents and names of blobs. None of them reveals a client's identity.

tasks/{task}                                     document: the task
tasks/{task}/rounds/{round id}                   document: one attempt of one round
tasks/{task}/rounds/{round id}/tickets/{n}       document: slots that were assigned and given back
tasks/{task}/rounds/{round id}/shards/{n}        document: number of accepted updates
tasks/{task}/rounds/{round id}/shards/looks      document: counts of the shards at which to check for the goal
tasks/{task}/rounds/{round id}/keys/pseudonyms   document: the key and the salt of the round's pseudonyms
tasks/{task}/rounds/{round id}/holders/{pseudonym}   document: the slot that a client holds; deleted with the round
populations/{population}/tasks/{task}            document: the tasks that a check-in considers
audit/{time}-{nonce}, audit/….outcome            document: an operator's action, and its outcome
enrolments/revoked                               document: the revoked enrolment tokens
plans/{sha256}/{client|full}                     blob: the plan, a device's copy and the whole
updates/{hash}/{task}/{round id}/{shard}/{pseudonym}   blob: one update; its name is the ledger
updates/{hash}/…/{pseudonym}.uploaded            blob, empty: the client's report of a direct upload
manifests/{task}/{round id}/…                    blob: frozen lists of updates; deleted with the round
partials/{task}/{round id}/{part}                blob: one accumulator
broadcasts|checkpoints|results/{task}/{round}-{nonce}   blob
…/client.{encoding}, broadcasts/….{encoding}    blob: the same, encoded for transfer
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class RoundKey:
    """One attempt of one round. `epoch` counts the attempts and fences them: what names an older one is void."""

    task: str
    number: int
    epoch: int

    @property
    def id(self) -> str:
        """The round's id among the task's rounds; ids sort as rounds follow one another."""
        return f"{self.number:06d}-{self.epoch:04d}"

    @classmethod
    def parse(cls, task: str, round_id: str) -> RoundKey:
        """The key that `id` came from. Raises `ValueError` for anything else."""
        number, _, epoch = round_id.partition("-")
        return cls(task, int(number), int(epoch))


def task_path(task: str) -> str:
    """The task's document."""
    return f"tasks/{task}"


def rounds_path(task: str) -> str:
    """The collection of the task's rounds."""
    return f"tasks/{task}/rounds"


def round_path(key: RoundKey) -> str:
    """The round's document."""
    return f"{rounds_path(key.task)}/{key.id}"


def tickets_path(key: RoundKey) -> str:
    """The collection of the round's ticket counters."""
    return f"{round_path(key)}/tickets"


def ticket_path(key: RoundKey, counter: int) -> str:
    """A ticket counter's document."""
    return f"{tickets_path(key)}/{counter:04d}"


def shards_path(key: RoundKey) -> str:
    """The collection of the round's shards."""
    return f"{round_path(key)}/shards"


def shard_path(key: RoundKey, shard: int) -> str:
    """A shard's counter of updates."""
    return f"{shards_path(key)}/{shard:04d}"


def looks_path(key: RoundKey) -> str:
    """The document that says at which counts of the shards to look for the goal."""
    return f"{shards_path(key)}/looks"


def pseudonym_key_path(key: RoundKey) -> str:
    """Returns the document with the key and the salt of the round's pseudonyms."""
    return f"{round_path(key)}/keys/pseudonyms"


def holders_path(key: RoundKey) -> str:
    """Returns the collection of the round's slot holders."""
    return f"{round_path(key)}/holders"


def holder_path(key: RoundKey, pseudonym: str) -> str:
    """Returns the document of the slot that a client holds."""
    return f"{holders_path(key)}/{pseudonym}"


def population_tasks_path(population: str) -> str:
    """The collection of a population's tasks."""
    return f"populations/{population}/tasks"


def member_path(population: str, task: str) -> str:
    """The document that makes a task one of a population's."""
    return f"{population_tasks_path(population)}/{task}"


def sweep_progress_path(task: str) -> str:
    """Returns the document that names the last of the task's rounds up to which all are swept."""
    return f"{task_path(task)}/sweeps/progress"


AUDIT = "audit"


def audit_path(entry: str) -> str:
    """An entry of the audit log."""
    return f"{AUDIT}/{entry}"


REVOCATIONS = "enrolments/revoked"


def plan_name(sha256: str, *, for_client: bool) -> str:
    """The blob of a plan."""
    return f"plans/{sha256}/{'client' if for_client else 'full'}"


def variant_name(name: str, encoding: str) -> str:
    """The blob that holds the blob `name` in a content encoding."""
    return f"{name}.{encoding}"


def original_name(name: str) -> str:
    """The blob that `name` is an encoded copy of, or itself."""
    return name.partition(".")[0]


UPDATES = "updates/"
PARTIALS = "partials/"
MANIFESTS = "manifests/"


def updates_prefix(key: RoundKey, shard: int) -> str:
    """Where a shard's updates are. The hash comes first, so that a store that splits its keys by range spreads the load."""
    spread = hashlib.sha256(f"{key.task}/{key.id}/{shard}".encode()).hexdigest()[:4]
    return f"{UPDATES}{spread}/{key.task}/{key.id}/{shard:04d}/"


def update_name(key: RoundKey, shard: int, pseudonym: str) -> str:
    """The one name under which a client's update of a round can be."""
    return updates_prefix(key, shard) + pseudonym


def uploaded_name(key: RoundKey, shard: int, pseudonym: str) -> str:
    """The blob by which a client's word that its update is in the store is counted once. Empty, and so no update."""
    return update_name(key, shard, pseudonym) + ".uploaded"


def round_of(name: str) -> RoundKey:
    """Returns the round that an update, a partial or a manifest belongs to. Raises `ValueError` for any other name."""
    parts = name.split("/")
    task, round_id = parts[2:4] if name.startswith(UPDATES) else parts[1:3]
    return RoundKey.parse(task, round_id)


def round_manifests_prefix(key: RoundKey) -> str:
    """Returns the prefix of all of a round's manifests and of its closing."""
    return f"{MANIFESTS}{key.task}/{key.id}/"


def manifests_prefix(key: RoundKey, shard: int) -> str:
    """Where a shard's manifests are."""
    return f"{round_manifests_prefix(key)}{shard:04d}/"


def manifest_name(key: RoundKey, shard: int, index: int) -> str:
    """The `index`-th manifest of a shard."""
    return f"{manifests_prefix(key, shard)}{index:06d}"


def closing_name(key: RoundKey) -> str:
    """The manifest of manifests, which freezes what the round counts."""
    return f"{round_manifests_prefix(key)}closing"


def shard_part(shard: int, index: int) -> str:
    """The part (name of a partial) that a shard's manifest folds into."""
    return f"{shard:04d}-{index:06d}"


def rest_part(index: int) -> str:
    """The part that the `index`-th list of left-over updates folds into."""
    return f"rest-{index:06d}"


def partials_prefix(key: RoundKey) -> str:
    """Where a round's partials are."""
    return f"{PARTIALS}{key.task}/{key.id}/"


def partial_name(key: RoundKey, part: str) -> str:
    """A partial's blob."""
    return partials_prefix(key) + part


def output_prefix(kind: str, task: str, number: int) -> str:
    """Where the blobs of `kind` (`checkpoints`, `results`, `broadcasts`) of one round are, those of lost commits included."""
    return f"{kind}/{task}/{number:06d}-"


def pseudonym(secret: bytes, key: RoundKey, identity: str, *, salt: bytes = b"") -> str:
    """Returns a client's name in one attempt of one round: 32 hex digits that do not link one round to another.

    Args:
      secret: The key of the round's names.
      key: The round.
      identity: The client.
      salt: The round's salt. Without it the name can't be computed again, not even with `secret`. Empty for a round
        whose key was fixed by a version without salts.
    """
    text = f"{key.task}\n{key.id}\n{identity}".encode()
    return hmac.new(secret, salt + text, hashlib.sha256).hexdigest()[:32]


def shard_of(pseudonym: str, shards: int) -> int:
    """The shard of a client: from its pseudonym, so that two assignments of one client meet under one name."""
    return int(pseudonym[:8], 16) % shards
