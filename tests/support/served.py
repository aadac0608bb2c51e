"""A WSGI application behind a real socket."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from werkzeug.serving import make_server


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
