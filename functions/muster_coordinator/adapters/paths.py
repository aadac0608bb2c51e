"""The paths of documents and the names of blobs that the ports allow, for every adapter alike."""

from __future__ import annotations

import re

_PART = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]+\Z")
_START = re.compile(r"[A-Za-z0-9._-]*\Z")


def check_document(path: str) -> None:
    """Raises `ValueError` unless `path` alternates collection and id, and ends with an id."""
    if path.count("/") % 2 == 0 or not _is_path(path):
        raise ValueError(f"{path!r} is not the path of a document, such as tasks/t1/rounds/000001-0000")


def check_collection(path: str) -> None:
    """Raises `ValueError` unless `path` alternates collection and id, and ends with a collection."""
    if path.count("/") % 2 == 1 or not _is_path(path):
        raise ValueError(f"{path!r} is not the path of a collection, such as tasks/t1/rounds")


def check_blob(name: str) -> None:
    """Raises `ValueError` unless `name` is one that a blob can have."""
    if not all(map(_PART.match, name.split("/"))):
        raise ValueError(f"{name!r} is no name of a blob: parts of letters, digits, '.', '_' and '-', joined by '/'")


def check_prefix(prefix: str) -> None:
    """Raises `ValueError` unless the name of a blob can start with `prefix`."""
    folder, _, start = prefix.rpartition("/")
    if folder:
        check_blob(folder)
    if not _START.match(start) or prefix.startswith("/"):
        raise ValueError(f"{prefix!r} can't start the name of a blob")


def _is_path(path: str) -> bool:
    return all(path.split("/"))
