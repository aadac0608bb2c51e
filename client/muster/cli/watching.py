"""Follows a task round by round: as a live view for people, as lines of JSON for scripts."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Optional

from muster.wire.messages import Phase, RoundView, TaskStatus, TaskView

from .options import console, size, updates_of, write_json

if TYPE_CHECKING:
    from muster.operator import Operator

_SHOWN = 8  # rounds
_METRICS = 4  # of a round
_DONE = (TaskStatus.COMPLETED, TaskStatus.CANCELLED)
_ENDED = (Phase.COMMITTED, Phase.ABANDONED)


@dataclass
class Follower:
    """Reads what is new of a task's rounds; each ended attempt is handed out once, in order."""

    operator: Operator
    name: str
    after: Optional[str] = None
    seen: set[tuple[int, int]] = field(default_factory=set)

    def ended(self) -> list[RoundView]:
        """The attempts that ended since the last call."""
        found: list[RoundView] = []
        while True:
            page = self.operator.rounds_page(self.name, after=self.after)
            found.extend(
                view for view in page.rounds if view.phase in _ENDED and (view.round, view.epoch) not in self.seen
            )
            # A full page whose rounds have all ended is not read again.
            if page.next is None or any(view.phase not in _ENDED for view in page.rounds):
                break
            self.after = page.next
        self.seen.update((view.round, view.epoch) for view in found)
        return found


def follow_json(operator: Operator, name: str, *, every: float) -> TaskView:
    """Writes a line for each attempt of a round that ends. Returns the task when it is done."""
    return _follow(operator, name, every=every, ended=lambda view: write_json(view.to_dict()), look=lambda _: None)


def follow_live(operator: Operator, name: str, *, every: float) -> TaskView:
    """Shows progress and the last rounds. Returns the task when it is done."""
    from rich.live import Live

    rounds: deque[RoundView] = deque(maxlen=_SHOWN)
    with Live(console=console(), auto_refresh=False) as live:
        return _follow(
            operator,
            name,
            every=every,
            ended=rounds.append,
            look=lambda view: live.update(_picture(view, rounds), refresh=True),
        )


def _follow(
    operator: Operator, name: str, *, every: float, ended: Callable[[RoundView], None], look: Callable[[TaskView], None]
) -> TaskView:
    follower, pause = Follower(operator, name), threading.Event()
    while True:
        # The task before its rounds: when it is done, so are they, and none of them is missed.
        view = operator.task(name)
        for each in follower.ended():
            ended(each)
        look(view)
        if view.status in _DONE:
            return view
        pause.wait(every)


def _picture(view: TaskView, rounds: deque[RoundView]) -> Any:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    policy, current = view.spec.policy, view.current
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(view.spec.name, style="bold"),
        ProgressBar(total=policy.rounds, completed=view.checkpoint, width=30),
        Text(f"{view.checkpoint}/{policy.rounds} rounds, {view.status.value}"),
    )
    parts: list[Any] = [head]
    if policy.minimum == 1:
        parts.append(Text("MINIMUM 1: a round's result may be the update of a single client.", style="bold red"))
    if view.sums_in_the_clear:
        parts.append(Text("SUMS IN THE CLEAR: what the plan wants summed securely is not.", style="bold red"))
    if current is not None and view.status not in _DONE:
        parts.append(
            Text(
                f"round {current.round}: {current.phase.value}, {updates_of(current)}, "
                f"{current.assigned} of {current.cap} assigned"
            )
        )
    if rounds:
        parts.append(_rounds_table(rounds))
    if view.note:
        parts.append(Text(view.note, style="yellow"))
    return Group(*parts)


def _rounds_table(rounds: deque[RoundView]) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    names = list(dict.fromkeys(name for view in rounds for name in view.metrics))[:_METRICS]
    table.add_column("round", justify="right", no_wrap=True)
    table.add_column("outcome", overflow="fold", min_width=len("committed"))
    for column in ("updates", "failed", "up"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in names:
        table.add_column(name.rpartition("/")[2], justify="right", overflow="fold", min_width=7)
    for view in rounds:
        metrics = [f"{view.metrics[name]:.4g}" if name in view.metrics else "" for name in names]
        outcome = view.phase.value.lower() + (f": {view.reason}" if view.reason else "")
        failed = str(sum(view.failed.values()) + sum(view.dropped.values()))
        table.add_row(str(view.round), outcome, str(view.folded), failed, size(view.update_bytes), *metrics)
    return table
