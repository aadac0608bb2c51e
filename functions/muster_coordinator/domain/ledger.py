"""Decides which updates are counted: manifests, chunks, and the closing that freezes them.

A manifest is immutable, and only one writer creates the one at a given index of a shard; it knows
all manifests before it. So no name is ever in two manifests, even when a folded update's name is
free again.

A manifest may continue an earlier one of its shard: its partial then holds the earlier one's and
its own updates. The earlier one is superseded, and its partial no longer counts. In this way
updates that would wait too long for a full chunk are folded one at a time, and no partial holds a
single update.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from muster_coordinator.domain.names import rest_part, shard_part


@dataclass(frozen=True, slots=True)
class Manifest:
    """Updates that fold into one partial.

    Attributes:
      updates: Names of the updates, in fold order.
      sealed: True if the manifest ends its shard; it is then empty.
      onto: Index of the earlier manifest of the shard that this one continues, or None if the
        partial starts from the empty accumulator.
    """

    updates: tuple[str, ...]
    sealed: bool = False
    onto: int | None = None


def counted(manifests: Iterable[Manifest]) -> frozenset[str]:
    """Returns the updates in `manifests`, stored or folded."""
    return frozenset(name for manifest in manifests for name in manifest.updates)


def successor(manifests: Sequence[Manifest], index: int) -> int | None:
    """Returns the index of the manifest that continues the one at `index`, or None."""
    return next((at for at in range(index + 1, len(manifests)) if manifests[at].onto == index), None)


def superseded(manifests: Sequence[Manifest]) -> frozenset[int]:
    """Returns the indices of the manifests that a later one continues."""
    return frozenset(manifest.onto for manifest in manifests if manifest.onto is not None)


def next_chunk(listed: Collection[str], known: Collection[str], *, chunk: int) -> tuple[str, ...] | None:
    """Returns the next full chunk of `listed` names that are not in `known`, or None."""
    pending = sorted(set(listed).difference(known))
    return tuple(pending[:chunk]) if len(pending) >= chunk else None


@dataclass(frozen=True, slots=True)
class AgeLimit:
    """Longest age, in seconds, of a stored update before its fold, as of `now` (POSIX seconds)."""

    seconds: float
    now: float

    def due(self, created: Iterable[float]) -> bool:
        """Returns whether an update is too old, or from the future by a clock that was set back."""
        ages = [self.now - at for at in created]
        return bool(ages) and (max(ages) >= self.seconds or min(ages) <= -self.seconds)


@dataclass(frozen=True, slots=True)
class ShardContents:
    """Snapshot of a shard.

    Attributes:
      manifests: The shard's manifests.
      stored: Names of its stored updates.
      created: Creation time of each stored update, in POSIX seconds.
    """

    manifests: tuple[Manifest, ...]
    stored: frozenset[str]
    created: Mapping[str, float] = field(default_factory=dict)

    @property
    def updates(self) -> int:
        """Number of the shard's updates, stored or folded."""
        return len(counted(self.manifests) | self.stored)

    @property
    def pending(self) -> tuple[str, ...]:
        """Names of the stored updates that are in no manifest, in fold order."""
        return tuple(sorted(self.stored - counted(self.manifests)))

    def can_fold(self, *, chunk: int, limit: AgeLimit | None = None) -> bool:
        """Returns whether updates of a manifest, or of the next one, wait for their fold."""
        return not self.stored.isdisjoint(counted(self.manifests)) or self.next(chunk=chunk, limit=limit) is not None

    def next(self, *, chunk: int, limit: AgeLimit | None = None) -> Manifest | None:
        """Returns the next manifest: a full chunk, or all pending updates if one exceeds `limit`.

        Returns None if there is neither, or the shard is sealed.
        """
        if self.manifests and self.manifests[-1].sealed:
            return None
        full = next_chunk(self.stored, counted(self.manifests), chunk=chunk)
        if full is not None:
            return Manifest(full)
        pending = self.pending
        if limit is None or not limit.due(self.created.get(name, limit.now) for name in pending):
            return None
        return self._aged(pending, chunk=chunk)

    def _aged(self, pending: tuple[str, ...], *, chunk: int) -> Manifest | None:
        """Returns a manifest of less than a chunk: onto the newest partial with room, or a new one.

        A single update is folded onto the newest partial of any size. Returns None while there is
        none.
        """
        replaced, sizes = superseded(self.manifests), list[int]()
        for manifest in self.manifests:
            sizes.append(len(manifest.updates) + (0 if manifest.onto is None else sizes[manifest.onto]))
        latest = [at for at in reversed(range(len(sizes))) if at not in replaced]
        roomy = (at for at in latest if sizes[at] + len(pending) <= chunk)
        if len(pending) > 1:
            return Manifest(pending, onto=next(roomy, None))
        onto = next(roomy, latest[0] if latest else None)
        return None if onto is None else Manifest(pending, onto=onto)


@dataclass(frozen=True, slots=True)
class Closing:
    """Frozen count of a round.

    Attributes:
      shards: Number of manifests of each shard.
      rest: Updates that are in no manifest at the close, in lists that are folded over all shards.
      onto: The part onto which a single remaining update is folded, or None. A partial over one
        update would be that update. The partial of `onto` no longer counts.
      updates: Number of all updates that are counted.
      superseded: The parts whose partials do not count, because later ones of their shards continue
        them.
    """

    shards: tuple[int, ...]
    rest: tuple[tuple[str, ...], ...]
    onto: str | None
    updates: int
    superseded: tuple[str, ...] = ()

    def parts(self) -> tuple[str, ...]:
        """Returns the parts that the commit merges, in order of the merge."""
        chunks = [shard_part(shard, index) for shard, count in enumerate(self.shards) for index in range(count)]
        excluded = {self.onto, *self.superseded}
        return tuple(part for part in (*chunks, *map(rest_part, range(len(self.rest)))) if part not in excluded)


def close_ledger(manifests: Sequence[Sequence[Manifest]], listed: Collection[str], *, chunk: int) -> Closing:
    """Returns the closing of a round.

    Args:
      manifests: Each shard's manifests, without the seal.
      listed: Names of the updates that are stored now, over all shards.
      chunk: Number of updates that are folded into one partial.
    """
    known = counted(chain.from_iterable(manifests))
    left = sorted(set(listed) - known)
    rest = [tuple(left[at : at + chunk]) for at in range(0, len(left), chunk)]
    onto = None
    if rest and len(rest[-1]) == 1:
        if len(rest) > 1:
            rest[-2:] = [rest[-2] + rest[-1]]
        else:
            # The newest manifest of a shard is never superseded.
            earlier = [shard_part(shard, len(frozen) - 1) for shard, frozen in enumerate(manifests) if frozen]
            onto = earlier[-1] if earlier else None
    excluded = [
        shard_part(shard, index) for shard, frozen in enumerate(manifests) for index in sorted(superseded(frozen))
    ]
    return Closing(
        tuple(len(shard) for shard in manifests),
        tuple(rest),
        onto,
        updates=len(known) + len(left),
        superseded=tuple(excluded),
    )
