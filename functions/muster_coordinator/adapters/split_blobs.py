"""Blobs in several stores, chosen by the first segment of a blob's name."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter

from muster_coordinator.ports import BlobInfo, Blobs, Buffer, CreateResult


class SplitBlobs:
    """`Blobs` that routes, for example, `updates/…` to a separate store.

    Names are the same in every store. Consistency, errors and retries are the chosen store's.
    """

    def __init__(self, rest: Blobs, parts: Mapping[str, Blobs]) -> None:
        """Creates a store over others.

        Args:
          rest: Store of all other names.
          parts: Store of the names whose first segment is the key.
        """
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
        """See `Blobs.list`. Merges the stores' lists if `prefix` has no complete first segment."""
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
        for store, own_names in by_store.values():
            store.delete(own_names)

    def _store(self, name: str) -> Blobs:
        return self._parts.get(name.partition("/")[0], self._rest)

    def _own(self, store: Blobs, prefix: str) -> Iterator[BlobInfo]:
        """Yields the blobs of `store` that belong to it; two stores may share one bucket."""
        return (blob for blob in store.list(prefix) if self._store(blob.name) is store)
