"""Reads a client's token from a file at each check-in, and warns if the file is exposed."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Callable, Optional

from muster.cli.failures import LoadingError


def token_reader(path: Path) -> Callable[[], str]:
    """Returns a function that reads the token. Reads it once, so that a wrong path fails early.

    Raises:
      LoadingError: the file contains no token.
      OSError: the file can't be read.
    """

    def read() -> str:
        return checked_token(path.read_text(errors="replace"), where=str(path))

    read()
    warning = exposure_of(path)
    if warning is not None:
        sys.stderr.write(f"Warning: {warning}\n")
    return read


def checked_token(text: str, *, where: str) -> str:
    """Returns a token without surrounding whitespace.

    Args:
      text: The token as given.
      where: Its source, for the error.

    Raises:
      LoadingError: the token can't be sent in a header.
    """
    line = text.strip()
    if len(line.split()) != 1 or not line.isprintable() or not line.isascii():
        raise LoadingError(f"{where} contains no token: it should be one line of ASCII without spaces")
    return line


def exposure_of(path: Path) -> Optional[str]:
    """Returns a warning if other users can read or replace a token's file, else None.

    Returns None on systems without file modes.
    """
    if not hasattr(os, "geteuid"):
        return None
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return f"{path} contains a token and belongs to another user, who can read and replace it; create your own file"
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.filemode(status.st_mode)
        return f"{path} contains a token and is open to other users of this machine ({mode}); run `chmod 600 {path}`"
    return None
