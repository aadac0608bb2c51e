"""`muster task run`: requests rounds of a driven task."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from muster.cli.failures import FAILED
from muster.cli.options import DEFAULT_URL, Token, Url
from muster.cli.options import Json as JsonOption
from muster.cli.task.arguments import LeavesOption, Name, state_ref_of, version_of
from muster.terminal import console, write_json

if TYPE_CHECKING:
    from muster.operator import Operator
    from muster.wire.messages import RunView, StateRef

_POLL = 1.0  # seconds


def run(
    name: Name,
    *,
    request: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Idempotency key of the run: a repeat with the same key returns the same run. Another key on the same "
            "base makes another run.",
        ),
    ],
    base: Annotated[
        Optional[str],
        typer.Option(
            metavar="STATE",
            help="State to start from: a version or tag of the task, a checkpoint such as `digits@12`, or the SHA-256 "
            "of a stored state.",
            show_default="the newest checkpoint",
        ),
    ] = None,
    leaves: LeavesOption = None,
    goal: Annotated[
        Optional[int], typer.Option(min=1, help="Updates that close each round.", show_default="the task's goal")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")] = 1,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the rounds are committed.")] = True,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Run rounds of a driven task. Exits with 1 if the run was cancelled."""
    from muster.operator import Operator
    from muster.wire.messages import RunStatus

    with Operator(url, token=token) as operator:
        view = operator.run(name, request=request, base=_base(operator, name, base, leaves), goal=goal, rounds=rounds)
        pause = threading.Event()
        with console().status(f"Run {request} of task {name} …"):
            while wait and view.status is RunStatus.RUNNING:
                pause.wait(_POLL)
                view = operator.run_status(name, request)
    _write(view, as_json=as_json)
    if view.status is RunStatus.CANCELLED:
        raise typer.Exit(FAILED)


def _base(operator: Operator, name: str, text: Optional[str], leaves: Optional[list[str]]) -> Optional[StateRef]:
    from muster.wire.messages import StateRef

    if text is None or "@" in text or len(text) == 64:  # noqa: PLR2004  hex digits of a SHA-256
        return state_ref_of(operator, text, leaves)
    return StateRef.from_dict({"version": version_of(operator, name, text), "leaves": tuple(leaves or ())})


def _write(view: RunView, *, as_json: bool) -> None:
    from muster.cli.round_text import ended_round, open_round
    from muster.wire.messages import Phase

    if as_json:
        write_json(view.to_dict())
        return
    last = view.first_round + view.rounds - 1
    numbers = f"round {view.first_round}" if view.rounds == 1 else f"rounds {view.first_round} to {last}"
    console().print(f"Run {view.request}: {view.status.value}, {numbers}", markup=False, soft_wrap=True)
    if view.round is not None:
        ended = view.round.phase in (Phase.COMMITTED, Phase.ABANDONED)
        console().print((ended_round if ended else open_round)(view.round), markup=False, soft_wrap=True)
