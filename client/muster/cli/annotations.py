"""Commands whose options typer can read on Python 3.9.

There, typer does not evaluate the annotations that `from __future__ import annotations` leaves as text, and would lose the names, the
environment variables and the help of all options. Newer Pythons need nothing of this.
"""

from __future__ import annotations

import sys

import typer
from typing_extensions import get_annotations


def evaluate(app: typer.Typer) -> typer.Typer:
    """Evaluates the annotations of all commands of `app` and of its groups, where typer does not; returns `app`."""
    if sys.version_info >= (3, 10):
        return app
    for info in (*app.registered_commands, app.registered_callback):
        if info is not None and info.callback is not None:
            info.callback.__annotations__ = get_annotations(info.callback, eval_str=True)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            evaluate(group.typer_instance)
    return app
