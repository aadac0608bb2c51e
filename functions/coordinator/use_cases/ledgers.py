"""The ledger in the blob store: manifests, the closing, and the updates that are listed. Every write is create-only.

What is made is never changed, so that a `Ledger` reads each manifest once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from coordinator.domain import names
from coordinator.domain.ledger import Closing, Manifest, ShardContents, close_ledger, counted, next_chunk
from coordinator.domain.names import RoundKey
from coordinator.domain.rounds import Aggregating, Round, Tally
from coordinator.ports import BlobInfo, BlobNotFoundError, Blobs, StoreError
from coordinator.use_cases.at_once import for_all
from coordinator.use_cases.records import Platform

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
    """One round's ledger. For one thread, and those that it starts itself, a shard each."""

    platform: Platform
    key: RoundKey
    _known: dict[int, list[Manifest]] = field(default_factory=dict)

    def listed(self, shard: int) -> list[str]:
        """The updates of a shard that are stored now. Empty blobs are assignments given back, and no updates."""
        return [blob.name for blob in self._blobs.list(names.updates_prefix(self.key, shard)) if blob.size]

    def manifests(self, shard: int) -> tuple[Manifest, ...]:
        """The shard's manifests so far, the seal included."""
        known = self._known.setdefault(shard, [])
        while not (known and known[-1].sealed):
            manifest = self._read(_MANIFEST, names.manifest_name(self.key, shard, len(known)))
            if manifest is None:
                break
            known.append(manifest)
        return tuple(known)

    def contents(self, shard: int) -> ShardContents:
        """What the shard holds."""
        # Listed first: an update that is folded and deleted after its manifest was looked for would be in neither.
        stored = frozenset(self.listed(shard))
        return ShardContents(self.manifests(shard), stored)

    def all_contents(self, shards: Iterable[int]) -> list[ShardContents]:
        """What each of `shards` holds."""
        return for_all(self.platform, self.contents, shards)

    def freeze_chunk(self, shard: int, *, chunk: int) -> tuple[int, Manifest] | None:
        """Makes the shard's next manifest of `chunk` updates; None if so many are not there, or the shard is sealed.

        Returns:
          The manifest's index in its shard, and the manifest.
        """
        manifests = self._so_far(shard)
        while not (manifests and manifests[-1].sealed):
            updates = next_chunk(self.listed(shard), counted(manifests), chunk=chunk)
            if updates is None:
                return None
            made = Manifest(updates)
            if self._append(shard, made):
                return len(manifests), made
            manifests = self.manifests(shard)
        return None

    def seal(self, shard: int) -> tuple[Manifest, ...]:
        """Ends the shard's manifests, so that nobody makes one after. Returns them, without the seal."""
        manifests = self._so_far(shard)
        while not (manifests and manifests[-1].sealed):
            self._append(shard, Manifest((), sealed=True))
            manifests = self.manifests(shard)
        return manifests[:-1]

    def frozen(self) -> Frozen | None:
        """The closing, if the round has one."""
        return self._read(_FROZEN, names.closing_name(self.key))

    def freeze(self, round_: Aggregating, tally: Tally, *, just_closed: bool = False) -> Frozen:
        """Makes the round's closing, or reads the one that was made first. None is looked for if the caller has `just_closed` it."""
        found = None if just_closed else self.frozen()
        if found is not None:
            return found
        shards = shards_of(round_)
        manifests = for_all(self.platform, self.seal, shards)
        # Listed once all are sealed: what was stored by then is counted.
        listed = chain.from_iterable(for_all(self.platform, self.listed, shards))
        made = Frozen(close_ledger(manifests, list(listed), chunk=round_.terms.chunk), tally)
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
        known = self._known.get(int(kind), [])
        if int(index) < len(known):
            return known[int(index)].updates
        manifest = self._read(_MANIFEST, names.manifest_name(self.key, int(kind), int(index)))
        return None if manifest is None else manifest.updates

    def has_partial(self, part: str) -> bool:
        """Whether the part is folded and durable."""
        return self._blobs.stat(names.partial_name(self.key, part)) is not None

    def missing(self, parts: Collection[str]) -> list[str]:
        """Those of `parts` that are not folded yet, by one listing."""
        prefix = names.partials_prefix(self.key)
        stored = {blob.name.removeprefix(prefix) for blob in self._blobs.list(prefix)}
        return [part for part in parts if part not in stored]

    @property
    def _blobs(self) -> Blobs:
        return self.platform.blobs

    def _so_far(self, shard: int) -> tuple[Manifest, ...]:
        """The shard's manifests that are known; a look if none was had yet."""
        return tuple(self._known[shard]) if shard in self._known else self.manifests(shard)

    def _append(self, shard: int, manifest: Manifest) -> bool:
        """Makes the shard's next manifest behind all that are known; False if somebody else has made it."""
        known = self._known.setdefault(shard, [])
        created = self._create(_MANIFEST, names.manifest_name(self.key, shard, len(known)), manifest)
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
    """Every stored update and partial of every round, with its round."""
    for prefix in (names.UPDATES, names.PARTIALS):
        for blob in blobs.list(prefix):
            yield names.round_of(blob.name), blob


def shards_of(round_: Round) -> range:
    """The round's shards."""
    return range(round_.terms.shards)
