"""Serves applications and test doubles on the loopback interface."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from werkzeug.serving import make_server

if TYPE_CHECKING:
    from typing import Self


@contextmanager
def served(application: Callable[..., Any]) -> Iterator[str]:
    """Serves a WSGI application inside the block, with persistent connections.

    Yields its address.
    """
    server = make_server("127.0.0.1", 0, application, threaded=True)
    handler: Any = server.RequestHandlerClass
    handler.protocol_version = "HTTP/1.1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Loopback:
    """Server that runs inside its `with` block, with one thread per request.

    `url` is set before it serves.
    """

    def __init__(self, server: socketserver.TCPServer) -> None:
        """Wraps a server with `socketserver.ThreadingMixIn`."""
        assert isinstance(server, socketserver.ThreadingMixIn)
        server.daemon_threads = True
        self._server = server
        self.url = f"http://127.0.0.1:{server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
