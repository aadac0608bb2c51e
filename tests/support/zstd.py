"""Module of zstd: of Python 3.14, or its backport."""

from __future__ import annotations

import sys
from importlib import import_module

zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
