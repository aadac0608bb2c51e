"""`muster audit`: shows the audit log."""

from __future__ import annotations

import json
import sys
import textwrap
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from muster.cli.options import DEFAULT_URL, Token, Url
from muster.cli.options import Json as JsonOption
from muster.terminal import console, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from muster.wire.messages import AuditEntry


def audit(
    *,
    since: Annotated[
        Optional[datetime], typer.Option(help="Start of the period, in local time.", show_default="the first entry")
    ] = None,
    subject: Annotated[Optional[str], typer.Option(help="Task or plan to show.", show_default="all")] = None,
    who: Annotated[Optional[str], typer.Option(help="Operator to show.", show_default="all")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Show the audit log: each change with its operator, time and result.

    With --json each entry is one line.
    """
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


_COLUMNS = ("when", "who", "action", "subject", "result", "change")
_MIN_TABLE_WIDTH = 110  # columns; on a narrower terminal an entry has two lines


def _show(entries: Iterable[AuditEntry]) -> None:
    """Writes the entries as they arrive, as a table or, on a narrow terminal, in two lines each."""
    narrow = sys.stdout.isatty() and console().width < _MIN_TABLE_WIDTH
    row = "{:19}  {:12}  {:18}  {:16}  {:10}  {}"
    count = 0
    for entry in entries:
        if not count and not narrow:
            typer.echo(row.format(*_COLUMNS))
        count += 1
        cells = _cells(entry)
        if narrow:
            typer.echo("  ".join(cells[:-1]))
            for line in textwrap.wrap(cells[-1], console().width - 4):
                typer.echo(f"    {line}")
        else:
            typer.echo(row.format(*cells).rstrip())
    if not count:
        typer.echo("There are no entries.")


def _cells(entry: AuditEntry) -> tuple[str, ...]:
    # The first digits of a plan's address are enough to recognize it.
    subject = entry.subject[:12] if entry.action.startswith("plan.") else entry.subject
    result = entry.result + (f": {entry.problem}" if entry.problem else "")
    when = f"{entry.at.astimezone():%Y-%m-%d %H:%M:%S}"
    cells = (when, entry.who, entry.action, subject, result, _change(entry.before, entry.after))
    return tuple(map(_printable, cells))


def _printable(text: str) -> str:
    """Escapes control characters, which could move the cursor of a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _change(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Returns the fields that changed as text: `status: active → paused`."""
    changes = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old != new and after:
            changes.append(f"{name}: {_text(new)}" if old is None else f"{name}: {_text(old)} → {_text(new)}")
    return ", ".join(changes)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 20 else f"{text[:12]}…"  # noqa: PLR2004
