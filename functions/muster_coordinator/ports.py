"""What the coordinator needs of the world: documents, blobs, a work queue, time and chance.

Every write is guarded (create-only or compare-and-set) or harmless to repeat; each method says its outcomes, its errors and
what a repeat does. Errors are these, never a vendor's. One contract suite (`tests/contract`) runs over all adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from muster_coordinator.domain.operators import Principal

Buffer = bytes | bytearray | memoryview


class StoreError(Exception):
    """A port could not do what was asked."""


class AlreadyExistsError(StoreError):
    """The document that should be made is there; nothing was written."""


class ConflictError(StoreError):
    """The document has changed, or is gone, since the version that the caller holds; nothing was written."""


class BlobNotFoundError(StoreError):
    """There is no blob of this name."""


class BlobTooLargeError(StoreError):
    """The blob has more bytes than the caller takes; none of them are kept in memory."""


class UnavailableError(StoreError):
    """The store did not answer in time, or refused for now. A write may or may not have taken effect: repeat it."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was read. `version` is opaque; it changes with every write."""

    path: str
    data: Mapping[str, Any]
    version: str

    @property
    def id(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class Documents(Protocol):
    """Small JSON documents under paths that alternate collection and id: `tasks/t1/rounds/000001-00`."""

    def create(self, path: str, data: Mapping[str, Any]) -> Document:
        """Makes a document that must not exist. A repeat raises `AlreadyExistsError`, whatever it holds."""

    def get(self, path: str) -> Document | None:
        """The document as it is now (a read sees every write that has returned), or None."""

    def replace(self, path: str, data: Mapping[str, Any], *, version: str) -> Document:
        """Compare-and-set: writes if the document still has `version`, else raises `ConflictError`."""

    def delete(self, path: str, *, version: str | None = None) -> None:
        """Deletes the document; one that is not there is fine. With `version`: `ConflictError` if another one is there."""

    def increment(self, path: str, by: Mapping[str, int]) -> Mapping[str, int]:
        """Adds to integer fields, atomically and together, and returns their new values.

        The document and its fields are made at 0 where missing. Of concurrent increments by 1 each gets a value of its
        own. Not idempotent: a counter is a hint or a ticket, never the record.
        """

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Document]:
        """The documents directly in `collection`, in order of id, from the one behind the id `after` on."""


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A stored blob: `size` in bytes, `created` in POSIX seconds."""

    name: str
    size: int
    created: float


@dataclass(frozen=True, slots=True)
class CreateResult:
    """What a create-only write came to.

    `created`: this call made the blob (a lost answer to it included). `same`: the blob that is there now holds the bytes
    that the call brought. `blob` describes the blob that is there now.
    """

    blob: BlobInfo
    created: bool
    same: bool


class Blobs(Protocol):
    """Immutable bytes under names of `/`-joined parts of `[A-Za-z0-9._-]`; `.`, `..` and empty parts raise `ValueError`."""

    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        """Streams a blob to a name that must be free; a taken name is an outcome, not an error, and stays as it is.

        All or nothing: if `chunks` raises, its error passes through and no blob appears. Memory of about one chunk.
        """

    def read(self, name: str, *, limit: int | None = None, into: memoryview | None = None) -> memoryview:
        """The blob's bytes, which nobody can change; mapped where the store can.

        Args:
          name: The blob.
          limit: The most bytes that it may have.
          into: Memory that the store may put a blob in that fits. What is given back then holds until `into` is used again.

        Raises:
          BlobNotFoundError: there is none.
          BlobTooLargeError: it has more than `limit` bytes. Memory of about `limit`.
        """

    def stat(self, name: str) -> BlobInfo | None:
        """What is stored under `name`, or None."""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """The blobs whose names start with `prefix`, in order of name; sees every create and delete that has returned."""

    def delete(self, names: Iterable[str]) -> None:
        """Deletes blobs; one that is not there is fine."""


@dataclass(frozen=True, slots=True)
class DirectUploadTarget:
    """How a client brings one blob to the store itself: a PUT to `url` with `headers`; see `muster.wire.messages.DirectUpload`."""

    url: str
    headers: Mapping[str, str]
    resumable: bool


class DirectUploads(Protocol):
    """What a store that clients reach themselves can do besides `Blobs`: take a blob from somebody whom it does not know."""

    def start(self, name: str, *, size: int, crc32c: str, seconds: float) -> DirectUploadTarget:
        """Lets whoever has the answer make the blob `name`, create-only, of just these bytes.

        Nothing is made yet, and a repeat is harmless: of several leaves for one name one can be used.

        Args:
          name: The blob's name.
          size: Its bytes.
          crc32c: Their checksum, big-endian in base64.
          seconds: How long the leave holds, at least one second.

        Raises:
          AlreadyExistsError: the name is taken. Not every store notices that here.
        """


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A piece of work for a function of ours, delivered at least once: twice, late and out of order are to be expected.

    `function` is `aggregator` or `committer`; `kind` its route, such as `fold`; `payload` JSON.
    """

    function: str
    kind: str
    payload: Mapping[str, Any]


class WorkQueue(Protocol):
    """Delivers work over HTTP, again after a failure, with growing pauses."""

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        """Has `work` delivered after `delay` seconds. A name that was used lately may be dropped as a repeat, silently."""


class UntrustedTokenError(Exception):
    """A token is not valid, or not of somebody who may call; the text says why, and holds nothing of the token."""


class InvokerAuthenticator(Protocol):
    """Knows who may have the functions do work: the queue and the scheduler."""

    def verify(self, token: str, *, function: str) -> None:
        """Returns if `token` is one that the queue's account brings to `function`.

        Raises:
          UntrustedTokenError: it is not.
          UnavailableError: this can't be told now.
        """


class OperatorAuthenticator(Protocol):
    """Knows who may operate."""

    def identify(self, token: str | None) -> Principal:
        """Who shows `token`; None: somebody who shows nothing.

        Raises:
          UntrustedTokenError: nobody who may operate.
          UnavailableError: this can't be told now.
        """


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """What a check-in brings that may say who it is.

    Attributes:
      population: The population that it checks in to.
      token: Its bearer token, if it has one.
      peer: The address that the connection comes from: a proxy's, where there is one.
      header: Gives a header by its name, whatever its case; None: there is none.
    """

    population: str
    token: str | None
    peer: str
    header: Callable[[str], str | None]


class ClientAuthenticator(Protocol):
    """Knows who a client is."""

    def identify(self, caller: ClientCredentials) -> str:
        """The client's identity: the same at every check-in, and no other client's. It goes into pseudonyms, and nowhere else.

        Raises:
          UntrustedTokenError: nobody whom the deployment takes, and why; the text is for the client.
          UnavailableError: this can't be told now.
        """


class Clock(Protocol):
    """Time, which may jump."""

    def now(self) -> float:
        """POSIX seconds."""


class Randomness(Protocol):
    """Randomness that tests can fix."""

    def uniform(self) -> float:
        """A float in [0, 1)."""

    def nonce(self) -> str:
        """A fresh name: 16 hex digits."""

    def random_bytes(self, size: int) -> bytes:
        """Returns `size` unpredictable bytes."""
