"""Stores a round's ledger as blobs: its manifests and its closing. Every write is create-only.

Blobs are immutable, so a `RoundLedger` reads each manifest once.

A manifest that continues another one, and a closing with superseded parts, are stored in a form
that versions before 0.2 can't parse: such a version would count both partials. It fails instead,
and the queue redelivers the work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from muster_coordinator.domain import names
from muster_coordinator.domain.ledger import AgeLimit, Closing, Manifest, ShardContents, close_ledger, successor
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Aggregating, Round
from muster_coordinator.domain.tally import Tally
from muster_coordinator.ports import BlobInfo, BlobNotFoundError, Blobs, StoreError
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.platform import Platform

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FrozenClosing:
    """A round's closing, with the tally of its assignments at that time."""

    closing: Closing
    tally: Tally


@dataclass(frozen=True, slots=True)
class PartContents:
    """Inputs of a part's fold: its updates, in order, and the part that it continues, if any."""

    updates: tuple[str, ...]
    onto: str | None = None


@dataclass(frozen=True, slots=True)
class _Continued:
    """Stored form of the updates of a manifest that continues another one."""

    names: tuple[str, ...]
    onto: int


@dataclass(frozen=True, slots=True)
class _StoredManifest:
    """Stored form of a manifest. Versions before 0.2 can only parse a list of updates."""

    updates: tuple[str, ...] | _Continued
    sealed: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> _StoredManifest:
        if manifest.onto is None:
            return cls(manifest.updates, manifest.sealed)
        return cls(_Continued(manifest.updates, manifest.onto), manifest.sealed)

    def manifest(self) -> Manifest:
        if isinstance(self.updates, _Continued):
            return Manifest(self.updates.names, self.sealed, self.updates.onto)
        return Manifest(self.updates, self.sealed)


@dataclass(frozen=True, slots=True)
class _Heads:
    """Stored form of a closing's numbers of manifests, and of the parts that do not count."""

    counts: tuple[int, ...]
    superseded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _StoredClosing:
    """Stored form of a closing. Versions before 0.2 can only parse a list of numbers."""

    shards: tuple[int, ...] | _Heads
    rest: tuple[tuple[str, ...], ...]
    onto: str | None
    updates: int

    @classmethod
    def of(cls, closing: Closing) -> _StoredClosing:
        shards = _Heads(closing.shards, closing.superseded) if closing.superseded else closing.shards
        return cls(shards, closing.rest, closing.onto, closing.updates)

    def closing(self) -> Closing:
        if isinstance(self.shards, _Heads):
            return Closing(self.shards.counts, self.rest, self.onto, self.updates, self.shards.superseded)
        return Closing(self.shards, self.rest, self.onto, self.updates)


@dataclass(frozen=True, slots=True)
class _StoredFrozen:
    """Stored form of `Frozen`."""

    closing: _StoredClosing
    tally: Tally


_MANIFEST: TypeAdapter[_StoredManifest] = TypeAdapter(_StoredManifest)
_FROZEN: TypeAdapter[_StoredFrozen] = TypeAdapter(_StoredFrozen)


