"""Runs a command until it ends or stdin closes, then kills all processes that it started.

It is run as a script. Its parent holds the other end of stdin, so that no process outlives the
parent. Uses the standard library only.
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
    """Runs `command` and returns its exit code."""
    os.umask(0o077)  # an emulator stores updates: its files must be readable by their owner only
    # gcloud would make itself the leader of a process group anyway.
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
    # The group may outlive its leader, or be gone already.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
