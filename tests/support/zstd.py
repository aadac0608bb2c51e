"""Module of zstd: of Python 3.14, or its backport."""

from __future__ import annotations

try:
    from compression import zstd
except ImportError:
    from backports import zstd

__all__ = ["zstd"]
