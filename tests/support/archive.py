"""Copies manifests and salts, which the sweep deletes, for tests of the counted clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.ports import Blobs, Buffer, CreateResult, Document, Documents
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.pseudonyms import SALT


class Archive:
    """Archive of every manifest and every salt that a platform creates.

    Attributes:
      blobs: The manifests.
      salts: The salts, by round.
    """

    def __init__(self, folder: Path) -> None:
        self.blobs = DirectoryBlobs(folder)
        self.salts: dict[RoundKey, bytes] = {}

    def wrap(self, platform: Platform) -> Platform:
        """Returns the platform with copying stores."""
        return replace(
            platform,
            blobs=cast("Blobs", _CopyingBlobs(platform.blobs, self)),
            documents=cast("Documents", _CopyingDocuments(platform.documents, self)),
        )


class _Wrapper:
    """Wrapper of a store that passes all other calls through."""

    def __init__(self, inner: Any, archive: Archive) -> None:
        self._inner = inner
        self._archive = archive

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _CopyingBlobs(_Wrapper):
    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        data = list(chunks) if name.startswith(names.MANIFESTS) else chunks
        creation: CreateResult = self._inner.create(name, data)
        if creation.created and name.startswith(names.MANIFESTS):
            self._archive.blobs.create(name, data)
        return creation


class _CopyingDocuments(_Wrapper):
    def create(self, path: str, data: Mapping[str, Any]) -> Document:
        document: Document = self._inner.create(path, data)
        parts = path.split("/")
        if parts[-2:] == ["keys", "pseudonyms"]:
            self._archive.salts[RoundKey.parse(parts[1], parts[3])] = bytes.fromhex(data.get(SALT, ""))
        return document
