"""The key of a coordinator on this machine: a file in its folder, made by the first start and read by every other."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
from pathlib import Path

_BYTES = 32
# What the system says where the file system has no hard links, such as exFAT, or the mount allows none.
_NO_LINKS = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})


def secret_of(folder: Path) -> str:
    """The folder's key, in hex; made once, and readable by its owner alone."""
    path = folder / "secret"
    if not path.exists():
        handle, name = tempfile.mkstemp(dir=folder, prefix=".secret-")  # mode 0600
        made = Path(name)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(_BYTES))
            with contextlib.suppress(FileExistsError):  # another start was faster
                _name(made, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                made.unlink()
    return path.read_text().strip()


def _name(made: Path, path: Path) -> None:
    """Gives a whole file its name, unless that is taken (`FileExistsError`): a kill at any moment leaves no half-written key."""
    try:
        os.link(made, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename(made, path)


def _rename(made: Path, path: Path) -> None:
    if os.name != "posix":
        made.rename(path)  # which replaces nothing there
        return
    import fcntl

    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # makes look and rename one step
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        made.rename(path)
    finally:
        os.close(folder)
