"""Creates files and folders that only their owner can read, whatever the umask of the process.

Windows has no modes: there the functions create and open as usual, and the folder's access-control
list applies.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Optional

FOLDER_MODE, FILE_MODE = 0o700, 0o600
_OTHERS = 0o077  # permission bits of the group and of everyone else
_POSIX = os.name == "posix"


@contextlib.contextmanager
def owner_only() -> Iterator[None]:
    """Sets the umask of this process to 077 inside the block.

    Child processes that start there inherit it.
    """
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def make_folder(folder: Path) -> None:
    """Creates `folder` and each missing parent with mode 0700. Leaves an existing one unchanged."""
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(mode=FOLDER_MODE, exist_ok=True)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)  # raises FileExistsError where a file has that name


def open_to_append(file: Path) -> BinaryIO:
    """Opens `file` to append to it, and creates a missing one with mode 0600."""
    return open(file, "ab", opener=_private)


def tighten(folder: Path, *, ours: Collection[str]) -> Optional[str]:
    """Revokes the rights of the group and of others on `folder` and its entries `ours`.

    Args:
      folder: An existing folder.
      ours: Names of entries that Muster creates there. The mode of a folder with other entries is
        unchanged: another program may rely on it.

    Returns:
      A sentence for the operator if others had access to the folder; None if it was private
      already.
    """
    if not _POSIX or not folder.stat().st_mode & _OTHERS:
        return None
    entries = sorted(folder.iterdir())
    foreign = [entry.name for entry in entries if entry.name not in ours]
    try:
        if not foreign:
            _restrict(folder)
        for entry in entries:
            if entry.name in ours:
                _restrict_tree(entry)
    except PermissionError:
        return (
            f"Other accounts may use {folder}, and its mode can't be changed: it belongs to another account. "
            "New files in it are readable by their owner only"
        )
    if foreign:
        return (
            f"Other accounts may use {folder}, which also holds {', '.join(foreign[:3])}, so its mode is unchanged. "
            "Muster's own files in it are readable by their owner only; choose a separate folder for Muster"
        )
    return f"Other accounts could use {folder}. It and the files in it are now readable by their owner only (mode 0700)"


def _restrict_tree(top: Path) -> None:
    _restrict(top)
    for parent, folders, files in os.walk(top):
        for name in (*folders, *files):
            _restrict(Path(parent, name))


def _restrict(path: Path) -> None:
    # A running process may remove a file meanwhile. The target of a link may belong to others.
    with contextlib.suppress(FileNotFoundError):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~_OTHERS & 0o7777)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)
