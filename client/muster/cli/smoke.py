"""`muster smoke`: whether a deployment works, and where not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.failures import FAILED, UNREACHABLE
from muster.cli.options import DEFAULT_URL, EnrolmentKey, OperatorUrl, PlanKey, Token, Url, enrolment_key_of
from muster.cli.options import Json as JsonOption
from muster.terminal import console, quiet_tensorflow, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from muster.smoke import Step


def smoke(
    *,
    url: Url = DEFAULT_URL,
    operator_url: OperatorUrl = None,
    token: Token = None,
    key: PlanKey = None,
    enrolment_key: EnrolmentKey = None,
    patience: Annotated[float, typer.Option(help="Longest wait of one step, in seconds.", min=1)] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Run one real round with two clients through a deployment, and say what works; exit 1 where something does not.

    Makes a task in a population of its own, which is over when this ends, by Ctrl-C too. Needs TensorFlow here.
    """
    quiet_tensorflow(threads=1)
    import dataclasses

    import muster.smoke
    from muster.wire.signatures import SigningKey

    enrols = enrolment_key_of(enrolment_key)
    signs = None if key is None else SigningKey.load(key)
    if as_json:
        outcome = muster.smoke.run(
            url,
            operator_url=operator_url,
            token=token,
            signing_key=signs,
            enrolment_key=enrols,
            patience=patience,
            on_step=lambda step: write_json(dataclasses.asdict(step)),
        )
        write_json({"task": outcome.task, "passed": outcome.passed})
    else:
        screen = console()
        with screen.status("Starting") as status:

            def waiting(name: str, standing: str) -> None:
                status.update(f"{name}: {standing}" if standing else name)
                if standing and not screen.is_terminal:
                    screen.print(f"        … {standing}", soft_wrap=True, markup=False)

            outcome = muster.smoke.run(
                url,
                operator_url=operator_url,
                token=token,
                signing_key=signs,
                enrolment_key=enrols,
                patience=patience,
                on_step=lambda step: show(screen, step),
                on_wait=waiting,
            )
        took = sum(step.seconds for step in outcome.steps)
        if outcome.passed:
            screen.print(
                f"[bold green]All of it works[/], in {took:.1f} s. Task {outcome.task} is over.", soft_wrap=True
            )
        else:
            failed = next(step for step in outcome.steps if not step.passed)
            screen.print(f"[bold red]It does not work[/]: {failed.name}. Task {outcome.task}.", soft_wrap=True)
    if not outcome.passed:
        raise typer.Exit(UNREACHABLE if outcome.unreachable else FAILED)


def show(screen: Console, step: Step) -> None:
    """One line of the checklist and, where it failed, the reason and what to look at."""
    from rich.markup import escape

    detail = f" ({escape(step.detail)})" if step.passed and step.detail else ""
    mark = "[green]ok[/]    " if step.passed else "[bold red]FAILED[/]"
    screen.print(f"{mark}  {step.seconds:6.2f} s  {escape(step.name)}{detail}", soft_wrap=True)
    if not step.passed:
        screen.print(f"        {escape(step.detail)}", soft_wrap=True)
        for line in step.look_at:
            screen.print(f"        - look at {escape(line)}", soft_wrap=True)
