"""Secret of a local coordinator: a file in its folder, created at the first start."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
from pathlib import Path

_BYTES = 32
# Errors of file systems and mounts without hard links, such as exFAT.
_NO_LINKS = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})


def secret_of(folder: Path) -> str:
    """Returns the folder's secret, in hex. Creates it if missing, readable by its owner only."""
    path = folder / "secret"
    if not path.exists():
        handle, name = tempfile.mkstemp(dir=folder, prefix=".secret-")  # mode 0600
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(_BYTES))
            with contextlib.suppress(FileExistsError):  # another process has created it meanwhile
                _publish(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    return path.read_text().strip()


def _publish(temporary: Path, path: Path) -> None:
    """Renames a complete file, so that a kill at any moment leaves no half-written secret.

    Raises:
      FileExistsError: `path` exists.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _rename(temporary, path)


def _rename(temporary: Path, path: Path) -> None:
    if os.name != "posix":
        temporary.rename(path)  # fails on Windows if `path` exists
        return
    import fcntl

    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # makes check and rename atomic among Muster's processes
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        temporary.rename(path)
    finally:
        os.close(folder)
