"""Validates paths of documents and names of blobs, alike for every adapter."""

from __future__ import annotations

import re

_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]+\Z")
_SEGMENT_PREFIX = re.compile(r"[A-Za-z0-9._-]*\Z")


def check_document(path: str) -> None:
    """Raises `ValueError` unless `path` alternates collection and id, with an id last."""
    if path.count("/") % 2 == 0 or not _is_path(path):
        raise ValueError(f"{path!r} is not the path of a document, such as tasks/t1/rounds/000001-0000")


def check_collection(path: str) -> None:
    """Raises `ValueError` unless `path` alternates collection and id, with a collection last."""
    if path.count("/") % 2 == 1 or not _is_path(path):
        raise ValueError(f"{path!r} is not the path of a collection, such as tasks/t1/rounds")


def check_blob(name: str) -> None:
    """Raises `ValueError` unless `name` is a valid name of a blob."""
    if not all(map(_SEGMENT.match, name.split("/"))):
        raise ValueError(
            f"{name!r} is not a valid name of a blob: use segments of letters, digits, '.', '_' and '-', joined by '/'"
        )


def check_prefix(prefix: str) -> None:
    """Raises `ValueError` unless a blob's name can start with `prefix`."""
    folder, _, start = prefix.rpartition("/")
    if folder:
        check_blob(folder)
    if not _SEGMENT_PREFIX.match(start) or prefix.startswith("/"):
        raise ValueError(f"{prefix!r} is not a valid prefix of a blob's name")


def _is_path(path: str) -> bool:
    return all(path.split("/"))
