"""The ledger in the blob store: manifests, the closing, and the updates that are listed. Every write is create-only."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from coordinator.domain import names
from coordinator.domain.ledger import Closing, Manifest, close_ledger, next_chunk
from coordinator.domain.names import RoundKey
from coordinator.domain.rounds import Aggregating, Round, Tally
from coordinator.ports import BlobInfo, BlobNotFoundError, Blobs, StoreError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Frozen:
    """The closing as it is stored, with what the counters said of the round's assignments when it closed."""

    closing: Closing
    tally: Tally


_MANIFEST: TypeAdapter[Manifest] = TypeAdapter(Manifest)
_FROZEN: TypeAdapter[Frozen] = TypeAdapter(Frozen)


@dataclass(frozen=True)
class Ledger:
    """One round's ledger."""

    blobs: Blobs
    key: RoundKey

    def listed(self, shard: int) -> list[str]:
        """The updates of a shard that are stored now. Empty blobs are assignments given back, and no updates."""
        return [blob.name for blob in self.blobs.list(names.updates_prefix(self.key, shard)) if blob.size]

    def manifests(self, shard: int) -> list[Manifest]:
        """The shard's manifests so far, the seal included."""
        found: list[Manifest] = []
        while (manifest := self._read(_MANIFEST, names.manifest_name(self.key, shard, len(found)))) is not None:
            found.append(manifest)
        return found

    def freeze_chunk(self, shard: int, manifests: list[Manifest], *, chunk: int) -> Manifest | None:
        """Makes the shard's next manifest if a full chunk is there and the shard is not sealed.

        Args:
          shard: The shard.
          manifests: All of its manifests; the list is brought up to date if somebody else made one meanwhile.
          chunk: Updates in a manifest.

        Returns:
          The manifest made, or None if there is none to make.
        """
        while not (manifests and manifests[-1].sealed):
            counted = {name for manifest in manifests for name in manifest.updates}
            updates = next_chunk(self.listed(shard), counted, chunk=chunk)
            if updates is None:
                return None
            made = Manifest(updates)
            if self._create(_MANIFEST, names.manifest_name(self.key, shard, len(manifests)), made):
                manifests.append(made)
                return made
            manifests[:] = self.manifests(shard)
        return None

    def seal(self, shard: int) -> list[Manifest]:
        """Ends the shard's manifests, so that nobody makes one after. Returns them, without the seal."""
        while True:
            manifests = self.manifests(shard)
            if manifests and manifests[-1].sealed:
                return manifests[:-1]
            self._create(_MANIFEST, names.manifest_name(self.key, shard, len(manifests)), Manifest((), sealed=True))

    def frozen(self) -> Frozen | None:
        """The closing, if the round has one."""
        return self._read(_FROZEN, names.closing_name(self.key))

    def freeze(self, round_: Aggregating, tally: Tally) -> Frozen:
        """Makes the round's closing, or reads the one that was made first."""
        found = self.frozen()
        if found is not None:
            return found
        shards = range(round_.terms.shards)
        manifests = [self.seal(shard) for shard in shards]
        listed = [name for shard in shards for name in self.listed(shard)]
        made = Frozen(close_ledger(manifests, listed, chunk=round_.terms.chunk), tally)
        if self._create(_FROZEN, names.closing_name(self.key), made):
            return made
        found = self.frozen()
        if found is None:
            raise StoreError(f"The closing of {self.key} is there and can't be read")
        return found

    def updates_of(self, part: str, frozen: Frozen | None) -> tuple[str, ...] | None:
        """The updates that fold into `part`, in order; None if no manifest says so (yet)."""
        kind, _, index = part.partition("-")
        if kind == "rest":
            if frozen is None or int(index) >= len(frozen.closing.rest):
                return None
            return frozen.closing.rest[int(index)]
        manifest = self._read(_MANIFEST, names.manifest_name(self.key, int(kind), int(index)))
        return None if manifest is None else manifest.updates

    def has_partial(self, part: str) -> bool:
        """Whether the part is folded and durable."""
        return self.blobs.stat(names.partial_name(self.key, part)) is not None

    def missing(self, parts: Collection[str]) -> list[str]:
        """Those of `parts` that are not folded yet, by one listing."""
        prefix = names.partials_prefix(self.key)
        stored = {blob.name.removeprefix(prefix) for blob in self.blobs.list(prefix)}
        return [part for part in parts if part not in stored]

    def _read(self, adapter: TypeAdapter[T], name: str) -> T | None:
        try:
            return adapter.validate_json(bytes(self.blobs.read(name)))
        except BlobNotFoundError:
            return None
        except ValidationError as error:
            raise StoreError(f"{name} can't be read: {error}") from error

    def _create(self, adapter: TypeAdapter[T], name: str, value: T) -> bool:
        return self.blobs.create(name, [adapter.dump_json(value)]).created


def stored_contributions(blobs: Blobs) -> Iterator[tuple[RoundKey, BlobInfo]]:
    """Every stored update and partial of every round, with its round."""
    for prefix in (names.UPDATES, names.PARTIALS):
        for blob in blobs.list(prefix):
            yield names.round_of(blob.name), blob


def shards_of(round_: Round) -> range:
    """The round's shards."""
    return range(round_.terms.shards)
