"""`muster task create`, `clone` and `evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from muster.cli.options import DEFAULT_URL, Token, Url
from muster.cli.options import Json as JsonOption
from muster.cli.task.arguments import (
    LeavesOption,
    Name,
    PlanOption,
    SelectorOption,
    SingleUpdates,
    StartOption,
    check_minimum,
    plan_of,
    selector_of,
    state_ref_of,
    task_name_of,
    version_of,
)
from muster.cli.task.policy_options import with_policy_options
from muster.cli.task.text import write_task
from muster.terminal import console

if TYPE_CHECKING:
    from muster.wire.messages import TaskPolicy, TaskView

Kind = Annotated[
    str,
    typer.Option("--kind", metavar="train|evaluate|analytics", help="Kind of the work, which data owners see."),
]
Driven = Annotated[
    bool,
    typer.Option("--driven", help="Run rounds only on request (`muster task run`). By default rounds follow."),
]


@with_policy_options
def create(
    *,
    plan: PlanOption,
    population: Annotated[str, typer.Option(help="Population whose clients do the work.")],
    name: Annotated[Optional[str], typer.Option(help="Name of the task.", show_default="the plan's name")] = None,
    kind: Kind = "train",
    select: SelectorOption = None,
    driven: Driven = False,
    start: StartOption = None,
    leaves: LeavesOption = None,
    let_single_updates_out: SingleUpdates = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
    policy: dict[str, Any],
) -> None:
    """Create a task: store its plan and open its first round."""
    from muster.operator import Operator
    from muster.wire.messages import TaskKind, TaskPolicy

    if kind == "analytics":
        policy.setdefault("rounds", 1)
    checked = TaskPolicy.from_dict(policy)
    check_minimum(checked, allowed=let_single_updates_out, hint="--minimum" if "minimum" in policy else "--goal")
    subject = plan_of(plan)
    if name is None:
        if isinstance(subject, str):
            raise typer.BadParameter("a task for a plan given by its SHA-256 needs a name", param_hint="--name")
        name = task_name_of(subject.manifest.name)
    if kind not in {item.value for item in TaskKind}:
        raise typer.BadParameter(f"{kind!r} is not train, evaluate or analytics", param_hint="--kind")
    with Operator(url, token=token) as operator:
        view = operator.create_task(
            name,
            population=population,
            plan=subject,
            policy=checked,
            kind=TaskKind(kind),
            selector=selector_of(select),
            driven=driven,
            start=state_ref_of(operator, start, leaves),
        )
    _write_created(view, url=url, as_json=as_json, goal_is_default="goal" not in policy)


@with_policy_options
def clone(
    name: Name,
    *,
    source: Annotated[
        str, typer.Option("--from", metavar="TASK[@VERSION]", help="Task to clone, at a version or tag.")
    ],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
    policy: dict[str, Any],
) -> None:
    """Create a task like another one that starts from one of its checkpoints.

    Its policy is that of the other task, but for the options that are given.
    """
    from muster.operator import Operator

    task, _, version = source.partition("@")
    with Operator(url, token=token) as operator:
        view = operator.clone_task(
            name, source=task, version=version_of(operator, task, version or None), policy=policy
        )
    _write_created(view, url=url, as_json=as_json, goal_is_default=False)


@with_policy_options
def evaluate(
    training_task: Annotated[str, typer.Argument(help="Name of the training task to evaluate.", metavar="TASK")],
    *,
    plan: PlanOption,
    name: Annotated[Optional[str], typer.Option(help="Name of the evaluation.", show_default="TASK-evaluation")] = None,
    every: Annotated[
        int, typer.Option(help="Evaluate each checkpoint whose version is a multiple of this.", min=1)
    ] = 1,
    select: SelectorOption = None,
    leaves: LeavesOption = None,
    share: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Part of the clients that evaluate and do not train meanwhile. With 1, training waits.",
        ),
    ] = 1.0,
    let_single_updates_out: SingleUpdates = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
    policy: dict[str, Any],
) -> None:
    """Evaluate the checkpoints of a training task beside its rounds, such as on a test split."""
    from muster.operator import Operator
    from muster.wire.messages import Evaluation, TaskKind, TaskPolicy

    checked = TaskPolicy.from_dict(policy)
    check_minimum(checked, allowed=let_single_updates_out, hint="--minimum" if "minimum" in policy else "--goal")
    fields: dict[str, Any] = {"task": training_task, "every": every, "share": share}
    if leaves:
        fields["leaves"] = tuple(leaves)
    with Operator(url, token=token) as operator:
        view = operator.create_task(
            name or f"{training_task}-evaluation",
            population=operator.task(training_task).spec.population,
            plan=plan_of(plan),
            policy=checked,
            kind=TaskKind.EVALUATE,
            selector=selector_of(select),
            evaluates=Evaluation.from_dict(fields),
        )
    _write_created(view, url=url, as_json=as_json, goal_is_default="goal" not in policy)


def _write_created(view: TaskView, *, url: str, as_json: bool, goal_is_default: bool) -> None:
    write_task(view, as_json=as_json)
    if as_json:
        return
    typer.echo(_needs(view.spec.policy, by_default=goal_is_default))
    url_option = "" if url == DEFAULT_URL else f" --url {url}"
    following = f"muster task {'run' if view.spec.driven else 'watch'} {view.spec.name}{url_option}"
    console().print(f"Next: {following}{' --request NAME' if view.spec.driven else ''}", soft_wrap=True)


def _needs(policy: TaskPolicy, *, by_default: bool) -> str:
    """Returns a note on the number of clients that a round waits for."""
    default = ", the default: --goal sets it" if by_default else ""
    seconds = f"{policy.round_seconds:g} s"
    if policy.minimum == policy.goal:
        at_deadline = f"with fewer after {seconds} it is tried again."
    else:
        at_deadline = f"after {seconds} {policy.minimum} are enough (minimum); with fewer it is tried again."
    return f"A round needs {policy.goal} clients (goal{default}); {at_deadline}"
