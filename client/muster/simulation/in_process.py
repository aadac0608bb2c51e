"""`requests` without a network: a transport adapter that calls a WSGI application in this process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any, Callable, Optional, Union
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPResponse
from werkzeug.test import EnvironBuilder, run_wsgi_app

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


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
        body = _bytes_of(request.body)
        url = urlsplit(request.url or "")
        headers = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}
        environ = EnvironBuilder(
            path=url.path,
            query_string=url.query,
            base_url=f"{url.scheme}://{url.netloc}",
            method=request.method or "GET",
            headers=list(headers.items()),
            input_stream=BytesIO(body),
            content_length=len(body),
        ).get_environ()
        content, status, answered = run_wsgi_app(self._app, environ, buffered=True)
        data = b"".join(content)
        code, _, reason = status.partition(" ")
        response = requests.Response()
        response.request = request
        response.url = request.url or ""
        response.status_code = int(code)
        response.reason = reason
        response.headers = CaseInsensitiveDict(answered.items())
        response.raw = HTTPResponse(
            body=BytesIO(data), headers=dict(answered.items()), status=int(code), preload_content=False
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
