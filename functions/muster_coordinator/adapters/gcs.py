"""Blobs in a Cloud Storage bucket.

A blob is created by one request under the condition that its name is free (`ifGenerationMatch=0`),
or, if it is large, by a resumable upload under the same condition. Its metadata holds the id of the
call that created it, by which a call recognizes its own work after a lost response. Bytes are
compared by their CRC32C. The bucket should have neither versions nor soft delete.
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

_PATIENCE = 60.0  # seconds that an operation may take, retries included
_TIMEOUT = (5.0, 30.0)  # seconds to connect, and between bytes of a response
_MAX_SINGLE_REQUEST = 3 << 19  # bytes of a blob that is sent in one request, from memory
_UPLOAD_CHUNK = 1 << 20  # bytes of a request of a resumable upload
_MAX_IDLE_CONNECTIONS = 64
_MAX_DELETE_THREADS = 16
_WRITE_ID = "write"  # metadata key with the id of the call that created a blob
_LIST_FIELDS = "items(name,size,timeCreated),nextPageToken"
_FIND_FIELDS = "items(name,size,crc32c,timeCreated,metadata),nextPageToken"
_ANY_PROJECT = "-"  # required by the client; only calls that create or list buckets use it
# Without this the client reads the bucket's metadata for traces, and again whenever a blob is
# missing. Such calls cost money and need a permission that the functions do not have.
_DISABLE_BUCKET_READS = "DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA"
_MEDIA_TYPE = "application/octet-stream"


def open_bucket(name: str) -> Bucket:
    """Returns a bucket with the environment's credentials; it connects with the first call.

    Uses the emulator at `STORAGE_EMULATOR_HOST` if that is set.

    Raises:
      StoreError: There are no credentials.
    """
    exclude_loopback_from_proxies()
    os.environ.setdefault(_DISABLE_BUCKET_READS, "true")
    with translated(f"gs://{name}"):
        client = Client(project=_ANY_PROJECT)
    # The client offers no other way for more than ten threads to reuse their connections.
    client._http.mount("https://", HTTPAdapter(pool_maxsize=_MAX_IDLE_CONNECTIONS))  # noqa: SLF001
    client._http.mount("http://", HTTPAdapter(pool_maxsize=_MAX_IDLE_CONNECTIONS))  # noqa: SLF001
    return client.bucket(name)


class GcsBlobs:
    """`Blobs` in a Cloud Storage bucket.

    Reads and lists are strongly consistent. Requests are retried with back-off for `patience`
    seconds, then raise `UnavailableError`; a missing permission raises `ForbiddenError`, and other
    failures raise `StoreError`. Invalid names raise `ValueError`.
    """

    def __init__(self, bucket: str, prefix: str = "", *, patience: float = _PATIENCE) -> None:
        """Creates a store; see `open_bucket` for the credentials.

        Args:
          bucket: Name of the bucket, which must exist.
          prefix: Prefix of all names in the bucket, without its final `/`; empty for none.
          patience: Seconds that an operation may take, retries included. Each request of a
            resumable upload counts as an operation.

        Raises:
          StoreError: There are no credentials.
        """
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = open_bucket(bucket)
        self._client = self._bucket.client
        self._retry = DEFAULT_RETRY.with_timeout(patience)

    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        """See `Blobs.create`.

        Costs one operation up to 1.5 MiB. A larger blob is sent only after a check that its name is
        free.
        """
        check_blob(name)
        source = _Source(chunks)
        write_id = secrets.token_hex(8)
        try:
            source.fill(_MAX_SINGLE_REQUEST + 1)
            try:
                if source.ended:
                    return self._create_at_once(name, source, write_id)
                existing = self._find(name)
                if existing is None:
                    return self._create_in_chunks(name, source, write_id)
            except (exceptions.PreconditionFailed, ForbiddenError) as error:
                # An account that may create objects but not delete them may not replace one. The
                # service may report that before it checks the condition.
                existing = self._find(name)
                if existing is None and isinstance(error, ForbiddenError):
                    raise
                if existing is None:  # deleted since; `chunks` can't be read again
                    raise UnavailableError(f"{name} was deleted during the upload; try again") from error
            source.drain()
        except _ChunksError as error:
            raise error.cause from error.cause.__cause__
        same = existing.size == source.size and existing.crc32c == source.crc32c()
        return CreateResult(
            _info(existing, name), created=(existing.metadata or {}).get(_WRITE_ID) == write_id, same=same
        )

    def read(self, name: str, *, limit: int | None = None, into: memoryview | None = None) -> memoryview:  # noqa: ARG002
        """See `Blobs.read`. Returns new memory, of the blob's size."""
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
        existing = self._find(name)
        return None if existing is None else _info(existing, name)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """See `Blobs.list`. Costs one operation per thousand blobs."""
        check_prefix(prefix)
        return self._list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        """See `Blobs.delete`. Deletes concurrently; deletes are free of charge."""
        blobs = [(name, self._blob(name)) for name in dict.fromkeys(names)]
        if not blobs:
            return
        with ThreadPoolExecutor(min(_MAX_DELETE_THREADS, len(blobs)), "gcs-delete") as pool:
            for done in [pool.submit(self._delete, name, blob) for name, blob in blobs]:
                done.result()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _blob(self, name: str, *, write_id: str | None = None, chunk_size: int | None = None) -> Blob:
        check_blob(name)
        blob = self._bucket.blob(self._prefix + name, chunk_size=chunk_size)
        if write_id is not None:
            blob.metadata = {_WRITE_ID: write_id}
        return blob

    def _create_at_once(self, name: str, source: _Source, write_id: str) -> CreateResult:
        blob = self._blob(name, write_id=write_id)
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

    def _create_in_chunks(self, name: str, source: _Source, write_id: str) -> CreateResult:
        # If `source` raises, the upload is never finished and no blob appears; the session expires
        # after a week. The client's writer `Blob.open` is not used, since its garbage collection
        # after an error finishes the upload.
        blob = self._blob(name, write_id=write_id, chunk_size=_UPLOAD_CHUNK)
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
            except ValueError as error:  # the service stored less of a chunk than it was sent
                raise UnavailableError(f"{name}: {error}") from error
        return CreateResult(_info(blob, name), created=True, same=True)

    def _find(self, name: str) -> Blob | None:
        # A list, although a get is cheaper: the permission to get metadata includes that to read
        # the blob, which the client API must not have.
        full = self._prefix + name
        with _translated(name):
            blobs = self._client.list_blobs(
                self._bucket, prefix=full, max_results=1, fields=_FIND_FIELDS, timeout=_TIMEOUT, retry=self._retry
            )
            first: Blob | None = next(iter(blobs), None)
        return first if first is not None and first.name == full else None

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        with _translated(prefix):
            blobs = iter(
                self._client.list_blobs(
                    self._bucket,
                    prefix=self._prefix + prefix,
                    fields=_LIST_FIELDS,
                    timeout=_TIMEOUT,
                    retry=self._retry,
                )
            )
        while True:
            with _translated(prefix):
                blob = next(blobs, None)
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
    """Buffer that raises `BlobTooLargeError` beyond `limit` bytes of the blob `name`."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__()
        self._name = name
        self._limit = limit

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > self._limit:
            raise BlobTooLargeError(f"{self._name} has more than the limit of {self._limit} bytes")
        return super().write(data)


class _ChunksError(Exception):
    """Error raised when the caller's chunks raise, as opposed to an error of the service."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Source(io.RawIOBase):
    """The caller's chunks as a readable stream that counts and checksums its bytes."""

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        super().__init__()
        self._chunks = iter(chunks)
        self._buffered: deque[memoryview] = deque()
        self._buffered_size = 0  # bytes
        self._position = 0
        self._digest = google_crc32c.Checksum()
        self.size = 0  # bytes received so far
        self.ended = False

    def fill(self, size: int) -> None:
        """Buffers chunks until `size` bytes are buffered, or the chunks end."""
        while self._buffered_size < size and not self.ended:
            self._pull()

    def drain(self) -> None:
        """Reads and discards all remaining chunks."""
        while not self.ended:
            self._buffered.clear()
            self._pull()

    def crc32c(self) -> str:
        """Returns the checksum of the bytes received so far, in Cloud Storage's notation."""
        return base64.b64encode(self._digest.digest()).decode("ascii")

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Returns the next `size` bytes, fewer only at the end; all if `size` is negative."""
        remaining = size if size is not None and size >= 0 else 1 << 62
        self.fill(remaining)
        views: list[memoryview] = []
        while remaining and self._buffered:
            view = self._buffered.popleft()
            if len(view) > remaining:
                self._buffered.appendleft(view[remaining:])
                view = view[:remaining]
            views.append(view)
            remaining -= len(view)
            self._buffered_size -= len(view)
            self._position += len(view)
        return b"".join(views)

    def _pull(self) -> None:
        try:
            chunk = next(self._chunks, None)
        except Exception as error:  # passed on to the caller
            raise _ChunksError(error) from error
        if chunk is None:
            self.ended = True
            return
        data = bytes(chunk)  # a copy unless it is bytes, since the caller may reuse its buffer
        self._digest.update(data)
        self.size += len(data)
        self._buffered_size += len(data)
        if data:
            self._buffered.append(memoryview(data))


def _info(blob: Blob, name: str) -> BlobInfo:
    created = blob.time_created
    return BlobInfo(name, blob.size or 0, time.time() if created is None else created.timestamp())


@contextmanager
def _translated(what: str) -> Iterator[None]:
    name_taken: exceptions.PreconditionFailed | None = None
    with translated(what):
        try:
            yield
        except exceptions.PreconditionFailed as error:
            name_taken = error  # an outcome of `create`, not an error
        except DataCorruption as error:
            raise UnavailableError(f"{what}: {error}") from error
    if name_taken is not None:
        raise name_taken
