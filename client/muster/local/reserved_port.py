"""Reserves a port for a process that can't inherit a listening socket, such as an emulator.

Between the choice of a free port and the start of the process, the kernel may assign the port to an
outgoing connection. `muster.local.listening` has no such gap; prefer it for processes that can
inherit a socket.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Optional

from muster.local.listening import LOOPBACK

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LOOPBACK", "ReservedPort"]

_POLL_SECONDS = 0.05


class ReservedPort:
    """Reserved port, as a context manager. The kernel assigns it to no connection before `close`.

    On Linux, a bound socket that does not listen blocks only the kernel's own choice: a server that
    asks for this port with `SO_REUSEADDR` can listen on it. On other systems it would block the
    server too, so there the port is only known to have been free.
    """

    def __init__(self, host: str = LOOPBACK, port: int = 0, *, patience: float = 0.0) -> None:
        """Reserves a port.

        Args:
          host: The address.
          port: The port; 0: a free one.
          patience: Longest wait for another process to release the port, in seconds.

        Raises:
          OSError: another process listens on the port, or this process may not use it.
        """
        deadline = time.monotonic() + patience
        pause = threading.Event()
        while True:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                if os.name == "posix":
                    self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._socket.bind((host, port))
            except OSError:
                self._socket.close()
                if time.monotonic() >= deadline:
                    raise
            else:
                break
            pause.wait(_POLL_SECONDS)
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the port. Idempotent."""
        self._socket.close()
