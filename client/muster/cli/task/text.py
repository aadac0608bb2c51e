"""Text of a task, for commands that show one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.terminal import console, write_json

if TYPE_CHECKING:
    from muster.wire.messages import TaskView


def write_task(view: TaskView, *, as_json: bool) -> None:
    """Writes a task as text or JSON."""
    if as_json:
        write_json(view.to_dict())
    else:
        show_task(view)


def show_task(view: TaskView) -> None:
    """Writes a task, its current round, warnings and its note as text."""
    from muster.cli.round_text import ended_round, lineage_of, open_round, rounds_of, waiting_for, warnings_of
    from muster.wire.messages import Phase

    screen = console()
    spec, policy = view.spec, view.spec.policy
    screen.print(
        f"[bold]{spec.name}[/]: {view.status.value}, {rounds_of(view)}\n"
        f"plan {view.plan_name} ({spec.plan[:12]}), population {spec.population}, goal {policy.goal}, "
        f"minimum {policy.minimum}",
        soft_wrap=True,
    )
    for line in lineage_of(view):
        screen.print(line, markup=False, soft_wrap=True)
    for warning in warnings_of(view):
        screen.print(warning, style="bold red", markup=False, soft_wrap=True)
    if view.current is not None:
        ended = view.current.phase in (Phase.COMMITTED, Phase.ABANDONED)
        screen.print((ended_round if ended else open_round)(view.current), markup=False, soft_wrap=True)
    waiting = waiting_for(view)
    if waiting is not None:
        screen.print(waiting, markup=False, soft_wrap=True)
    if view.note:
        screen.print(view.note, style="yellow", markup=False, soft_wrap=True)
