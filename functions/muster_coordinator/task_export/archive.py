"""The form of a file of a task's state: a zip, uncompressed and without times, of a header, documents and blobs.

    state.json             what it is
    documents/{path}.json  a document, as its adapter holds it
    blobs/{name}           a blob, byte for byte

Members come in order, so that the same state gives the same bytes. The zip's own CRC-32 of each member tells a damaged file.
It may hold single updates that are not folded yet: whoever keeps it keeps it as such.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import IO, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from muster.wire.messages import Name
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.ports import Buffer

_HEADER, _DOCUMENTS, _BLOBS, _JSON = "state.json", "documents/", "blobs/", ".json"
_CHUNK = 1 << 20  # bytes
_LARGE = 1 << 31  # bytes from which a member needs the larger form of a zip
_UNIX = 3


class ArchiveHeader(BaseModel):
    """What the file is. `exported_at` in POSIX seconds; `key` tells which key the deployment signed with, and nothing of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["muster state 1"] = "muster state 1"
    task: Name
    exported_at: float
    key: str


class ArchiveWriter:
    """Writes a file, as a context manager; an error leaves it unfinished."""

    def __init__(self, file: IO[bytes], header: ArchiveHeader) -> None:
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
        info = zipfile.ZipInfo(name)  # dated 1980, whenever it is made
        info.create_system = _UNIX
        info.external_attr = 0o600 << 16
        with self._archive.open(info, "w", force_zip64=view.nbytes >= _LARGE) as member:
            for start in range(0, view.nbytes, _CHUNK):
                member.write(view[start : start + _CHUNK])


class ArchiveReader:
    """Reads a file, as a context manager.

    Attributes:
      header: What it is.
      paths: The paths of its documents.
      blobs: The sizes of its blobs in bytes, by name.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Opens it. Raises `ProblemError` (`invalid_request`) if it is no file of a task's state."""
        try:
            self._archive = zipfile.ZipFile(file)
            self.header = ArchiveHeader.model_validate_json(self._archive.read(_HEADER))
        except (zipfile.BadZipFile, KeyError, ValidationError) as error:
            raise ProblemError(
                ProblemType.INVALID_REQUEST, f"This is no file of a task's state, or one of another version: {error}"
            ) from error
        members = self._archive.infolist()
        self.blobs = {
            each.filename.removeprefix(_BLOBS): each.file_size for each in members if each.filename.startswith(_BLOBS)
        }
        self.paths = [
            each.filename.removeprefix(_DOCUMENTS).removesuffix(_JSON)
            for each in members
            if each.filename.startswith(_DOCUMENTS)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every document: its path and its data."""
        for path in self.paths:
            member = b"".join(self._chunks(f"{_DOCUMENTS}{path}{_JSON}"))
            try:
                yield path, json.loads(member)
            except ValueError as error:
                raise _damaged(error) from error

    def chunks(self, blob: str) -> Iterator[bytes]:
        """A blob's bytes, in pieces. A damaged one raises `ProblemError` before its last piece is given."""
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
