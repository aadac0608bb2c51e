"""Plans as the coordinator keeps them: whole for the committer, and a device's copy that the client API serves."""

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

_MAX_MANIFESTS = 32  # that an instance caches
_MAX_WHOLE = 4  # whole plans that an instance caches, each with a model or two in it


@dataclass(frozen=True, slots=True)
class _ClientCopy:
    """Contents of a device's copy of a plan, and their bytes."""

    manifest: PlanManifest
    size: int


@dataclass(frozen=True)
class PlanRepository:
    """The plans in a blob store. Being named by their hash they never change, so each is read once per instance.

    `trusted`: the signers of whom one must have signed a plan, both to be taken and to be run; empty: any plan is.
    """

    blobs: Blobs
    trusted: frozenset[str] = frozenset()
    _copies: Cache[str, _ClientCopy] = field(default_factory=lambda: Cache(_MAX_MANIFESTS))
    _full: Cache[str, Plan] = field(default_factory=lambda: Cache(_MAX_WHOLE))
    _rules: Cache[tuple[str, bool], UpdateRules] = field(default_factory=lambda: Cache(_MAX_MANIFESTS))

    @cached_property
    def _variants(self) -> EncodedCopies:
        return EncodedCopies(self.blobs)

    def put(self, sha256: str, data: bytes) -> bool:
        """Checks and stores a plan. A repeat may add signatures, and changes nothing else.

        Returns:
          Whether the plan is new.

        Raises:
          ProblemError: `plan_invalid`: it is not a plan, not complete, not signed by a trusted signer, or its graphs
            hold forbidden operations.
        """
        plan = Plan.decode(data, expected=sha256)
        plan.check_signed(self.trusted)
        plan.check_complete()
        check_plan_graphs(plan)
        self._create_for_client(plan_name(sha256, for_client=True), plan.for_client())
        stored = self.blobs.create(plan_name(sha256, for_client=False), [data])
        if not stored.created and not stored.same:
            self._renew(plan)
        return stored.created

    def _renew(self, plan: Plan) -> None:
        """Adds signatures to a plan that is here already, and mends a file that is not its plan's.

        For the moment between the two steps there is no such blob; whoever runs into that tries again, as after any outage,
        and a repeat of the upload heals a death in between. The plan's address stays the same throughout.
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
        """Stores a device's copy, its encoded copies first: whoever finds it finds them."""
        data = plan.encode()
        self._variants.make(name, data)
        self.blobs.create(name, [data])

    def _stored(self, sha256: str, *, for_client: bool) -> Plan | None:
        try:
            return Plan.decode(bytes(self._read(sha256, for_client=for_client)), expected=sha256)
        except ProblemError:
            return None

    def has(self, sha256: str) -> bool:
        """Whether the plan is here, whole."""
        return self.blobs.stat(plan_name(sha256, for_client=False)) is not None

    def for_client(self, sha256: str, *, accepted: Iterable[str] = ()) -> EncodedCopy:
        """A device's copy, in the first of the `accepted` encodings that there is. Raises `ProblemError` (`not_found`)."""
        try:
            return self._variants.read(plan_name(sha256, for_client=True), accepted)
        except BlobNotFoundError:
            raise _missing(sha256) from None

    def client_size(self, sha256: str) -> int:
        """Bytes of a device's copy. Raises `ProblemError` (`not_found`)."""
        return self._copies.get(sha256, lambda: self._copy(sha256)).size

    def manifest(self, sha256: str) -> PlanManifest:
        """Returns the plan's manifest.

        Raises:
          ProblemError: `not_found`; `plan_invalid`, if this version refuses a plan that an earlier one accepted.
        """
        return self._copies.get(sha256, lambda: self._copy(sha256)).manifest

    def _copy(self, sha256: str) -> _ClientCopy:
        data = bytes(self.for_client(sha256).data)
        return _ClientCopy(Plan.decode(data, expected=sha256).manifest, len(data))

    def full(self, sha256: str) -> Plan:
        """The whole plan, to be run.

        Raises:
          ProblemError: `not_found`; `plan_invalid`, if what the store holds is another plan or not signed by anybody trusted.
        """
        return self._full.get(sha256, lambda: self._whole(sha256))

    def _whole(self, sha256: str) -> Plan:
        plan = Plan.decode(bytes(self._read(sha256, for_client=False)), expected=sha256)
        plan.check_signed(self.trusted)
        return plan

    def rules(self, sha256: str, *, allow_non_finite: bool) -> UpdateRules:
        """Returns the requirements on an update of the plan. Raises the errors of `manifest`."""
        return self._rules.get(
            (sha256, allow_non_finite), lambda: rules_for(self.manifest(sha256), allow_non_finite=allow_non_finite)
        )

    def _read(self, sha256: str, *, for_client: bool) -> memoryview:
        try:
            return self.blobs.read(plan_name(sha256, for_client=for_client))
        except BlobNotFoundError:
            raise _missing(sha256) from None


def _missing(sha256: str) -> ProblemError:
    return ProblemError(ProblemType.NOT_FOUND, f"There is no plan {sha256[:12]}… here; upload it before a task uses it")
