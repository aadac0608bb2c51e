"""Deletes the documents and blobs of one task, a bounded number of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass
from itertools import chain, islice

from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.ports import Document
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.platform import Platform

_PAGE = 200  # documents
_BATCH = 500  # blobs


@dataclass
class TaskRemains:
    """Documents and blobs of a task that are left to delete.

    Each method returns whether it has deleted all of its kind; if not, `left` is used up. A repeat
    deletes what remains.

    Attributes:
      platform: The ports.
      task: The task's name.
      left: Number of documents and blobs that may still be deleted.
      documents: Number of documents that were deleted.
      blobs: Number of blobs that were deleted.
    """

    platform: Platform
    task: str
    _: KW_ONLY
    left: int
    documents: int = 0
    blobs: int = 0

    def delete_collection(self, path: str) -> bool:
        """Deletes the documents directly in a collection."""
        while self.left > 0:
            limit = min(_PAGE, self.left)
            page = self.platform.documents.list(path, limit=limit)
            self.delete_documents(document.path for document in page)
            if len(page) < limit:
                return True
        return False

    def delete_under_rounds(self, keys: Iterable[RoundKey]) -> bool:
        """Deletes the documents under the documents of `keys`."""
        paths = [path for key in keys for path in names.round_collections(key)]
        while self.left > 0:
            pages = map_concurrently(self.platform, self._page, paths)
            found = [document.path for page in pages for document in page]
            self.delete_documents(found[: self.left])
            paths = [path for path, page in zip(paths, pages, strict=True) if len(page) == _PAGE]
            if not paths and self.left > 0:
                return True
        return False

    def delete_blobs(self) -> bool:
        """Deletes the task's blobs under every prefix."""
        found = self._list_blobs()
        while self.left > 0:
            size = min(_BATCH, self.left)
            batch = list(islice(found, size))
            self.platform.blobs.delete(batch)
            self.blobs += len(batch)
            self.left -= len(batch)
            if len(batch) < size:
                return True
        return False

    def delete_documents(self, paths: Iterable[str]) -> None:
        """Deletes documents by their paths, and counts them."""
        deleted = list(paths)
        map_concurrently(self.platform, self.platform.documents.delete, deleted)
        self.documents += len(deleted)
        self.left -= len(deleted)

    def _page(self, path: str) -> list[Document]:
        return self.platform.documents.list(path, limit=_PAGE)

    def _list_blobs(self) -> Iterator[str]:
        blobs = self.platform.blobs
        own = chain.from_iterable(blobs.list(prefix) for prefix in names.task_prefixes(self.task))
        # Names of updates start with a hash of the round. One listing also finds updates of rounds
        # whose document is gone.
        updates = (blob for blob in blobs.list(names.UPDATES) if names.round_of(blob.name).task == self.task)
        return (blob.name for blob in chain(own, updates))
