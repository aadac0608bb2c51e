"""Offers a client of an open round its slot: the one that it holds already, or a new one."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

from muster.wire.messages import WaitReason
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Collecting
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.pseudonyms import Pseudonymizer
from muster_coordinator.state.round_cache import TaskSnapshot
from muster_coordinator.state.slot_holders import HeldSlot, SlotHolders
from muster_coordinator.state.slot_pool import SlotPool


@dataclass(frozen=True, slots=True)
class OfferedSlot:
    """Slot of a client in a round, and its name in the round."""

    held: HeldSlot
    pseudonym: str


@dataclass(frozen=True)
class SlotOffers:
    """Offers of slots."""

    platform: Platform
    _: KW_ONLY
    pseudonyms: Pseudonymizer

    def offer(
        self, snapshot: TaskSnapshot, round_: Collecting, identity: str, *, now: float
    ) -> OfferedSlot | WaitReason:
        """Returns the client's slot or a new one, or the reason why it gets none.

        Args:
          snapshot: The task.
          round_: Its open round.
          identity: The client.
          now: The time, in POSIX seconds.
        """
        pool = SlotPool(self.platform, snapshot, round_, now)
        full = snapshot.full or not pool.has_room()
        if full and not snapshot.lookups:
            # A lookup of the client's slot costs a store call, so a full round allows only a few.
            snapshot.full = True
            return WaitReason.ROUND_FULL
        pseudonym = self.pseudonyms.of(round_.key, identity, tickets=snapshot.tickets)
        if pseudonym is None:
            return WaitReason.BETWEEN_ROUNDS
        held = self._holders.find(round_.key, pseudonym.name, assignment_seconds=round_.terms.assignment_seconds)
        # A client without a slot has no update in the round, unless an earlier version, which did
        # not record slot holders, may have assigned it one.
        if (held is not None or not pseudonym.salted) and self._is_done(round_, pseudonym.name):
            return WaitReason.ALREADY_IN
        if held is None or not held.is_valid(now, assignment_seconds=round_.terms.assignment_seconds):
            if full:
                snapshot.lookups -= 1
                snapshot.full = True
                return WaitReason.ROUND_FULL
            held = self._new_slot(pool, pseudonym.name, before=held)
        return WaitReason.ROUND_FULL if held is None else OfferedSlot(held, pseudonym.name)

    @cached_property
    def _holders(self) -> SlotHolders:
        return SlotHolders(self.platform.documents)

    def _is_done(self, round_: Collecting, pseudonym: str) -> bool:
        """Returns whether the client's update or report is stored, so that it needs no slot.

        A folded update is no longer stored under its name; the client's cookie records it.
        """
        name = names.update_name(round_.key, names.shard_of(pseudonym, round_.terms.shards), pseudonym)
        return self.platform.blobs.stat(name) is not None

    def _new_slot(self, pool: SlotPool, pseudonym: str, *, before: HeldSlot | None) -> HeldSlot | None:
        """Records a new slot for the client.

        Returns the slot that a concurrent check-in of the client recorded first, if any.

        Returns None if the round is full.
        """
        ticket = pool.take()
        if ticket is None:
            return None
        taken = HeldSlot(ticket, issued_at=pool.now)
        held = self._holders.record(
            pool.round.key,
            pseudonym,
            taken,
            before=before,
            now=pool.now,
            assignment_seconds=pool.round.terms.assignment_seconds,
        )
        if held is not taken:
            pool.release(ticket)
        return held
