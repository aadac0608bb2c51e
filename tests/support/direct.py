"""Sends requests to servers on this machine, bypassing any proxy of the environment.

The environment itself is unchanged: processes that the tests start must handle the proxy
themselves.
"""

from __future__ import annotations

from typing import Any

import requests


def session() -> requests.Session:
    """Returns a session that ignores the environment."""
    session_ = requests.Session()
    session_.trust_env = False
    return session_


def request(method: str, url: str, **options: Any) -> requests.Response:
    """Sends one request; see `requests.request`."""
    with session() as session_:
        return session_.request(method, url, **options)


def get(url: str, **options: Any) -> requests.Response:
    """Sends a GET request."""
    return request("GET", url, **options)


def post(url: str, **options: Any) -> requests.Response:
    """Sends a POST request."""
    return request("POST", url, **options)


def put(url: str, **options: Any) -> requests.Response:
    """Sends a PUT request."""
    return request("PUT", url, **options)
