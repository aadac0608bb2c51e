"""Reverse proxy between client and coordinator that answers scripted requests with web pages."""

from __future__ import annotations

import http.client
import re
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from support.served import Loopback

# Known answers of ingresses, gateways, guest networks and content networks.
STATUSES = (301, 302, 400, 403, 404, 405, 408, 413, 425, 429, 500, 502, 503, 504, 511, 520)
_PAGE = "<html><head><title>{status}</title></head><body><center><h1>nginx</h1></center></body></html>"
_KINDS = (
    ("checkin", r"POST .*:checkin$"),
    ("plan", r"GET /v1/plans/"),
    ("broadcast", r"GET .*/broadcast"),
    ("start", r"POST /v1/updates:start$"),
    ("report", r"POST /v1/updates:report$"),
    ("upload", r"PUT /v1/updates$"),
    ("store", r"PUT "),
)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores broken connections of killed clients."""


class ScriptedProxy(Loopback):
    """Proxy that forwards to `target`, except for the requests whose kind has a status in `script`.

    Attributes:
      script: The actions for the next requests, by kind: a status to answer with a web page, or
        None, which forwards the request.
      seen: Number of received requests, by kind.
      sent: All received bytes, request lines and headers included.
      rewrite: Replacements in the answers, for addresses that should lead to this proxy too.
    """

    def __init__(self, target: str) -> None:
        self.script: defaultdict[str, deque[int | None]] = defaultdict(deque)
        self.seen: Counter[str] = Counter()
        self.sent = bytearray()
        self.rewrite: dict[bytes, bytes] = {}
        self._lock = threading.Lock()
        proxy, target_url = self, urlsplit(target)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                body = self._body()
                status = proxy._next_status(f"{self.command} {self.path.partition('?')[0]}", self, body)
                if status is not None:
                    self._answer(
                        status, {"Content-Type": "text/html", "Location": "http://127.0.0.1:1/login"}, _page(status)
                    )
                    return
                to_store = self.path.startswith("/store/")
                host = proxy.store if to_store and proxy.store else target_url.netloc
                connection = http.client.HTTPConnection(host, timeout=60)
                headers = {key: value for key, value in self.headers.items() if key.lower() not in _HOPS}
                connection.request(
                    self.command, self.path.removeprefix("/store") if to_store else self.path, body, headers
                )
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                for old, new in proxy.rewrite.items():
                    content = content.replace(old, new)
                self._answer(answer.status, dict(answer.getheaders()), content)

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
                self.send_response_only(status)
                for key, value in headers.items():
                    if key.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        for verb in ("GET", "POST", "PUT", "DELETE"):
            setattr(Handler, f"do_{verb}", Handler._serve)
        self.store = ""
        super().__init__(_Server(("127.0.0.1", 0), Handler))

    def plan(self, kind: str, statuses: Iterable[int]) -> None:
        """Answers the next requests of `kind` with `statuses`; forwards one request after each."""
        with self._lock:
            for status in statuses:
                self.script[kind].extend([status, None])

    def put_store(self, address: str) -> None:
        """Routes requests to the store at `address` (`http://host:port`) through this proxy."""
        self.store = urlsplit(address).netloc
        self.rewrite[address.encode()] = f"{self.url}/store".encode()

    def unused(self) -> dict[str, list[int | None]]:
        """Returns the remaining actions of the script."""
        with self._lock:
            return {kind: list(actions) for kind, actions in self.script.items() if any(actions)}

    def _next_status(self, route: str, request: BaseHTTPRequestHandler, body: bytes) -> int | None:
        kind = next((name for name, pattern in _KINDS if re.match(pattern, route)), "other")
        with self._lock:
            self.seen[kind] += 1
            self.sent += f"{request.requestline}\r\n{request.headers}".encode() + body
            actions = self.script[kind]
            return actions.popleft() if actions else None


def _page(status: int) -> bytes:
    return _PAGE.format(status=status).encode()


_HOPS = ("host", "connection")
