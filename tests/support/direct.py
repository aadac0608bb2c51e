"""Sends requests of the tests to servers on this machine, bypassing any proxy that the environment names.

The environment itself is unchanged: processes that the tests start must handle the proxy themselves.
"""

from __future__ import annotations

from typing import Any

import requests


def session() -> requests.Session:
    """Returns a session that ignores the environment."""
    made = requests.Session()
    made.trust_env = False
    return made


def request(method: str, url: str, **more: Any) -> requests.Response:
    """Sends one request; see `requests.request`."""
    with session() as once:
        return once.request(method, url, **more)


def get(url: str, **more: Any) -> requests.Response:
    """Sends a GET request."""
    return request("GET", url, **more)


def post(url: str, **more: Any) -> requests.Response:
    """Sends a POST request."""
    return request("POST", url, **more)


def put(url: str, **more: Any) -> requests.Response:
    """Sends a PUT request."""
    return request("PUT", url, **more)
