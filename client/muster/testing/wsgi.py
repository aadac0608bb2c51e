"""A WSGI application called in this process: as a function, or behind `requests`, without a network."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Callable, Optional, Union
from urllib.parse import unquote_to_bytes, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPResponse

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True)
class Called:
    """What an application answered. `status`: as WSGI has it, such as `200 OK`."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def code(self) -> int:
        """The status as a number."""
        return int(self.status[:3])


def call(app: Wsgi, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"") -> Called:
    """Calls a WSGI application (PEP 3333). What it raises passes through.

    Args:
      app: The application.
      method: The HTTP method.
      url: An absolute address.
      headers: The request's; the length is that of `body`, whatever they say.
      body: The request's.
    """
    place = urlsplit(url)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(place.path).decode("latin-1"),
        "QUERY_STRING": place.query,
        "SERVER_NAME": place.hostname or "",
        "SERVER_PORT": str(place.port or _PORTS.get(place.scheme, "80")),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": place.netloc,
        "wsgi.url_scheme": place.scheme,
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.version": (1, 0),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    environ.pop("HTTP_CONTENT_LENGTH", None)
    environ["CONTENT_LENGTH"] = str(len(body))
    answered: list[Any] = ["", []]

    def start(status: str, given: list[tuple[str, str]], _error: Any = None) -> None:
        answered[:] = status, given

    chunks = app(environ, start)
    try:
        data = b"".join(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    return Called(answered[0], answered[1], data)


class InProcessAdapter(BaseAdapter):
    """Answers every request by `app`. Bodies are held in memory, both ways. Time-outs, proxies and certificates mean nothing here.

    Args:
      app: A WSGI application.
    """

    def __init__(self, app: Wsgi) -> None:
        super().__init__()
        self._app = app

    def send(  # noqa: PLR0917  the base class has it so
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Union[float, tuple[float, float], tuple[float, None], None] = None,
        verify: Union[bool, str] = True,
        cert: Union[bytes, str, tuple[Union[bytes, str], Union[bytes, str]], None] = None,
        proxies: Optional[Mapping[str, str]] = None,
    ) -> requests.Response:
        """Calls the application; see `requests.adapters.BaseAdapter.send`. What it raises passes through."""
        del stream, timeout, verify, cert, proxies
        called = call(
            self._app,
            request.method or "GET",
            request.url or "",
            headers=request.headers,
            body=_bytes_of(request.body),
        )
        response = requests.Response()
        response.request = request
        response.url = request.url or ""
        response.status_code = called.code
        response.reason = called.status.partition(" ")[2]
        response.headers = CaseInsensitiveDict(called.headers)
        response.raw = HTTPResponse(
            body=BytesIO(called.body), headers=dict(called.headers), status=called.code, preload_content=False
        )
        return response

    def close(self) -> None:
        """Has nothing to close."""


def _bytes_of(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    return bytes(body) if isinstance(body, (bytes, bytearray, memoryview)) else b"".join(body)
