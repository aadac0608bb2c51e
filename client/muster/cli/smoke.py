"""`muster smoke`: checks a deployment with one real round."""

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
    patience: Annotated[float, typer.Option(help="Most seconds to wait in one step.", min=1)] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Check a deployment with one real round of two clients. Exits with 1 if a step fails.

    Creates a task in a separate population, and cancels it at the end and on Ctrl-C. Needs
    TensorFlow on this machine.
    """
    quiet_tensorflow(threads=1)
    import dataclasses

    import muster.smoke
    from muster.wire.signatures import SigningKey

    client_key = enrolment_key_of(enrolment_key)
    signing_key = None if key is None else SigningKey.load(key)
    if as_json:
        outcome = muster.smoke.run(
            url,
            operator_url=operator_url,
            token=token,
            signing_key=signing_key,
            enrolment_key=client_key,
            patience=patience,
            on_step=lambda step: write_json(dataclasses.asdict(step)),
        )
        write_json({"task": outcome.task, "passed": outcome.passed})
    else:
        screen = console()
        with screen.status("Starting") as status:

            def show_wait(name: str, state: str) -> None:
                status.update(f"{name}: {state}" if state else name)
                if state and not screen.is_terminal:
                    screen.print(f"        … {state}", soft_wrap=True, markup=False)

            outcome = muster.smoke.run(
                url,
                operator_url=operator_url,
                token=token,
                signing_key=signing_key,
                enrolment_key=client_key,
                patience=patience,
                on_step=lambda step: show(screen, step),
                on_wait=show_wait,
            )
        seconds = sum(step.seconds for step in outcome.steps)
        if outcome.passed:
            screen.print(
                f"[bold green]The deployment works[/] ({seconds:.1f} s). Task {outcome.task} has ended.", soft_wrap=True
            )
        else:
            failed = next(step for step in outcome.steps if not step.passed)
            screen.print(
                f"[bold red]The deployment does not work[/]: {failed.name}. Task {outcome.task}.", soft_wrap=True
            )
    if not outcome.passed:
        raise typer.Exit(UNREACHABLE if outcome.unreachable else FAILED)


def show(screen: Console, step: Step) -> None:
    """Prints the outcome of a step, with the reason and places to check if it failed."""
    from rich.markup import escape

    detail = f" ({escape(step.detail)})" if step.passed and step.detail else ""
    mark = "[green]ok[/]    " if step.passed else "[bold red]FAILED[/]"
    screen.print(f"{mark}  {step.seconds:6.2f} s  {escape(step.name)}{detail}", soft_wrap=True)
    if not step.passed:
        screen.print(f"        {escape(step.detail)}", soft_wrap=True)
        for line in step.look_at:
            screen.print(f"        - check {escape(line)}", soft_wrap=True)
