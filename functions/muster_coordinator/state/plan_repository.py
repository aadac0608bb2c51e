"""Repository of plans: full plans for the committer, and clients' copies for the client API."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from muster.runtime.graph_check import check_plan_graphs
from muster.wire.encodings import ENCODINGS
from muster.wire.manifest import PlanManifest
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.domain.names import plan_name, variant_name
from muster_coordinator.domain.updates import UpdateRules, rules_for
from muster_coordinator.ports import BlobNotFoundError, Blobs
from muster_coordinator.state.encoded_copies import EncodedCopies, EncodedCopy

MAX_CACHED_MANIFESTS = 32
MAX_CACHED_PLANS = 4  # full plans, which hold a model or two each


@dataclass(frozen=True, slots=True)
class _ClientCopy:
    """Manifest of a client's copy, and the copy's size in bytes."""

    manifest: PlanManifest
    size: int


@dataclass(frozen=True)
class PlanRepository:
    """The plans in a blob store.

    They are named by their hash and immutable, so an instance reads each once.

    Attributes:
      blobs: The store.
      trusted: Public keys of the trusted signers. One of them must have signed a plan, both for the
        plan to be stored and for it to be run. If empty, any plan is accepted.
    """

    blobs: Blobs
    trusted: frozenset[str] = frozenset()
    _copies: Cache[str, _ClientCopy] = field(default_factory=lambda: Cache(max_entries=MAX_CACHED_MANIFESTS))
    _full: Cache[str, Plan] = field(default_factory=lambda: Cache(max_entries=MAX_CACHED_PLANS))
    _rules: Cache[tuple[str, bool], UpdateRules] = field(
        default_factory=lambda: Cache(max_entries=MAX_CACHED_MANIFESTS)
    )

    @cached_property
    def _encoded(self) -> EncodedCopies:
        return EncodedCopies(self.blobs)

    def put(self, sha256: str, data: bytes) -> bool:
        """Checks and stores a plan. A repeat may add signatures, and changes nothing else.

        Args:
          sha256: The plan's address.
          data: The plan file.

        Returns:
          Whether the plan is new.

        Raises:
          ProblemError: `plan_invalid`: it is not a plan, not complete, not signed by a trusted
            signer, or its graphs hold forbidden operations.
        """
        plan = Plan.decode(data, expected=sha256)
        plan.check_signed(self.trusted)
        plan.check_complete()
        check_plan_graphs(plan)
        self._create_for_client(plan_name(sha256, for_client=True), plan.for_client())
        stored = self.blobs.create(plan_name(sha256, for_client=False), [data])
        if not stored.created and not stored.same:
            self._replace(plan)
        return stored.created

    def _replace(self, plan: Plan) -> None:
        """Adds a plan's signatures to the stored copies, and replaces a damaged copy.

        Between delete and create a copy is missing for a moment. A client that reads it then
        retries, as after any outage, and a repeat of the upload recovers from a crash in between.
        The plan's address stays the same.
        """
        for for_client in (True, False):
            name = plan_name(plan.sha256, for_client=for_client)
            wanted = plan.for_client() if for_client else plan
            stored = self._stored(plan.sha256, for_client=for_client)
            if stored is not None:
                wanted = wanted.with_signatures(item for item in stored.signatures if item not in plan.signatures)
                wanted = wanted.with_signatures(plan.signatures)
            if stored is None or stored.signatures != wanted.signatures:
                self.blobs.delete([name, *(variant_name(name, encoding) for encoding in ENCODINGS if for_client)])
                if for_client:
                    self._create_for_client(name, wanted)
                else:
                    self.blobs.create(name, [wanted.encode()])

    def _create_for_client(self, name: str, plan: Plan) -> None:
        """Stores a client's copy, after its encoded copies: see `encoded_copies`."""
        data = plan.encode()
        self._encoded.make(name, data)
        self.blobs.create(name, [data])

    def _stored(self, sha256: str, *, for_client: bool) -> Plan | None:
        try:
            return Plan.decode(bytes(self._read(sha256, for_client=for_client)), expected=sha256)
        except ProblemError:
            return None

    def has(self, sha256: str) -> bool:
        """Returns whether the full plan is stored."""
        return self.blobs.stat(plan_name(sha256, for_client=False)) is not None

    def for_client(self, sha256: str, *, accepted: Iterable[str] = ()) -> EncodedCopy:
        """Returns the client's copy in the first of the `accepted` encodings, or unencoded.

        Raises:
          ProblemError: `not_found`.
        """
        try:
            return self._encoded.read(plan_name(sha256, for_client=True), accepted)
        except BlobNotFoundError:
            raise _missing(sha256) from None

    def client_size(self, sha256: str) -> int:
        """Returns the size of the unencoded client's copy in bytes.

        Raises `ProblemError` (`not_found`).
        """
        return self._copies.get_or_load(sha256, lambda: self._load_copy(sha256)).size

    def manifest(self, sha256: str) -> PlanManifest:
        """Returns the plan's manifest.

        Raises:
          ProblemError: `not_found`; `plan_invalid`, if this version refuses a plan that an earlier
            one accepted.
        """
        return self._copies.get_or_load(sha256, lambda: self._load_copy(sha256)).manifest

    def _load_copy(self, sha256: str) -> _ClientCopy:
        data = bytes(self.for_client(sha256).data)
        return _ClientCopy(Plan.decode(data, expected=sha256).manifest, len(data))

    def full(self, sha256: str) -> Plan:
        """Returns the full plan, to be run.

        Raises:
          ProblemError: `not_found`; `plan_invalid`, if the stored file is another plan or is not
            signed by a trusted signer.
        """
        return self._full.get_or_load(sha256, lambda: self._load_full(sha256))

    def _load_full(self, sha256: str) -> Plan:
        plan = Plan.decode(bytes(self._read(sha256, for_client=False)), expected=sha256)
        plan.check_signed(self.trusted)
        return plan

    def rules(self, sha256: str, *, allow_non_finite: bool) -> UpdateRules:
        """Returns the requirements on an update of the plan. Raises the errors of `manifest`."""
        return self._rules.get_or_load(
            (sha256, allow_non_finite), lambda: rules_for(self.manifest(sha256), allow_non_finite=allow_non_finite)
        )

    def _read(self, sha256: str, *, for_client: bool) -> memoryview:
        try:
            return self.blobs.read(plan_name(sha256, for_client=for_client))
        except BlobNotFoundError:
            raise _missing(sha256) from None


def _missing(sha256: str) -> ProblemError:
    return ProblemError(ProblemType.NOT_FOUND, f"There is no plan {sha256[:12]}… here; upload it before a task uses it")
