"""Who is counted: manifests, chunks, and the closing that freezes them. Pure arithmetic over names.

A manifest, once made, is never changed, and its index in its shard is taken by one writer only; a writer makes the next one
knowing all before it. So no name is ever in two manifests, even when a folded update's name is free again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from .names import rest_part, shard_part


@dataclass(frozen=True, slots=True)
class Manifest:
    """Updates that fold into one partial, in the order in which they fold. A `sealed` one is empty and ends its shard."""

    updates: tuple[str, ...]
    sealed: bool = False


def counted(manifests: Iterable[Manifest]) -> frozenset[str]:
    """The updates in `manifests`, stored or folded."""
    return frozenset(name for manifest in manifests for name in manifest.updates)


@dataclass(frozen=True, slots=True)
class ShardContents:
    """A shard's manifests at a moment, and the names of the updates that were stored in it."""

    manifests: tuple[Manifest, ...]
    stored: frozenset[str]

    @property
    def updates(self) -> int:
        """How many updates came in."""
        return len(counted(self.manifests) | self.stored)

    def can_fold(self, *, chunk: int) -> bool:
        """Whether a full chunk waits for its manifest, or a manifest's updates wait for their fold."""
        known = counted(self.manifests)
        return not self.stored.isdisjoint(known) or next_chunk(self.stored, known, chunk=chunk) is not None


def next_chunk(listed: Collection[str], known: Collection[str], *, chunk: int) -> tuple[str, ...] | None:
    """The names of a shard's next manifest, of those `listed` that are not `known` by one; None while there is no full chunk."""
    pending = sorted(set(listed).difference(known))
    return tuple(pending[:chunk]) if len(pending) >= chunk else None


@dataclass(frozen=True, slots=True)
class Closing:
    """What a round counts, frozen: how many manifests each shard has, and the updates left over at the close.

    `rest` are folded over all shards together. Where a single update is left, `onto` is the part that it is folded onto,
    whose own partial then no longer counts: a partial over one update would be that update.
    """

    shards: tuple[int, ...]
    rest: tuple[tuple[str, ...], ...]
    onto: str | None
    updates: int  # how many are counted in all

    def parts(self) -> tuple[str, ...]:
        """The parts that the commit merges, in its order."""
        chunks = [shard_part(shard, index) for shard, count in enumerate(self.shards) for index in range(count)]
        return tuple(part for part in (*chunks, *map(rest_part, range(len(self.rest)))) if part != self.onto)


def close_ledger(manifests: Sequence[Sequence[Manifest]], listed: Collection[str], *, chunk: int) -> Closing:
    """Freezes a round.

    Args:
      manifests: Each shard's manifests, without the seal.
      listed: The names of the updates that are stored now, over all shards.
      chunk: Updates folded into one partial.
    """
    known = counted(chain.from_iterable(manifests))
    left = sorted(set(listed) - known)
    rest = [tuple(left[at : at + chunk]) for at in range(0, len(left), chunk)]
    onto = None
    if rest and len(rest[-1]) == 1:
        if len(rest) > 1:
            rest[-2:] = [rest[-2] + rest[-1]]
        else:
            earlier = [shard_part(shard, len(have) - 1) for shard, have in enumerate(manifests) if have]
            onto = earlier[-1] if earlier else None
    return Closing(tuple(len(shard) for shard in manifests), tuple(rest), onto, updates=len(known) + len(left))
