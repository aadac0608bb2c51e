"""A coordinator whose functions have only the store permissions of access.json.

The stores here require the permissions that Cloud Storage requires. A create needs `create`, and
`list` to look up a taken name or a large blob. A read needs `get`, and `list` if the blob is
missing (otherwise the response is a 403).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.split_blobs import SplitBlobs
from muster_coordinator.http import FUNCTIONS, router
from muster_coordinator.http.functions import function_for
from muster_coordinator.ports import BlobInfo, Blobs, Buffer, CreateResult, DirectUploads, Document, Documents
from muster_coordinator.settings import SIGNING
from support.harness import Harness

ACCESS = Path(__file__).parents[2] / "infra/terraform/access.json"
STORES = ("blobs", "updates", "partials")

Grant = tuple[str, str, str, str]  # function, store, prefix, verb


def grants() -> set[Grant]:
    """Returns all grants of the table."""
    table = json.loads(ACCESS.read_text())
    return {
        (function, store, prefix, verb)
        for function, stores in table.items()
        for store, prefixes in stores.items()
        for prefix, verbs in prefixes.items()
        for verb in verbs
    }


class RefusedError(Exception):
    """Error raised when a function lacks the permission for a call."""


@dataclass
class GrantLog:
    """Log of used grants, of refused calls, and of the use of documents."""

    granted: set[Grant] = field(default_factory=grants)
    used: set[Grant] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)
    documents: set[tuple[str, str, str]] = field(default_factory=set)  # function, verb, collection

    def check(self, function: str, store: str, verb: str, name: str) -> None:
        """Logs the grant that permits a call. Raises `RefusedError` if none does."""
        for grant in self.granted:
            if grant[:2] == (function, store) and grant[3] == verb and name.startswith(grant[2]):
                self.used.add(grant)
                return
        self.refused.append(f"{function} may not {verb} {name!r} in {store}")
        raise RefusedError(self.refused[-1])


class RestrictedBlobs:
    """`Blobs` of one store that check the permissions of one function."""

    def __init__(self, inner: Blobs, check: Callable[[str, str], None]) -> None:
        self._inner = inner
        self._check = check

    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        self._check("create", name)
        self._check("list", name)
        return self._inner.create(name, chunks)

    def read(self, name: str, *, limit: int | None = None, into: memoryview | None = None) -> memoryview:
        self._check("get", name)
        if self._inner.stat(name) is None:
            self._check("list", name)
        return self._inner.read(name, limit=limit, into=into)

    def stat(self, name: str) -> BlobInfo | None:
        self._check("list", name)
        return self._inner.stat(name)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        self._check("list", prefix)
        return self._inner.list(prefix)

    def delete(self, names: Iterable[str]) -> None:
        deleted = list(names)
        for name in deleted:
            self._check("delete", name)
        self._inner.delete(deleted)


class RecordedDocuments:
    """`Documents` that record the use by one function: the verb, and the first part of the path."""

    def __init__(self, inner: Documents, record: Callable[[str, str], None]) -> None:
        self._inner = inner
        self._record = record

    def create(self, path: str, data: Mapping[str, Any]) -> Document:
        self._record("write", path)
        return self._inner.create(path, data)

    def get(self, path: str) -> Document | None:
        self._record("get", path)
        return self._inner.get(path)

    def replace(self, path: str, data: Mapping[str, Any], *, version: str) -> Document:
        self._record("write", path)
        return self._inner.replace(path, data, version=version)

    def delete(self, path: str, *, version: str | None = None) -> None:
        self._record("write", path)
        self._inner.delete(path, version=version)

    def increment(self, path: str, by: Mapping[str, int]) -> Mapping[str, int]:
        self._record("write", path)
        return self._inner.increment(path, by)

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Document]:
        self._record("list", collection)
        return self._inner.list(collection, after=after, limit=limit)


class RestrictedDeployment(Harness):
    """Four applications in one process. Each request is served by the function that owns its route.

    Args:
      root: A folder for the stores.
      log: The log of used grants.
      direct: Returns the direct uploads to the store of updates, with the client API's permissions.
      options: Further arguments of `Harness`.
    """

    def __init__(
        self, root: Path, log: GrantLog, *, direct: Callable[[Blobs], DirectUploads] | None = None, **options: Any
    ) -> None:
        self.log = log
        self._stores: dict[str, Blobs] = {store: DirectoryBlobs(root / store) for store in STORES}
        self._direct = None if direct is None else direct(self._restricted(SIGNING, "updates"))
        all_blobs = SplitBlobs(self._stores["blobs"], {store: self._stores[store] for store in STORES[1:]})
        super().__init__(root, blobs=all_blobs, **options)

    def restart(self) -> None:
        """Replaces the four applications; see `Harness.restart`."""
        self.routers = {}
        for function in FUNCTIONS:
            others = {store: self._restricted(function, store) for store in STORES[1:]}
            blobs = SplitBlobs(self._restricted(function, "blobs"), others)
            direct = self._direct if function == SIGNING else None
            # Only the signing function has the key.
            app = self.application(
                platform=replace(self.inner, blobs=blobs, direct=direct, documents=self.documents(function)),
                secret=self.secret if function == SIGNING else None,
            )
            self.routers[function] = router(app, function)

        def serve(request: Request) -> Response:
            return self.routers[function_for(request.method, request.path)](request)

        self.http = Client(Request.application(serve))

    def documents(self, function: str) -> RecordedDocuments:
        """Returns the documents, whose use by the function is logged."""

        def record(verb: str, path: str) -> None:
            self.log.documents.add((function, verb, path.partition("/")[0]))

        return RecordedDocuments(self.inner.documents, record)

    def _restricted(self, function: str, store: str) -> RestrictedBlobs:
        return RestrictedBlobs(self._stores[store], lambda verb, name: self.log.check(function, store, verb, name))
