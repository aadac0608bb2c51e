"""Reads and writes state archives: uncompressed zip files of a task's documents and blobs.

    state.json             the header
    documents/{path}.json  a document's fields
    blobs/{name}           a blob's bytes

Members are ordered and undated, so the same state gives the same bytes. The zip's CRC-32 of each
member reveals a damaged file. An archive may hold single updates that are not folded yet: protect
it like them.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import IO, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from muster.wire.messages import Name
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.ports import Buffer

_HEADER, _DOCUMENTS, _BLOBS, _JSON = "state.json", "documents/", "blobs/", ".json"
_CHUNK = 1 << 20  # bytes
_ZIP64_SIZE = 1 << 31  # bytes from which a member needs the ZIP64 format
_UNIX = 3  # the zip format's number of the system that created a member


class ArchiveHeader(BaseModel):
    """Header of an archive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["muster state 1"] = Field(default="muster state 1", description="Format and version of the file.")
    task: Name = Field(description="The task's name.")
    exported_at: float = Field(description="Time of the export, in POSIX seconds.")
    key: str = Field(description="Fingerprint of the key that the deployment signed with.")


class ArchiveWriter:
    """Writer of an archive, as a context manager. After an error the file is incomplete."""

    def __init__(self, file: IO[bytes], header: ArchiveHeader) -> None:
        """Starts an archive in the seekable `file`."""
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._put(_HEADER, header.model_dump_json().encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    def document(self, path: str, data: Mapping[str, Any]) -> None:
        """Adds a document."""
        self._put(f"{_DOCUMENTS}{path}{_JSON}", json.dumps(dict(data), sort_keys=True).encode())

    def blob(self, name: str, data: Buffer) -> None:
        """Adds a blob."""
        self._put(_BLOBS + name, data)

    def _put(self, name: str, data: Buffer) -> None:
        view = memoryview(data)
        info = zipfile.ZipInfo(name)  # always dated 1980
        info.create_system = _UNIX
        info.external_attr = 0o600 << 16
        with self._archive.open(info, "w", force_zip64=view.nbytes >= _ZIP64_SIZE) as member:
            for start in range(0, view.nbytes, _CHUNK):
                member.write(view[start : start + _CHUNK])


class ArchiveReader:
    """Reader of an archive, as a context manager.

    Attributes:
      header: The header.
      paths: Paths of the documents.
      blobs: Sizes of the blobs in bytes, by name.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Opens the archive. Raises `ProblemError` (`invalid_request`) if `file` is not one."""
        try:
            self._archive = zipfile.ZipFile(file)
            self.header = ArchiveHeader.model_validate_json(self._archive.read(_HEADER))
        except (zipfile.BadZipFile, KeyError, ValidationError) as error:
            raise ProblemError(
                ProblemType.INVALID_REQUEST, f"This is not a file of a task's state, or one of another version: {error}"
            ) from error
        members = self._archive.infolist()
        self.blobs = {
            member.filename.removeprefix(_BLOBS): member.file_size
            for member in members
            if member.filename.startswith(_BLOBS)
        }
        self.paths = [
            member.filename.removeprefix(_DOCUMENTS).removesuffix(_JSON)
            for member in members
            if member.filename.startswith(_DOCUMENTS)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields each document's path and data."""
        for path in self.paths:
            member = b"".join(self._chunks(f"{_DOCUMENTS}{path}{_JSON}"))
            try:
                yield path, json.loads(member)
            except ValueError as error:
                raise _damaged(error) from error

    def chunks(self, blob: str) -> Iterator[bytes]:
        """Yields a blob's bytes in chunks.

        Raises `ProblemError` before the last one if it is damaged.
        """
        return self._chunks(_BLOBS + blob)

    def _chunks(self, member: str) -> Iterator[bytes]:
        try:
            with self._archive.open(member) as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except (zipfile.BadZipFile, EOFError) as error:
            raise _damaged(error) from error


def _damaged(error: Exception) -> ProblemError:
    return ProblemError(ProblemType.INVALID_REQUEST, f"The file of state is damaged: {error}")
