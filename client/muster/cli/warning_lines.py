"""Shows Muster's own warnings as lines on stderr, without their source location."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Shows warnings of Muster's classes as `Warning: …`, and all others as before."""
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if category.__module__.startswith("muster."):
                sys.stderr.write(f"Warning: {message}\n")
            else:
                before(message, category, *place, **more)

        warnings.showwarning = show
        yield
