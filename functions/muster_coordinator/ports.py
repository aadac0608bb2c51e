"""Ports of the coordinator: documents, blobs, a work queue, authenticators, time and randomness.

Every write is guarded (create-only or compare-and-set) or harmless to repeat. Each method documents
its outcomes, its errors and the effect of a repeat. Adapters raise the errors of this module, never
those of a vendor. One contract suite (`tests/contract`) runs over all adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from muster_coordinator.domain.operators import Principal

Buffer = bytes | bytearray | memoryview


class StoreError(Exception):
    """Error raised when a port fails. Base class of the errors of stores and queues."""


class AlreadyExistsError(StoreError):
    """Error raised when a document to be created exists. Nothing was written."""


class ConflictError(StoreError):
    """Error raised when a document was changed or deleted since it was read.

    Nothing was written.
    """


class BlobNotFoundError(StoreError):
    """Error raised when a blob does not exist."""


class BlobTooLargeError(StoreError):
    """Error raised when a blob exceeds the caller's limit. None of its bytes stay in memory."""


class UnavailableError(StoreError):
    """Error raised when a store does not answer in time, or refuses temporarily.

    A write may or may not have taken effect: repeat it.
    """


class BusyError(UnavailableError):
    """Error raised when work has to wait for other work here. No store or service failed.

    Callers receive its message.
    """


class QueueNotFoundError(UnavailableError):
    """Error raised when the queue of work is not found. Nothing was enqueued.

    It may not exist, or it may be becoming active again after a long time without use.
    """


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was read.

    Attributes:
      path: Its path.
      data: Its JSON fields.
      version: Opaque; changes with every write.
    """

    path: str
    data: Mapping[str, Any]
    version: str

    @property
    def id(self) -> str:
        """The last segment of the path."""
        return self.path.rpartition("/")[2]


class Documents(Protocol):
    """Store of small JSON documents.

    Paths alternate collection and id: `tasks/t1/rounds/000001-0000`.
    """

    def create(self, path: str, data: Mapping[str, Any]) -> Document:
        """Creates a document.

        Raises `AlreadyExistsError` if it exists, with the same data or other.
        """

    def get(self, path: str) -> Document | None:
        """Returns the document, or None. A read sees every write that has returned."""

    def replace(self, path: str, data: Mapping[str, Any], *, version: str) -> Document:
        """Replaces a document by compare-and-set.

        Raises:
          ConflictError: the document no longer has `version`, or was deleted.
        """

    def delete(self, path: str, *, version: str | None = None) -> None:
        """Deletes a document, if it exists. Idempotent.

        Raises:
          ConflictError: the document has another version than `version`, if one is given.
        """

    def increment(self, path: str, by: Mapping[str, int]) -> Mapping[str, int]:
        """Adds to integer fields, atomically and together, and returns their new values.

        A missing document or field starts at 0. Concurrent increments by 1 return different values.
        Not idempotent: a counter is a hint or a ticket, never the record.
        """

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Document]:
        """Returns the documents directly in `collection`, in order of id.

        Args:
          collection: Path of the collection.
          after: Cursor: returns only documents with an id behind this one.
          limit: Most documents to return.
        """


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """Description of a stored blob."""

    name: str
    size: int  # bytes
    created: float  # POSIX seconds


@dataclass(frozen=True, slots=True)
class CreateResult:
    """Result of a create-only write.

    Attributes:
      blob: The blob that is stored now.
      created: Whether this call created it, including an attempt whose response was lost.
      same: Whether the stored blob has the bytes that the call sent.
    """

    blob: BlobInfo
    created: bool
    same: bool


class Blobs(Protocol):
    """Store of immutable blobs.

    Names are segments of `[A-Za-z0-9._-]`, joined by `/`. The segments `.` and `..` and empty ones
    raise `ValueError`.
    """

    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        """Streams a blob to a name, if the name is free.

        An existing blob is a result, not an error.

        All or nothing: if `chunks` raises, its error passes through and no blob appears. Needs the
        memory of about one chunk.
        """

    def read(self, name: str, *, limit: int | None = None, into: memoryview | None = None) -> memoryview:
        """Returns the blob's bytes, read-only and memory-mapped where the store supports it.

        Args:
          name: The blob.
          limit: Most bytes to read.
          into: Buffer that the store may use for a blob that fits. The result is then valid until
            the buffer is used again.

        Raises:
          BlobNotFoundError: the blob does not exist.
          BlobTooLargeError: the blob has more than `limit` bytes. Needs memory of about `limit`.
        """

    def stat(self, name: str) -> BlobInfo | None:
        """Returns the description of a blob, or None."""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """Yields the blobs whose names start with `prefix`, in order of name.

        A listing sees every create and delete that has returned.
        """

    def delete(self, names: Iterable[str]) -> None:
        """Deletes blobs, where they exist. Idempotent."""


@dataclass(frozen=True, slots=True)
class DirectUploadTarget:
    """Permission to upload one blob directly to the store, by a PUT to `url` with `headers`.

    See `muster.wire.messages.DirectUpload`.
    """

    url: str
    headers: Mapping[str, str]
    resumable: bool


class DirectUploads(Protocol):
    """Store that clients without an account may upload to, with a signed URL."""

    def start(self, name: str, *, size: int, crc32c: str, seconds: float) -> DirectUploadTarget:
        """Returns a target at which its holder may create the blob `name`, of exactly these bytes.

        Creates nothing yet, and may be repeated: of several targets for one name one can be used.

        Args:
          name: The blob's name.
          size: Its size in bytes.
          crc32c: The CRC-32C of its bytes, big-endian in base64.
          seconds: Seconds for which the target is valid, at least 1.

        Raises:
          AlreadyExistsError: the blob exists. Not every store notices that here.
        """


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A piece of work for a function.

    It is delivered at least once, possibly late and out of order.

    Attributes:
      function: `aggregator` or `committer`.
      kind: The function's route, such as `fold`.
      payload: JSON body of the request.
    """

    function: str
    kind: str
    payload: Mapping[str, Any]


