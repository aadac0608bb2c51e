"""Blobs of several stores under one roof: a name's first part says which store it is in."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter

from muster_coordinator.ports import BlobInfo, Blobs, Buffer, CreateResult


class SplitBlobs:
    """`Blobs` that keeps `updates/…`, say, in a store of its own. Names are the same in every store; what a store refuses, this does."""

    def __init__(self, rest: Blobs, parts: Mapping[str, Blobs]) -> None:
        """Sends a name to the store in `parts` of its first part, and to `rest` if there is none."""
        self._rest = rest
        self._parts = dict(parts)

    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        """See `Blobs.create`."""
        return self._store(name).create(name, chunks)

    def read(self, name: str, *, limit: int | None = None, into: memoryview | None = None) -> memoryview:
        """See `Blobs.read`."""
        return self._store(name).read(name, limit=limit, into=into)

    def stat(self, name: str) -> BlobInfo | None:
        """See `Blobs.stat`."""
        return self._store(name).stat(name)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """See `Blobs.list`. A prefix that leaves the first part open is looked for in every store that may have it."""
        first, slash, _ = prefix.partition("/")
        if slash:
            return self._store(prefix).list(prefix)
        stores = [self._own(self._rest, prefix)]
        stores += [self._own(store, part) for part, store in self._parts.items() if part.startswith(first)]
        return heapq.merge(*stores, key=attrgetter("name"))

    def delete(self, names: Iterable[str]) -> None:
        """See `Blobs.delete`."""
        by_store: dict[int, tuple[Blobs, list[str]]] = {}
        for name in names:
            store = self._store(name)
            by_store.setdefault(id(store), (store, []))[1].append(name)
        for store, mine in by_store.values():
            store.delete(mine)

    def _store(self, name: str) -> Blobs:
        return self._parts.get(name.partition("/")[0], self._rest)

    def _own(self, store: Blobs, prefix: str) -> Iterator[BlobInfo]:
        """What a store lists of the names that are sent to it; stores may share a place."""
        return (blob for blob in store.list(prefix) if self._store(blob.name) is store)