@dataclass(frozen=True)
class RoundLedger:
    """Ledger of one round. For one thread, and threads that it starts for one shard each.

    Attributes:
      platform: The ports.
      key: The round.
    """

    platform: Platform
    key: RoundKey
    _known: dict[int, list[Manifest]] = field(default_factory=dict)
    _left: dict[int, dict[str, float]] = field(default_factory=dict)

    def listed(self, shard: int) -> dict[str, float]:
        """Returns a shard's stored updates with their creation times in POSIX seconds.

        Empty blobs mark returned assignments and are omitted.
        """
        blobs = self._blobs.list(names.updates_prefix(self.key, shard))
        return {blob.name: blob.created for blob in blobs if blob.size}

    def manifests(self, shard: int) -> tuple[Manifest, ...]:
        """Returns the shard's manifests so far, including the seal."""
        known = self._known.setdefault(shard, [])
        while not (known and known[-1].sealed):
            stored = self._read(_MANIFEST, names.manifest_name(self.key, shard, len(known)))
            if stored is None:
                break
            known.append(stored.manifest())
        return tuple(known)

    def contents(self, shard: int) -> ShardContents:
        """Returns a snapshot of the shard's manifests and stored updates."""
        # Updates are listed first. Otherwise an update that is folded and deleted in between would
        # be in neither.
        created = self.listed(shard)
        return ShardContents(self.manifests(shard), frozenset(created), created)

    def all_contents(self, shards: Iterable[int]) -> list[ShardContents]:
        """Returns a snapshot of each of `shards`."""
        return map_concurrently(self.platform, self.contents, shards)

    def freeze_chunk(self, shard: int, *, chunk: int, limit: AgeLimit | None = None) -> tuple[int, Manifest] | None:
        """Creates the shard's next manifest: of `chunk` updates, or fewer if one exceeds `limit`.

        Returns:
          The manifest's index in its shard, and the manifest. None if there is nothing to freeze,
          or the shard is sealed.
        """
        manifests = self._so_far(shard)
        while not (manifests and manifests[-1].sealed):
            created = self.listed(shard)
            contents = ShardContents(manifests, frozenset(created), created)
            manifest = contents.next(chunk=chunk, limit=limit)
            if manifest is None:
                self._left[shard] = {name: created[name] for name in contents.pending}
                return None
            if self._append(shard, manifest):
                return len(manifests), manifest
            manifests = self.manifests(shard)
        return None

    def left(self, shard: int) -> Mapping[str, float]:
        """Returns the updates that were in no manifest when `freeze_chunk` last returned None.

        They are returned with their creation times in POSIX seconds.
        """
        return self._left.get(shard, {})

    def seal(self, shard: int) -> tuple[Manifest, ...]:
        """Seals the shard, so that no later manifest can be created.

        Returns its manifests without the seal.
        """
        manifests = self._so_far(shard)
        while not (manifests and manifests[-1].sealed):
            self._append(shard, Manifest((), sealed=True))
            manifests = self.manifests(shard)
        return manifests[:-1]

    def frozen(self) -> FrozenClosing | None:
        """Returns the round's closing, or None."""
        stored = self._read(_FROZEN, names.closing_name(self.key))
        return None if stored is None else FrozenClosing(stored.closing.closing(), stored.tally)

    def freeze(self, round_: Aggregating, tally: Tally, *, just_closed: bool = False) -> FrozenClosing:
        """Creates the round's closing, or returns the existing one.

        Args:
          round_: The round.
          tally: The tally of its assignments.
          just_closed: Skips the read of an existing closing, for the caller that closed the round.
        """
        existing = None if just_closed else self.frozen()
        if existing is not None:
            return existing
        shards = shards_of(round_)
        manifests = map_concurrently(self.platform, self.seal, shards)
        # Updates are listed once all shards are sealed: those that are stored by then are counted.
        listed = chain.from_iterable(map_concurrently(self.platform, self.listed, shards))
        frozen = FrozenClosing(close_ledger(manifests, list(listed), chunk=round_.terms.chunk), tally)
        stored = _StoredFrozen(_StoredClosing.of(frozen.closing), tally)
        if self._create(_FROZEN, names.closing_name(self.key), stored):
            return frozen
        existing = self.frozen()
        if existing is None:
            raise StoreError(f"The closing of {self.key} exists and can't be read")
        return existing

    def part(self, part: str, frozen: FrozenClosing | None = None) -> PartContents | None:
        """Returns the inputs of the fold of `part`, or None if it has no manifest (yet)."""
        kind, _, index = part.partition("-")
        if kind == "rest":
            if frozen is None or int(index) >= len(frozen.closing.rest):
                return None
            return PartContents(frozen.closing.rest[int(index)], frozen.closing.onto)
        manifest = self._manifest(int(kind), int(index))
        if manifest is None:
            return None
        onto = None if manifest.onto is None else names.shard_part(int(kind), manifest.onto)
        return PartContents(manifest.updates, onto)

    def updates_of(self, part: str, frozen: FrozenClosing | None) -> tuple[str, ...] | None:
        """Returns the updates that fold into `part`, in order. None without a manifest (yet)."""
        contents = self.part(part, frozen)
        return None if contents is None else contents.updates

    def has_partial(self, part: str) -> bool:
        """Returns whether the part has a partial now."""
        return self._blobs.stat(names.partial_name(self.key, part)) is not None

    def is_durable(self, part: str, *, known: bool = False) -> bool:
        """Returns whether the part is folded: into its partial, or one that superseded it.

        A partial is deleted only once the one that continues it exists, and a manifest exists
        before its partial. So if a partial is missing and no later manifest continues it, it was
        never made.

        Args:
          part: The part.
          known: Checks only the manifests that this ledger has read. May miss that another process
            has superseded the part.
        """
        while not self.has_partial(part):
            kind, _, index = part.partition("-")
            if kind == "rest":
                return False
            manifests = self._known.get(int(kind), []) if known else self.manifests(int(kind))
            following = successor(manifests, int(index))
            if following is None:
                return False
            part = names.shard_part(int(kind), following)
        return True

    def missing(self, parts: Collection[str]) -> list[str]:
        """Returns those of `parts` that are not folded yet, by one listing."""
        prefix = names.partials_prefix(self.key)
        stored = {blob.name.removeprefix(prefix) for blob in self._blobs.list(prefix)}
        return [part for part in parts if part not in stored]

    def _manifest(self, shard: int, index: int) -> Manifest | None:
        known = self._known.get(shard, [])
        if index < len(known):
            return known[index]
        stored = self._read(_MANIFEST, names.manifest_name(self.key, shard, index))
        return None if stored is None else stored.manifest()

    @property
    def _blobs(self) -> Blobs:
        return self.platform.blobs

    def _so_far(self, shard: int) -> tuple[Manifest, ...]:
        """Returns the shard's manifests as last read, and reads them the first time."""
        return tuple(self._known[shard]) if shard in self._known else self.manifests(shard)

    def _append(self, shard: int, manifest: Manifest) -> bool:
        """Creates the shard's next manifest. Returns False if another process has created it."""
        known = self._known.setdefault(shard, [])
        name = names.manifest_name(self.key, shard, len(known))
        created = self._create(_MANIFEST, name, _StoredManifest.of(manifest))
        if created:
            known.append(manifest)
        return created

    def _read(self, adapter: TypeAdapter[T], name: str) -> T | None:
        try:
            return adapter.validate_json(bytes(self._blobs.read(name)))
        except BlobNotFoundError:
            return None
        except ValidationError as error:
            raise StoreError(f"{name} can't be read: {error}") from error

    def _create(self, adapter: TypeAdapter[T], name: str, value: T) -> bool:
        return self._blobs.create(name, [adapter.dump_json(value)]).created


def stored_contributions(blobs: Blobs) -> Iterator[tuple[RoundKey, BlobInfo]]:
    """Yields each stored update and partial of each round, with its round."""
    for prefix in (names.UPDATES, names.PARTIALS):
        for blob in blobs.list(prefix):
            yield names.round_of(blob.name), blob


def shards_of(round_: Round) -> range:
    """Returns the numbers of the round's shards."""
    return range(round_.terms.shards)
