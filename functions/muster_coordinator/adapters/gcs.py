"""Blobs in a Cloud Storage bucket.

A blob is made by one request that holds if its name is free (`ifGenerationMatch=0`), or, if it is large, by a resumable upload
with the same condition. Each carries a mark of the call that made it, by which a call whose answer was lost knows its own
work; whether bytes are the same is told by their CRC32C. The bucket should keep no versions and no soft-deleted objects.
"""

from __future__ import annotations

import base64
import io
import os
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import google_crc32c
from google.api_core import exceptions
from google.cloud.storage import Blob, Bucket, Client
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY
from requests.adapters import HTTPAdapter

from muster_coordinator.adapters.google_calls import ForbiddenError, translated
from muster_coordinator.adapters.loopback import exclude_loopback_from_proxies
from muster_coordinator.adapters.paths import check_blob, check_prefix
from muster_coordinator.ports import (
    BlobInfo,
    BlobNotFoundError,
    BlobTooLargeError,
    Buffer,
    CreateResult,
    UnavailableError,
)

_PATIENCE = 60.0  # seconds that an operation may take, its repeats included
_TIMEOUT = (5.0, 30.0)  # seconds to connect, and without an answer
_SINGLE = 3 << 19  # bytes up to which a blob is sent in one request; it is held in memory
_CHUNK = 1 << 20  # bytes of a request of a resumable upload
_CONNECTIONS = 64  # kept open; more are made when needed
_DELETERS = 16  # threads
_MARK = "write"  # the metadata that tells which call made a blob
_LISTED = "items(name,size,timeCreated),nextPageToken"
_LOOKED_UP = "items(name,size,crc32c,timeCreated,metadata),nextPageToken"
_ANY_PROJECT = "-"  # the client asks for one; only calls that make or list buckets use it
# The client else reads the bucket's metadata for traces, and again whenever a blob is not there: calls that cost, and that need
# a right to the bucket which the functions do not have.
_NO_LOOKS = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
_MEDIA_TYPE = "application/octet-stream"


def open_bucket(name: str) -> Bucket:
    """A bucket, under the credentials of the environment, or at `STORAGE_EMULATOR_HOST`; connects with the first call.

    Raises:
      StoreError: there are no credentials.
    """
    exclude_loopback_from_proxies()
    os.environ.setdefault(_NO_LOOKS, "true")
    with translated(f"gs://{name}"):
        client = Client(project=_ANY_PROJECT)
    # The client has no other way to let more than ten threads keep their connections.
    client._http.mount("https://", HTTPAdapter(pool_maxsize=_CONNECTIONS))  # noqa: SLF001
    client._http.mount("http://", HTTPAdapter(pool_maxsize=_CONNECTIONS))  # noqa: SLF001
    return client.bucket(name)


