"""Ports for processes that are about to listen on them.

A port that was free a moment ago may be gone before a process has come up and listens: to any connection that anyone on the
machine opens, which the kernel gives a port of its choice.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from typing_extensions import Self

LOOPBACK = "127.0.0.1"
_LOOK = 0.05  # seconds between looks at a port that is taken


class HeldPort:
    """A port that the kernel gives to nobody else before `close`, as a context manager.

    Who asks for the very port and shares addresses (`SO_REUSEADDR`), as servers do, listens on it all the same. That is so on
    Linux: a bound socket that does not listen stands in nobody's way there but the kernel's own choice. Elsewhere it would stand
    in the server's too, and the port was free and nothing more.
    """

    def __init__(self, host: str = LOOPBACK, port: int = 0, *, patience: float = 0.0) -> None:
        """Holds `port`, or a free one if it is 0; waits up to `patience` seconds for those who listen on it to end.

        Raises:
          OSError: somebody listens there, or may not be listened on by us.
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
            pause.wait(_LOOK)
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
        """Holds it no longer. Once more is harmless."""
        self._socket.close()
