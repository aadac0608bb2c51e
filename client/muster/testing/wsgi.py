"""Calls a WSGI application in this process: as a function, or as an adapter of `requests`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Callable, Optional, Union
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPResponse

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class WsgiResponse:
    """Response of a WSGI application.

    Attributes:
      status: The status line, such as `200 OK`.
      headers: Names and values, in order.
      body: The whole body.
    """

    status: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def code(self) -> int:
        """The status as a number."""
        return int(self.status[:3])


def call(app: Wsgi, method: str, url: str, *, headers: Mapping[str, str], body: bytes = b"") -> WsgiResponse:
    """Calls a WSGI application (PEP 3333). Errors of the application pass through.

    Args:
      app: The application.
      method: The HTTP method.
      url: An absolute URL.
      headers: The request's headers. `Content-Length` is replaced by the length of `body`.
      body: The request's body.
    """
    from werkzeug.test import EnvironBuilder, run_wsgi_app

    parts = urlsplit(url)
    environ = EnvironBuilder(
        method=method,
        base_url=f"{parts.scheme}://{parts.netloc}/",
        path=parts.path,
        query_string=parts.query,
        headers=[(name, value) for name, value in headers.items() if name.lower() != "content-length"],
        data=body,
        content_length=len(body),
    ).get_environ()
    chunks, status, answered = run_wsgi_app(app, environ, buffered=True)
    return WsgiResponse(status, answered.to_wsgi_list(), b"".join(chunks))


class InProcessAdapter(BaseAdapter):
    """`requests` adapter that sends every request to a WSGI application.

    Requests and responses are held in memory. Time-outs, proxies and certificates are ignored.

    Args:
      app: A WSGI application.
    """

    def __init__(self, app: Wsgi) -> None:
        super().__init__()
        self._app = app

    def send(  # noqa: PLR0917  the base class has these positional parameters
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Union[float, tuple[float, float], tuple[float, None], None] = None,
        verify: Union[bool, str] = True,
        cert: Union[bytes, str, tuple[Union[bytes, str], Union[bytes, str]], None] = None,
        proxies: Optional[Mapping[str, str]] = None,
    ) -> requests.Response:
        """Calls the application; see `BaseAdapter.send`. Its errors pass through."""
        del stream, timeout, verify, cert, proxies
        answer = call(
            self._app,
            request.method or "GET",
            request.url or "",
            headers=request.headers,
            body=_bytes_of(request.body),
        )
        response = requests.Response()
        response.request = request
        response.url = request.url or ""
        response.status_code = answer.code
        response.reason = answer.status.partition(" ")[2]
        response.headers = CaseInsensitiveDict(answer.headers)
        response.raw = HTTPResponse(
            body=BytesIO(answer.body), headers=dict(answer.headers), status=answer.code, preload_content=False
        )
        return response

    def close(self) -> None:
        """Does nothing: the adapter holds no connections."""


def _bytes_of(body: Any) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    return bytes(body) if isinstance(body, (bytes, bytearray, memoryview)) else b"".join(body)
