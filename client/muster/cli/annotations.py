"""Makes options of commands readable for typer on Python 3.9.

There typer does not evaluate annotations that `from __future__ import annotations` leaves as text,
and loses the names, the environment variables and the help of all options.
"""

from __future__ import annotations

import sys

import typer
from typing_extensions import get_annotations


def evaluate(app: typer.Typer) -> typer.Typer:
    """Returns `app` with all annotations of its commands evaluated, on Python 3.9."""
    if sys.version_info >= (3, 10):
        return app
    for info in (*app.registered_commands, app.registered_callback):
        if info is not None and info.callback is not None:
            info.callback.__annotations__ = get_annotations(info.callback, eval_str=True)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            evaluate(group.typer_instance)
    return app
