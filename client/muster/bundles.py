"""Builds the deployable bundles: one reproducible zip for each function, with equal bytes for equal source.

A bundle holds the function's folder at its top (`main.py`), the package `muster_coordinator`, the parts of `muster` that this
imports, a `requirements.txt`, and a `NOTICE` with the licenses of the pinned packages. This is the source that Google
Cloud Functions accept, and all that a container needs besides Python.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from muster.local.serving import functions_folder

REQUIREMENTS, NOTICE = "requirements.txt", "NOTICE"
# The coordinator imports of muster the wire and the runtime alone, which an import contract holds it to. The APIs need the
# runtime's numpy half: all functions share one application, the fold included.
_PARTS = ("wire", "runtime")
_NOT_DEPLOYED = "task_export/"  # only `muster state` imports it
_COORDINATOR_BEFORE_0_2 = "coordinator"  # the package's name in older checkouts
_OLDEST = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold
_MODE = 0o100644  # a regular file; everyone reads


@dataclass(frozen=True)
class Kind:
    """A bundle to build: its function's name, which is its target too, and the file of its requirements, without `.txt`."""

    function: str
    requirements: str


KINDS: Mapping[str, Kind] = {
    "client_api": Kind("client_api", "api"),
    "operator_api": Kind("operator_api", "api"),
    "aggregator": Kind("aggregator", "aggregator"),
    "aggregator-tensorflow": Kind("aggregator", "aggregator-tensorflow"),
    "committer": Kind("committer", "committer"),
}


@dataclass(frozen=True)
class Bundle:
    """Built bundle.

    Attributes:
      name: One of `KINDS`.
      path: The zip.
      code_bytes: Bytes of its files, without `requirements.txt` and `NOTICE`.
      files: Number of its files.
      sha256: The zip's hash, in hex. Equal for equal source.
    """

    name: str
    path: Path
    code_bytes: int
    files: int
    sha256: str


class SourceError(FileNotFoundError):
    """What a bundle is made of is not there; the text says what and where."""


@dataclass(frozen=True)
class _Tree:
    functions: Path  # holds a folder with `main.py` for each function
    coordinator: Path
    package: Path
    requirements: Path
    older: bool  # a checkout that may predate some of today's files


def build(source: Optional[Path] = None, *, out: Path) -> list[Bundle]:
    """Builds all bundles.

    Args:
      source: The root of a checkout, such as an older one; None: this very Muster, installed or in its checkout. A checkout of before
        there were requirements for functions gets this Muster's.
      out: The folder to write to, made where missing. What it holds under a bundle's name is replaced, whole or not at all.

    Returns:
      The bundles, in the order of `KINDS`.

    Raises:
      SourceError: `source` holds no Muster, or an installation is not complete.
    """
    tree = _tree(source)
    out.mkdir(parents=True, exist_ok=True)
    return [_build(name, kind, tree, out) for name, kind in KINDS.items()]


def _tree(source: Optional[Path]) -> _Tree:
    package = Path(__file__).resolve().parent
    own = package / "_requirements"
    if not own.is_dir():
        own = package.parent.parent / "requirements" / "functions"
    if source is None:
        return _Tree(functions_folder(), _coordinator_package(), package, own, older=False)
    requirements = source / "requirements" / "functions"
    coordinator = source / "functions" / "muster_coordinator"
    return _Tree(
        source / "functions",
        coordinator if coordinator.is_dir() else source / "functions" / _COORDINATOR_BEFORE_0_2,
        source / "client" / "muster",
        requirements if requirements.is_dir() else own,
        older=True,
    )


def _coordinator_package() -> Path:
    spec = importlib.util.find_spec("muster_coordinator")
    if spec is None or spec.origin is None:
        raise SourceError("The package muster_coordinator is missing: install muster-fl[server] again")
    return Path(spec.origin).parent


def _build(name: str, kind: Kind, tree: _Tree, out: Path) -> Bundle:
    files = dict(_files(kind, tree))
    size = sum(map(len, files.values()))
    files[REQUIREMENTS] = _read(tree.requirements / f"{kind.requirements}.txt")
    notice = tree.requirements / f"{kind.requirements}.notice"
    if notice.exists() or not tree.older:
        files[NOTICE] = _read(notice)
    path = out / f"{name}.zip"
    handle, staged = tempfile.mkstemp(dir=out, prefix=f".{name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(zipfile.ZipFile(file, "w"), files)
        Path(staged).chmod(_MODE & 0o777)
        Path(staged).replace(path)
    except BaseException:
        Path(staged).unlink()
        raise
    return Bundle(name, path, size, len(files), hashlib.sha256(path.read_bytes()).hexdigest())


def _files(kind: Kind, tree: _Tree) -> Iterator[tuple[str, bytes]]:
    yield from _folder(tree.functions / kind.function, "")
    for name, data in _folder(tree.coordinator, ""):
        if not name.startswith(_NOT_DEPLOYED):
            yield f"{tree.coordinator.name}/{name}", data
    yield "muster/__init__.py", _read(tree.package / "__init__.py")
    for part in _PARTS:
        yield from _folder(tree.package / part, f"muster/{part}/")


def _folder(folder: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    """A folder's files, with those below, but what Python, an editor or a system leaves there."""
    if not folder.is_dir():
        raise SourceError(
            f"There is no folder {folder}, which a bundle is made of: is its source a checkout of Muster?"
        )
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if (
            path.is_file()
            and path.suffix != ".pyc"
            and not any(part.startswith((".", "__pycache__")) for part in parts)
        ):
            yield prefix + "/".join(parts), _read(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SourceError(f"There is no {path}, which a bundle is made of: install muster-fl[server] again") from error


def _write(archive: zipfile.ZipFile, files: Mapping[str, bytes]) -> None:
    with archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _OLDEST)
            entry.create_system = 3  # Unix, whatever this runs on: it says how to read the mode
            entry.external_attr = _MODE << 16
            # Not compressed: versions of zlib differ in the bytes that they give, and there is less than a megabyte to gain.
            entry.compress_type = zipfile.ZIP_STORED
            archive.writestr(entry, files[name])
