"""Fake of Google's APIs that refuses the first request of each kind, as a new project does.

`tests/data/google/errors.json` has the errors in Google's words. A second request of the kind
succeeds, since all of these errors pass, or are fixed, before Terraform is run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from support.google_api import FOLDER

ERRORS: list[dict[str, Any]] = json.loads((FOLDER / "errors.json").read_text())


def body(error: dict[str, Any]) -> dict[str, Any]:
    """Returns an error as Google's APIs send it."""
    details = {"details": error["details"]} if "details" in error else {}
    return {"error": {"code": error["status"], "message": error["message"], "status": error["reason"], **details}}


@contextmanager
def refusing_once() -> Iterator[str]:
    """Runs the fake, and yields its address."""
    waiting = {error["request"]: error for error in ERRORS}

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            error = waiting.pop(f"{self.command} {self.path}", None)
            content = json.dumps(body(error) if error else {}).encode()
            self.send_response(error["status"] if error else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
