"""Runs a command until it ends or our standard input does, then kills all that it started.

Run as a script, by whoever holds the other end of the pipe: so nothing outlives that process, however it ends. Needs nothing but
the standard library.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

_POSIX = os.name == "posix"


def guard(command: Sequence[str]) -> int:
    """Runs `command`; returns its exit code, or that of its being killed."""
    os.umask(0o077)  # an emulator stores updates too: its files must be readable by their owner only
    # gcloud makes itself the leader of a process group, wherever it is started: so it is one from the start.
    child = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, start_new_session=_POSIX)  # noqa: S603

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        _end(child)

    threading.Thread(target=end_with_parent, daemon=True).start()
    code = child.wait()
    _end(child)
    return code


def _end(child: subprocess.Popen[bytes]) -> None:
    if not _POSIX:
        child.kill()
        return
    # The group may outlive its leader, and may be gone with it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
