"""Excludes this machine's own addresses from the proxies that the environment names.

Such a proxy serves the Internet, and can't reach an emulator, an issuer or a queue on this
machine's loopback interface.
"""

from __future__ import annotations

import os

_ADDRESSES = ("127.0.0.1", "localhost", "::1")
_VARIABLES = ("no_proxy", "NO_PROXY")


def exclude_loopback_from_proxies() -> None:
    """Adds the loopback addresses to `no_proxy` and `NO_PROXY` of this process. Idempotent.

    Google's clients, gRPC and urllib read these variables when they connect, and some of them offer
    no other way. Each reads one of the two spellings, so both get the values of either.
    """
    held = [item.strip() for name in _VARIABLES for item in os.environ.get(name, "").split(",")]
    value = ",".join(dict.fromkeys(item for item in (*held, *_ADDRESSES) if item))
    for name in _VARIABLES:
        if os.environ.get(name) != value:
            os.environ[name] = value
