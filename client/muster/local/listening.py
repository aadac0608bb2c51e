"""Listening sockets that `muster up` opens once and hands down to its processes.

The supervisor keeps each socket open while it restarts the process behind it: a request that
arrives meanwhile waits in the socket's backlog and is not refused.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time

LOOPBACK = "127.0.0.1"
_BACKLOG = 2048  # connections; gunicorn's own default
_POLL_SECONDS = 0.05
_LOG = logging.getLogger(__name__)


def listen(host: str = LOOPBACK, port: int = 0, *, wait_seconds: float = 0.0) -> socket.socket:
    """Returns a socket that listens on an IPv4 address.

    Args:
      host: The address; empty: all interfaces.
      port: The port; 0: a free one.
      wait_seconds: Longest wait for another process to release the port.

    Raises:
      OSError: the port is taken, or the address can't be used.
    """
    deadline = time.monotonic() + wait_seconds
    pause, warned = threading.Event(), False
    while True:
        try:
            return _listen_now(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                raise
        if not warned:
            _LOG.warning("%s:%d is taken; waiting up to %.0f s for it to be free", host, port, wait_seconds)
            warned = True
        pause.wait(_POLL_SECONDS)


def port_of(listener: socket.socket) -> int:
    """Returns the port on which a socket listens."""
    port: int = listener.getsockname()[1]
    return port


def _listen_now(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows, this option would share the port with another server
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
