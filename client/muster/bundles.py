"""Builds the deployable bundles: one zip per function, with equal bytes for equal source.

A bundle contains the function's `main.py`, the package `muster_coordinator`, the packages of
`muster` that this imports, a `requirements.txt`, and a `NOTICE` with the licenses of the pinned
packages. Google Cloud Functions accept it as source, and a container needs nothing else but Python.
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
# An import contract limits the coordinator to these packages of muster. The APIs need the runtime
# too, without TensorFlow: all functions share one application, which includes the fold.
_PACKAGES = ("wire", "runtime")
_NOT_DEPLOYED = "task_export/"  # only `muster state` imports it
_COORDINATOR_BEFORE_0_2 = "coordinator"  # the package's name in older checkouts
_EPOCH = (1980, 1, 1, 0, 0, 0)  # earliest date of a zip
_MODE = 0o100644  # regular file, readable by everyone


@dataclass(frozen=True)
class Kind:
    """Kind of bundle.

    Attributes:
      function: Name of the function, which is its entry point too.
      requirements: Name of the file of its requirements, without `.txt`.
    """

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
      path: Path of the zip.
      code_bytes: Bytes of the files, without `requirements.txt` and `NOTICE`.
      files: Number of files.
      sha256: SHA-256 of the zip, in hex. Equal for equal source.
    """

    name: str
    path: Path
    code_bytes: int
    files: int
    sha256: str


class SourceError(FileNotFoundError):
    """Error raised when a source file of a bundle is missing. The text has its path."""


@dataclass(frozen=True)
class _Tree:
    """Source of bundles."""

    functions: Path  # folder with a folder of each function
    coordinator: Path
    package: Path
    requirements: Path
    older: bool  # whether it is a checkout that may predate some files


def build(source: Optional[Path] = None, *, out: Path) -> list[Bundle]:
    """Builds all bundles.

    Args:
      source: Root of a checkout, such as an older one; None: this installation or its checkout. A
        checkout without requirements for functions uses those of this installation.
      out: Folder to write to, created if missing. An existing bundle is replaced atomically.

    Returns:
      The bundles, in the order of `KINDS`.

    Raises:
      SourceError: `source` is not a checkout of Muster, or the installation is incomplete.
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
        raise SourceError("The package muster_coordinator is missing: install muster-fl[server]")
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
    for package in _PACKAGES:
        yield from _folder(tree.package / package, f"muster/{package}/")


def _folder(folder: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Yields the files of a folder and its subfolders, without caches and hidden files."""
    if not folder.is_dir():
        raise SourceError(f"The folder {folder} is missing: check that the source is a checkout of Muster")
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
        raise SourceError(f"The file {path} is missing: install muster-fl[server] again") from error


def _write(archive: zipfile.ZipFile, files: Mapping[str, bytes]) -> None:
    with archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix on every system, since it defines the meaning of the mode
            entry.external_attr = _MODE << 16
            # Not compressed, since versions of zlib differ in their output.
            entry.compress_type = zipfile.ZIP_STORED
            archive.writestr(entry, files[name])
