"""`muster audit`: who changed what."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .options import DEFAULT_URL, Token, Url, console, write_json
from .options import Json as JsonOption

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.wire.messages import AuditEntry


def audit(
    *,
    since: Annotated[
        Optional[datetime], typer.Option(help="Nothing older, local time.", show_default="the beginning")
    ] = None,
    subject: Annotated[Optional[str], typer.Option(help="Only what concerns this task, or plan.")] = None,
    who: Annotated[Optional[str], typer.Option(help="Only what this operator did.")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Show the audit log: who changed what, when, from what to what. With --json: a line for each entry."""
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        entries = (
            entry
            for entry in operator.audit(since=None if since is None else since.astimezone())
            if subject in (None, entry.subject) and who in (None, entry.who)
        )
        if as_json:
            for entry in entries:
                write_json(entry.to_dict())
        else:
            _show(entries)


def _show(entries: Iterable[AuditEntry]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("when", no_wrap=True)
    for column in ("who", "action", "subject", "result", "change"):
        table.add_column(column, overflow="fold")
    for entry in entries:
        # A plan's address is long, and the audit's reader knows it by its beginning.
        subject = entry.subject[:12] if entry.action.startswith("plan.") else entry.subject
        result = entry.result + (f": {entry.problem}" if entry.problem else "")
        cells = (entry.who, entry.action, subject, result, _change(entry.before, entry.after))
        table.add_row(f"{entry.at.astimezone():%Y-%m-%d %H:%M:%S}", *map(escape, cells))
    if table.row_count:
        console().print(table)
    else:
        typer.echo("There are no entries.")


def _change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What is not as it was before: `status: active → paused`."""
    found = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old != new and after:
            found.append(f"{name}: {_text(new)}" if old is None else f"{name}: {_text(old)} → {_text(new)}")
    return ", ".join(found)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 20 else f"{text[:12]}…"  # noqa: PLR2004
