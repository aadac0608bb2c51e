"""Records the slot that a client holds in a round, so that a repeated check-in gets the same slot.

There is one create-only document for each client and round, under the pseudonym; the sweep deletes
it with the round. A slot is taken before it is recorded: a crash between the two costs a slot until
its assignment would have expired, and never assigns one slot to two clients.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster_coordinator.domain import names, slots
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.slots import Ticket
from muster_coordinator.ports import AlreadyExistsError, ConflictError, Document, Documents, StoreError
from muster_coordinator.tokens import SKEW

_COUNTER, _ISSUED_AT = "counter", "issued_at"  # the document's fields
_MAX_ATTEMPTS = 5  # of a compare-and-set, against concurrent repeats of one client


@dataclass(frozen=True, slots=True)
class HeldSlot:
    """Slot that a client holds.

    Attributes:
      ticket: The slot.
      issued_at: The time of its assignment, in POSIX seconds.
      document: The document that records it, or None if it is not recorded yet.
    """

    ticket: Ticket
    issued_at: float
    document: Document | None = None

    def is_valid(self, now: float, *, assignment_seconds: float) -> bool:
        """Returns whether the assignment is neither expired nor issued in the future."""
        return self.issued_at - SKEW <= now < self.issued_at + assignment_seconds


@dataclass(frozen=True)
class SlotHolders:
    """Repository of the slots that clients hold."""

    documents: Documents

    def find(self, key: RoundKey, pseudonym: str, *, assignment_seconds: float) -> HeldSlot | None:
        """Returns the slot that was last assigned to a client, expired or not."""
        document = self.documents.get(names.holder_path(key, pseudonym))
        if document is None:
            return None
        counter, issued_at = document.data.get(_COUNTER), document.data.get(_ISSUED_AT)
        if not isinstance(counter, int) or not isinstance(issued_at, int | float):
            raise StoreError(f"{document.path} can't be read")
        interval = slots.interval_of(issued_at, assignment_seconds=assignment_seconds)
        return HeldSlot(Ticket(counter, interval), issued_at, document)

    def record(
        self,
        key: RoundKey,
        pseudonym: str,
        taken: HeldSlot,
        *,
        before: HeldSlot | None,
        now: float,
        assignment_seconds: float,
    ) -> HeldSlot:
        """Records that a client holds the slot `taken`, in place of the expired one `before`.

        Returns:
          The slot that the client holds: `taken`, or the one that a concurrent check-in of the same
          client recorded first. In that case the caller returns `taken` to its counter.
        """
        path = names.holder_path(key, pseudonym)
        data = {_COUNTER: taken.ticket.counter, _ISSUED_AT: taken.issued_at}
        for _ in range(_MAX_ATTEMPTS):
            try:
                if before is None or before.document is None:
                    self.documents.create(path, data)
                else:
                    self.documents.replace(path, data, version=before.document.version)
            except (AlreadyExistsError, ConflictError):
                before = self.find(key, pseudonym, assignment_seconds=assignment_seconds)
                if before is not None and before.is_valid(now, assignment_seconds=assignment_seconds):
                    return before
            else:
                return taken
        raise StoreError(f"{path} was changed by other check-ins at each attempt")
