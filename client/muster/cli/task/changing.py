"""Commands of `muster task` that change a task."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from muster.cli.options import DEFAULT_URL, Token, Url
from muster.cli.options import Json as JsonOption
from muster.cli.task.arguments import Name, version_of
from muster.cli.task.policy_options import with_policy_options
from muster.cli.task.text import write_task
from muster.terminal import console

if TYPE_CHECKING:
    from muster.operator import Operator
    from muster.wire.messages import TaskView

TagName = Annotated[str, typer.Argument(metavar="TAG", help="Name of the tag, such as `released`.")]
_DELETION_POLL = 0.5  # seconds


def pause(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """Pause a task: no new assignments and no new rounds.

    Updates of outstanding assignments are accepted.
    """
    _change("pause", name, url=url, token=token, as_json=as_json)


def resume(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """Resume a paused task."""
    _change("resume", name, url=url, token=token, as_json=as_json)


def cancel(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """Cancel a task permanently. Its checkpoints are kept."""
    _change("cancel", name, url=url, token=token, as_json=as_json)


def complete(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """End an idle driven task."""
    _change("complete", name, url=url, token=token, as_json=as_json)


def archive(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """Leave an ended task out of `muster task list`."""
    _change("archive", name, url=url, token=token, as_json=as_json)


def unarchive(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """List an archived task again."""
    _change("unarchive", name, url=url, token=token, as_json=as_json)


def rollback(
    name: Name,
    *,
    version: Annotated[str, typer.Option(help="Version or tag of the checkpoint; 0 is the initial state.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Continue a task from an earlier checkpoint. A paused task stays paused."""
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        view = operator.rollback(name, version=version_of(operator, name, version))
    write_task(view, as_json=as_json)


@with_policy_options
def update(
    name: Name,
    *,
    defaults: Annotated[
        Optional[list[str]],
        typer.Option(
            "--default", metavar="FIELD", help="Field of the policy to set to its default. Repeat it for several."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
    policy: dict[str, Any],
) -> None:
    """Change a task's policy from the next round on.

    A completed task with more rounds continues.
    """
    from muster.operator import Operator

    changes = {**policy, **{field.replace("-", "_"): None for field in defaults or ()}}
    if not changes:
        raise typer.BadParameter("name at least one field to change, such as --rounds 40")
    with Operator(url, token=token) as operator:
        view = operator.update_policy(name, _as_json(changes))
    write_task(view, as_json=as_json)


def tag(
    name: Name,
    tag_name: TagName,
    version: Annotated[
        Optional[str], typer.Argument(help="Version of the checkpoint.", show_default="the newest")
    ] = None,
    *,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Tag a checkpoint, which is then stored for good. Tagging another version moves the tag."""
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        view = operator.tag(name, tag_name, version=version_of(operator, name, version))
    write_task(view, as_json=as_json)


def untag(
    name: Name, tag_name: TagName, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False
) -> None:
    """Remove a tag."""
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        view = operator.untag(name, tag_name)
    write_task(view, as_json=as_json)


def delete(
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until everything is deleted.")] = True,
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Delete an ended task: its documents, checkpoints and results. The audit log remains."""
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        view = operator.task(name)
        if not yes:
            typer.confirm(f"Delete task {name} with {view.checkpoint} rounds, its checkpoints and results?", abort=True)
        operator.delete(name)
        if not wait:
            typer.echo(f"Task {name} is being deleted.")
            return
        with console().status(f"Deleting task {name} …"):
            _wait_until_deleted(operator, name)
    typer.echo(f"Task {name} is deleted.")


def _wait_until_deleted(operator: Operator, name: str) -> None:
    from muster.wire.problems import ProblemError, ProblemType

    while True:
        try:
            operator.task(name)
        except ProblemError as problem:
            if problem.type is ProblemType.NOT_FOUND:
                return
            raise
        time.sleep(_DELETION_POLL)


def _as_json(changes: dict[str, Any]) -> dict[str, Any]:
    """Returns changes of a policy with times as text."""
    return {field: value.isoformat() if hasattr(value, "isoformat") else value for field, value in changes.items()}


def _change(action: str, name: str, *, url: str, token: Optional[str], as_json: bool) -> None:
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        view: TaskView = getattr(operator, action)(name)
    write_task(view, as_json=as_json)
