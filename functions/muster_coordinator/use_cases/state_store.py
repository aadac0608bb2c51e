"""Stores server states that operators upload, apart from plans and tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.updates import UpdateRules, rules_for_state, validated
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform


@dataclass(frozen=True)
class StateStore:
    """Store of states, which are named by their hash and immutable."""

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository

    def put(self, sha256: str, read: Callable[[int], bytes], *, plan: str, length: int | None) -> bool:
        """Checks and stores a state as it arrives, in the memory of a chunk.

        The blob appears only after its last check. It is create-only, so a repeat, after a crash
        too, changes nothing.

        Args:
          sha256: The state's address.
          read: Reads up to the given number of bytes of the state; b"" at its end.
          plan: Address of a stored plan whose state has these tensors.
          length: Declared bytes of the state, or None.

        Returns:
          Whether the state is new.

        Raises:
          ProblemError: `not_found` if the plan is unknown; `too_large` if the state is larger than
            one of the plan; `invalid_request` if it has another hash, is not safetensors, or its
            tensors are not those of the plan, with a field error for each; `update_truncated` if
            the body ends early; `conflict` if the stored bytes are damaged.
        """
        rules = rules_for_state(self.plans.manifest(plan))
        name = names.state_name(sha256)
        stored = self.platform.blobs.create(name, _checked(sha256, read, rules, length))
        if not stored.created and not stored.same:
            raise ProblemError(
                ProblemType.CONFLICT, f"The blob {name} holds other bytes than its name says; delete it in the store"
            )
        return stored.created

    def has(self, sha256: str) -> bool:
        """Returns whether a state is stored."""
        return self.platform.blobs.stat(names.state_name(sha256)) is not None


def _checked(sha256: str, read: Callable[[int], bytes], rules: UpdateRules, length: int | None) -> Iterator[bytes]:
    """Yields a state in chunks, and raises `ProblemError` before its end if it is refused."""
    digest = hashlib.sha256()
    for piece in validated(read, rules, length=length):
        digest.update(piece)
        yield piece
    actual = digest.hexdigest()
    if actual != sha256:
        raise ProblemError(
            ProblemType.INVALID_REQUEST,
            f"The body has the SHA-256 {actual[:12]}…, and its address says {sha256[:12]}…; "
            "send the file of this address, or use the file's own hash",
        )