class GcsBlobs:
    """`Blobs` in a bucket. Names that the port does not allow raise `ValueError`."""

    def __init__(self, bucket: str, prefix: str = "", *, patience: float = _PATIENCE) -> None:
        """Connects with the first call, under the credentials of the environment, or to `STORAGE_EMULATOR_HOST`.

        Args:
          bucket: The bucket's name; it must be there.
          prefix: Names in the bucket start with this and a `/`, if it is not empty.
          patience: Seconds that an operation may take, its repeats included. An upload's requests count one by one.

        Raises:
          StoreError: there are no credentials.
        """
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = open_bucket(bucket)
        self._client = self._bucket.client
        self._retry = DEFAULT_RETRY.with_timeout(patience)

    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        """See `Blobs.create`. One operation up to 1.5 MiB; above, the name is looked up first, and bytes of a taken one not sent."""
        check_blob(name)
        source = _Source(chunks)
        mark = secrets.token_hex(8)
        try:
            source.fill(_SINGLE + 1)
            try:
                if source.ended:
                    return self._create_at_once(name, source, mark)
                found = self._look_up(name)
                if found is None:
                    return self._create_in_chunks(name, source, mark)
            except (exceptions.PreconditionFailed, ForbiddenError) as error:
                # Who may make objects and not delete them may not replace one, and can be told so before the condition is looked at.
                found = self._look_up(name)
                if found is None and isinstance(error, ForbiddenError):
                    raise
                if found is None:  # deleted since; what `chunks` gave can't be had again
                    raise UnavailableError(f"{name} was taken a moment ago and is free now; try again") from error
            source.drain()
        except _ChunksError as error:
            raise error.cause from error.cause.__cause__
        same = found.size == source.size and found.crc32c == source.crc32c()
        return CreateResult(_info(found, name), created=(found.metadata or {}).get(_MARK) == mark, same=same)

    def read(self, name: str, *, limit: int | None = None, into: memoryview | None = None) -> memoryview:  # noqa: ARG002
        """See `Blobs.read`. The bytes are in memory of their own, once."""
        blob = self._blob(name)
        buffer = io.BytesIO() if limit is None else _Bounded(name, limit)
        with _translated(name):
            try:
                blob.download_to_file(buffer, raw_download=True, checksum="crc32c", timeout=_TIMEOUT, retry=self._retry)
            except exceptions.NotFound as error:
                raise BlobNotFoundError(f"There is no blob {name}") from error
        return buffer.getbuffer().toreadonly()

    def stat(self, name: str) -> BlobInfo | None:
        """See `Blobs.stat`."""
        check_blob(name)
        found = self._look_up(name)
        return None if found is None else _info(found, name)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """See `Blobs.list`. One operation for each thousand blobs."""
        check_prefix(prefix)
        return self._list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        """See `Blobs.delete`. Several at once; deletes cost nothing."""
        blobs = [(name, self._blob(name)) for name in dict.fromkeys(names)]
        if not blobs:
            return
        with ThreadPoolExecutor(min(_DELETERS, len(blobs)), "gcs-delete") as pool:
            for done in [pool.submit(self._delete, name, blob) for name, blob in blobs]:
                done.result()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _blob(self, name: str, *, mark: str | None = None, chunk_size: int | None = None) -> Blob:
        check_blob(name)
        blob = self._bucket.blob(self._prefix + name, chunk_size=chunk_size)
        if mark is not None:
            blob.metadata = {_MARK: mark}
        return blob

    def _create_at_once(self, name: str, source: _Source, mark: str) -> CreateResult:
        blob = self._blob(name, mark=mark)
        with _translated(name):
            blob.upload_from_string(
                source.read(),
                content_type=_MEDIA_TYPE,
                if_generation_match=0,
                checksum="crc32c",
                timeout=_TIMEOUT,
                retry=self._retry,
            )
        return CreateResult(_info(blob, name), created=True, same=True)

    def _create_in_chunks(self, name: str, source: _Source, mark: str) -> CreateResult:
        # If `source` raises, the upload is never finished and nothing appears; Google forgets it after a week. (The client's
        # own writer, `Blob.open`, finishes an upload when it is garbage-collected after an error, so it is not used here.)
        blob = self._blob(name, mark=mark, chunk_size=_CHUNK)
        with _translated(name):
            try:
                blob.upload_from_file(
                    source,
                    content_type=_MEDIA_TYPE,
                    if_generation_match=0,
                    checksum="crc32c",
                    timeout=_TIMEOUT,
                    retry=self._retry,
                )
            except (
                ValueError
            ) as error:  # the service kept less of a chunk than it was sent, which the client can't mend
                raise UnavailableError(f"{name}: {error}") from error
        return CreateResult(_info(blob, name), created=True, same=True)

    def _look_up(self, name: str) -> Blob | None:
        # By a list, which costs more than a get would: who may get what is known of a blob may read the blob, and the
        # client API, which looks up updates, must not be able to.
        full = self._prefix + name
        with _translated(name):
            found = self._client.list_blobs(
                self._bucket, prefix=full, max_results=1, fields=_LOOKED_UP, timeout=_TIMEOUT, retry=self._retry
            )
            first: Blob | None = next(iter(found), None)
        return first if first is not None and first.name == full else None

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        with _translated(prefix):
            found = iter(
                self._client.list_blobs(
                    self._bucket,
                    prefix=self._prefix + prefix,
                    fields=_LISTED,
                    timeout=_TIMEOUT,
                    retry=self._retry,
                )
            )
        while True:
            with _translated(prefix):
                blob = next(found, None)
            if blob is None:
                return
            yield _info(blob, blob.name[len(self._prefix) :])

    def _delete(self, name: str, blob: Blob) -> None:
        with _translated(name):
            try:
                blob.delete(timeout=_TIMEOUT, retry=self._retry)
            except exceptions.NotFound:
                return


class _Bounded(io.BytesIO):
    """Takes no more than `limit` bytes of the blob `name`."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__()
        self._name = name
        self._limit = limit

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > self._limit:
            raise BlobTooLargeError(f"{self._name} has more than the {self._limit} bytes that are read")
        return super().write(data)


class _ChunksError(Exception):
    """What the caller's chunks raised, so that nobody takes it for an error of the service."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Source(io.RawIOBase):
    """The caller's chunks as a file that can be read once, and its size and checksum."""

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        super().__init__()
        self._chunks = iter(chunks)
        self._held: deque[memoryview] = deque()
        self._holding = 0  # bytes
        self._position = 0
        self._digest = google_crc32c.Checksum()
        self.size = 0  # of what came so far
        self.ended = False

    def fill(self, size: int) -> None:
        """Takes chunks until `size` bytes are held, or there are no more."""
        while self._holding < size and not self.ended:
            self._pull()

    def drain(self) -> None:
        """Takes all that is left and keeps none of it."""
        while not self.ended:
            self._held.clear()
            self._pull()

    def crc32c(self) -> str:
        """Of what came so far, as Cloud Storage writes it."""
        return base64.b64encode(self._digest.digest()).decode("ascii")

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next `size` bytes; fewer only at the end. All, if `size` is negative."""
        wanted = size if size is not None and size >= 0 else 1 << 62
        self.fill(wanted)
        taken: list[memoryview] = []
        while wanted and self._held:
            view = self._held.popleft()
            if len(view) > wanted:
                self._held.appendleft(view[wanted:])
                view = view[:wanted]
            taken.append(view)
            wanted -= len(view)
            self._holding -= len(view)
            self._position += len(view)
        return b"".join(taken)

    def _pull(self) -> None:
        try:
            chunk = next(self._chunks, None)
        except Exception as error:  # whatever it is, it goes back to the caller
            raise _ChunksError(error) from error
        if chunk is None:
            self.ended = True
            return
        data = bytes(chunk)  # a copy, unless it is bytes: the caller may use its buffer again
        self._digest.update(data)
        self.size += len(data)
        self._holding += len(data)
        if data:
            self._held.append(memoryview(data))


def _info(blob: Blob, name: str) -> BlobInfo:
    created = blob.time_created
    return BlobInfo(name, blob.size or 0, time.time() if created is None else created.timestamp())


@contextmanager
def _translated(what: str) -> Iterator[None]:
    taken: exceptions.PreconditionFailed | None = None
    with translated(what):
        try:
            yield
        except exceptions.PreconditionFailed as error:
            taken = error  # an outcome, not an error
        except DataCorruption as error:
            raise UnavailableError(f"{what}: {error}") from error
    if taken is not None:
        raise taken
