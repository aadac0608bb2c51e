"""Real sockets on the loopback interface, for applications and for doubles of services."""

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
    """Serves until the end of the block; gives the address. Connections are kept alive."""
    server = make_server("127.0.0.1", 0, application, threaded=True)
    server.RequestHandlerClass.protocol_version = "HTTP/1.1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Loopback:
    """A server as a context manager, each request in a thread of its own. `url` is known before it serves."""

    def __init__(self, server: socketserver.ThreadingTCPServer) -> None:
        self._server = server
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
