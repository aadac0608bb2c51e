"""Arguments that the commands of `muster task` share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from muster.cli.failures import LoadingError

if TYPE_CHECKING:
    from muster.operator import Operator
    from muster.wire.messages import StateRef
    from muster.wire.plan import Plan

Name = Annotated[str, typer.Argument(help="Name of the task.")]
PlanOption = Annotated[
    str, typer.Option("--plan", help="Plan: a file, or the SHA-256 of a plan that the coordinator stores.")
]
SelectorOption = Annotated[
    Optional[list[str]],
    typer.Option(
        "--select",
        metavar="KEY=VALUE",
        help="Entry of the selector, for the data functions of the clients, such as `split=test`. Repeat the "
        "option for several. By default there is no selector.",
    ),
]
StartOption = Annotated[
    Optional[str],
    typer.Option(
        "--start",
        metavar="STATE",
        help="State of version 0: a checkpoint of another task, such as `digits@12`, `digits@released` or `digits` for "
        "its newest, or the SHA-256 of a stored state. By default the plan's initial state.",
    ),
]
LeavesOption = Annotated[
    Optional[list[str]],
    typer.Option(
        "--leaves",
        metavar="PREFIX",
        help="Prefix of the paths of the tensors to take, such as `global_model_weights/`; the others are those of "
        "the plan's initial state. Repeat the option for several. By default all are taken.",
    ),
]
SingleUpdates = Annotated[
    bool,
    typer.Option(
        "--let-single-updates-out",
        help="Allow a minimum of 1, with which a result may be the update of one client. By default it is refused.",
    ),
]


def plan_of(reference: str) -> Plan | str:
    """Returns the plan in a file, or the address that `reference` is."""
    from muster.wire.plan import Plan

    if re.fullmatch(r"[0-9a-f]{64}", reference):
        return reference
    if not Path(reference).is_file():
        raise LoadingError(f"There is no plan file {reference}; `muster plan build` writes one")
    return Plan.load(reference)


def task_name_of(name: str) -> str:
    """Returns a valid task name from a plan's: lower case, with dashes for other characters."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")
    return (slug if slug[:1].isalpha() else f"task-{slug}")[:63].rstrip("-")


def selector_of(entries: Optional[list[str]]) -> Optional[dict[str, Any]]:
    """Returns the selector of `--select` options. A value is JSON, or else text.

    Raises:
      typer.BadParameter: an entry has no `=`.
    """
    selector: dict[str, Any] = {}
    for entry in entries or ():
        key, separator, text = entry.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{entry!r} is not an entry such as split=test", param_hint="--select")
        try:
            selector[key] = json.loads(text)
        except ValueError:
            selector[key] = text
    return selector or None


def state_ref_of(operator: Operator, text: Optional[str], leaves: Optional[list[str]]) -> Optional[StateRef]:
    """Returns the reference of `--start`, with a tag or no version resolved at the coordinator.

    Raises:
      typer.BadParameter: there are leaves and no start, or the task has no such tag.
      ProblemError: the task is unknown.
    """
    from muster.wire.messages import StateRef

    if text is None:
        if leaves:
            raise typer.BadParameter("needs --start, the state to take tensors from", param_hint="--leaves")
        return None
    fields: dict[str, Any] = {"leaves": tuple(leaves or ())}
    if re.fullmatch(r"[0-9a-f]{64}", text):
        return StateRef.from_dict({**fields, "state": text})
    task, _, version = text.partition("@")
    return StateRef.from_dict({**fields, "task": task, "version": version_of(operator, task, version or None)})


def version_of(operator: Operator, task: str, text: Optional[str]) -> int:
    """Returns a version that a number or a tag names; the newest one for None.

    Raises:
      typer.BadParameter: the task has no such tag.
    """
    if text is not None and text.isdecimal():
        return int(text)
    view = operator.task(task)
    if text is None:
        return view.checkpoint
    if text not in view.tags:
        tags = ", ".join(sorted(view.tags)) or "none"
        raise typer.BadParameter(f"task {task} has no tag {text!r}; its tags: {tags}")
    return view.tags[text]


def check_minimum(policy: Any, *, allowed: bool, hint: str) -> None:
    """Refuses a policy whose results may be the update of one client.

    Raises:
      typer.BadParameter: the minimum is 1, and `allowed` is false.
    """
    if policy.minimum == 1 and not allowed:
        raise typer.BadParameter(
            "a result of one update is that client's update; choose a minimum of 2 or more, "
            "or add --let-single-updates-out",
            param_hint=hint,
        )