class WorkQueue(Protocol):
    """Queue that delivers work over HTTP and retries failures with back-off."""

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        """Enqueues `work` for delivery after `delay` seconds.

        A name that was used recently may be dropped silently, as a repeat.
        """


class UntrustedTokenError(Exception):
    """Error raised when a token is not valid, or its holder lacks the permission.

    The text names the reason and quotes nothing of the token.
    """


class InvokerAuthenticator(Protocol):
    """Authenticator of internal requests, which the queue and the scheduler send."""

    def verify(self, token: str, *, function: str) -> None:
        """Checks that `token` is the invoker's, for `function`.

        Raises:
          UntrustedTokenError: it is not.
          UnavailableError: the token can't be checked now.
        """


class OperatorAuthenticator(Protocol):
    """Authenticator of operators."""

    def identify(self, token: str | None) -> Principal:
        """Returns the principal that `token` authenticates. None means no credentials were sent.

        Raises:
          UntrustedTokenError: the caller is not an operator.
          UnavailableError: the token can't be checked now.
        """


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """Credentials of a check-in.

    Attributes:
      population: The population that the client checks in to.
      token: The client's bearer token, if any.
      peer: The address of the connection's other end: a proxy's, where there is one.
      header: Returns a header by its case-insensitive name, or None.
    """

    population: str
    token: str | None
    peer: str
    header: Callable[[str], str | None]


class ClientAuthenticator(Protocol):
    """Authenticator of clients."""

    def identify(self, caller: ClientCredentials) -> str:
        """Returns the client's identity: unique, and the same at every check-in.

        The identity is used for pseudonyms only.

        Raises:
          UntrustedTokenError: the client is not admitted. The text is for the client.
          UnavailableError: the credentials can't be checked now.
        """


class Clock(Protocol):
    """Source of time, which may jump."""

    def now(self) -> float:
        """Returns the time, in POSIX seconds."""


class Randomness(Protocol):
    """Source of randomness, which tests can seed."""

    def uniform(self) -> float:
        """Returns a float in [0, 1)."""

    def nonce(self) -> str:
        """Returns a fresh name of 16 hex digits."""

    def random_bytes(self, size: int) -> bytes:
        """Returns `size` unpredictable bytes."""
