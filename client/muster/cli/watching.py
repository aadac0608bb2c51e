"""Follows a task round by round: as a live view, as lines of text, or as lines of JSON."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Callable, Optional

import typer

from muster.cli.round_text import (
    attempt,
    ended_round,
    line_of,
    open_round,
    progress,
    rounds_of,
    short_names,
    troubles,
    waiting_for,
    warnings_of,
)
from muster.terminal import console, size, write_json
from muster.wire.messages import RoundView, TaskStatus, TaskView

if TYPE_CHECKING:
    from muster.operator import Operator

_MAX_ROUNDS = 8  # in the live view
_DEFAULT_PACE = 1.0  # seconds between polls of a coordinator that advises none
_METRIC_WIDTH = 11  # columns of a metric in the live view, its gap included
_FIXED_WIDTH = 42  # columns of the live view's table without metrics
_DONE = (TaskStatus.COMPLETED, TaskStatus.CANCELLED)


def follow_json(operator: Operator, name: str, *, every: Optional[float]) -> TaskView:
    """Writes a line of JSON for each ended attempt. Returns the task once it has ended."""
    return _follow(
        operator, name, every=every, on_ended=lambda view: write_json(view.to_dict()), on_poll=lambda _: None
    )


def follow_lines(operator: Operator, name: str, *, every: Optional[float]) -> TaskView:
    """Writes a line for each ended attempt and change of the task. Returns the ended task."""
    last: list[str] = []

    def on_poll(view: TaskView) -> None:
        current = [line for line in (progress(view), view.note, waiting_for(view)) if line]
        # The number of rounds is left out, since each round has its own line.
        status = [f"{view.spec.name}: {view.status.value}", *current[1:]]
        if status != last:
            for line in [] if last else warnings_of(view):
                _write(line)
            for line in current if view.status in _DONE or not last else status:
                _write(line)
            last[:] = status

    return _follow(operator, name, every=every, on_ended=lambda view: _write(ended_round(view)), on_poll=on_poll)


def follow_live(operator: Operator, name: str, *, every: Optional[float]) -> TaskView:
    """Shows progress and the last rounds, updated in place. Returns the ended task."""
    from rich.live import Live

    rounds: deque[RoundView] = deque(maxlen=_MAX_ROUNDS)
    screen = console()
    with Live(console=screen, auto_refresh=False) as live:
        return _follow(
            operator,
            name,
            every=every,
            on_ended=rounds.append,
            on_poll=lambda view: live.update(task_picture(view, rounds, width=screen.width), refresh=True),
        )


def _write(line: str) -> None:
    typer.echo(line)


def _follow(
    operator: Operator,
    name: str,
    *,
    every: Optional[float],
    on_ended: Callable[[RoundView], None],
    on_poll: Callable[[TaskView], None],
) -> TaskView:
    from muster.operator import EndedRounds

    ended_rounds, pause = EndedRounds(operator, name), threading.Event()
    followed = None
    while True:
        # The task is read before its rounds, so that none is missed when the task has ended.
        followed = operator.follow_task(name, followed)
        view = followed.answer
        for round_view in ended_rounds.poll():
            on_ended(round_view)
        on_poll(view)
        if view.status in _DONE:
            return view
        pause.wait(every or followed.retry_after or _DEFAULT_PACE)


def task_picture(view: TaskView, rounds: deque[RoundView], *, width: int) -> Any:
    """Returns the live view of a task: progress, open round, last rounds and failures."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    policy, current = view.spec.policy, view.current
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(view.spec.name, style="bold"),
        ProgressBar(total=max(policy.rounds, line_of(view)), completed=line_of(view), width=20),
        Text(f"{rounds_of(view)}, {view.status.value}"),
    )
    parts: list[Any] = [head]
    parts += [Text(warning, style="bold red") for warning in warnings_of(view)]
    if current is not None and view.status not in _DONE:
        parts.append(Text(open_round(current)))
    waiting = waiting_for(view)
    if waiting is not None:
        parts.append(Text(waiting, style="dim"))
    if rounds:
        parts.append(_rounds_table(rounds, width=width))
        parts += [
            Text(f"{attempt(ended)}: {'; '.join([ended.reason] * bool(ended.reason) + troubles(ended))}", style="dim")
            for ended in rounds
            if ended.reason or troubles(ended)
        ]
    if view.note:
        parts.append(Text(view.note, style="yellow"))
    return Group(*parts)


def _rounds_table(rounds: deque[RoundView], *, width: int) -> Any:
    """Returns the table of the last rounds, with the metrics that fit into `width` columns."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    max_metrics = max(0, (width - _FIXED_WIDTH) // _METRIC_WIDTH)
    names = dict(list(short_names({path: 0.0 for view in rounds for path in view.metrics}).items())[:max_metrics])
    table.add_column("round", justify="right", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    for column in ("updates", "failed", "up"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in names.values():
        table.add_column(name, justify="right", no_wrap=True, overflow="ellipsis", max_width=_METRIC_WIDTH - 2)
    for view in rounds:
        metrics = [f"{view.metrics[path]:.4g}" if path in view.metrics else "–" for path in names]
        failed = str(sum(view.failed.values()) + sum(view.dropped.values()))
        outcome = view.phase.value.lower()
        table.add_row(str(view.round), outcome, str(view.folded), failed, size(view.update_bytes), *metrics)
    return table
