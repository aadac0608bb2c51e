"""Lists everything that a store holds, whichever adapter it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.ports import Documents
from muster_coordinator.state.platform import Platform


def document_paths(documents: Documents) -> list[str]:
    """Returns the path of every document, at any depth."""
    if isinstance(documents, SqliteDocuments):
        with documents._database.reading() as connection:
            rows = connection.execute("SELECT collection, id FROM documents").fetchall()
        return sorted(f"{collection}/{key}" for collection, key in rows)
    client: Any = documents._client  # type: ignore[attr-defined]
    return sorted(path for collection in client.collections() for path in _below(collection))


def _below(collection: Any) -> Iterator[str]:
    for reference in collection.list_documents():  # with those that only have documents below them
        if reference.get().exists:
            yield reference.path
        for nested in reference.collections():
            yield from _below(nested)


def everything(platform: Platform) -> list[str]:
    """Returns the paths of all documents and the names of all blobs."""
    return [*document_paths(platform.documents), *(blob.name for blob in platform.blobs.list(""))]
