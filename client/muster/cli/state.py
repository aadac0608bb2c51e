"""`muster state`: moves a task with its state between deployments."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Callable, Optional, TypeVar

import typer

from muster.cli.failures import LoadingError
from muster.cli.options import Json as JsonOption
from muster.terminal import console, size, write_json

if TYPE_CHECKING:
    from muster_coordinator.domain.keys import KeyRing
    from muster_coordinator.state.platform import Platform
    from muster_coordinator.task_export.transfer import TransferSummary

app = typer.Typer(
    no_args_is_help=True,
    help="Move a task with its state to another deployment, such as from `muster up` to a cloud.",
)
T = TypeVar("T")
_SETTINGS = "Deployment: a data folder of `muster up`, or a file with one setting such as `MUSTER_STATE=…` per line."


@app.command("export")
def export_task(
    task: Annotated[str, typer.Argument(help="Name of the task.")],
    file: Annotated[Path, typer.Argument(help="File to write. It must not exist.", dir_okay=False)],
    *,
    source: Annotated[
        Optional[Path],
        typer.Option("--from", metavar="SETTINGS", help=_SETTINGS, show_default="the environment's settings"),
    ] = None,
    pause: Annotated[
        bool, typer.Option("--pause", help="Pause the task first. By default it must be paused already.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Export a paused task to a file: checkpoints, results, and the open round with its updates.

    Reads the stores directly. Stop the coordinator first: updates that it accepts later are not
    exported. The file may contain single updates, so protect it, and delete it after the import.
    """
    if file.exists():
        raise LoadingError(f"{file} exists already and is not overwritten")
    platform, secret = _deployment(source, make=False)
    from muster_coordinator.domain import tasks
    from muster_coordinator.task_export.transfer import export_state

    if pause:
        _record(platform, "task.pause", task, lambda: platform.change_task(task, tasks.pause))
    # The file is written atomically and with mode 0600.
    handle, staged = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "wb") as out:
            moved = export_state(platform, task, out, secret=secret)
        os.link(staged, file)
    except FileExistsError:
        raise LoadingError(f"{file} exists already and is not overwritten") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(staged).unlink()
    _show("exported", moved, as_json=as_json)
    if not as_json:
        console().print(f"Next: muster state import {file} --to SETTINGS", markup=False, soft_wrap=True)


@app.command("import")
def import_task(
    file: Annotated[Path, typer.Argument(help="File of `muster state export`.", exists=True, dir_okay=False)],
    *,
    target: Annotated[
        Optional[Path],
        typer.Option("--to", metavar="SETTINGS", help=_SETTINGS, show_default="the environment's settings"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import a task from a file of `muster state export`.

    Nothing is overwritten. The task stays paused until it is resumed.
    """
    platform, secret = _deployment(target, make=True)
    from muster_coordinator.task_export.archive import ArchiveReader
    from muster_coordinator.task_export.transfer import import_state

    with file.open("rb") as data:
        with ArchiveReader(data) as reader:
            task = reader.header.task
        moved = _record(platform, "task.import", task, lambda: import_state(platform, data, secret=secret))
    _show("imported", moved, as_json=as_json)
    if not as_json and moved.status == "paused":
        console().print(f"Next: muster task resume {moved.task}", markup=False, soft_wrap=True)


def _record(platform: Platform, action: str, task: str, change: Callable[[], T]) -> T:
    """Performs a change with an entry in the audit log.

    The operator is this process's account, since no key authenticates it.
    """
    from muster_coordinator.domain.operators import Principal, Role
    from muster_coordinator.use_cases.audit_log import AuditLog, task_state

    who = Principal(f"{_account()} (muster state)", Role.OPERATOR)
    return AuditLog(platform).record(who, action, task, change=change, read_state=lambda: task_state(platform, task))


def _account() -> str:
    """Returns the name of this process's account. In a container it may have none."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "an account without a name"


def _show(event: str, moved: TransferSummary, *, as_json: bool) -> None:
    if as_json:
        write_json({"event": event, **asdict(moved)})
        return
    text = f"Task {moved.task} {event}: {moved.status}, checkpoint {moved.checkpoint}, {moved.blobs} blobs, "
    text += f"{size(moved.size)}."
    if moved.round is not None:
        text += f" Round {moved.round} is open"
        text += f", with {moved.updates} unfolded updates." if moved.updates else "."
    console().print(text, markup=False, soft_wrap=True)


def _deployment(place: Optional[Path], *, make: bool) -> tuple[Platform, KeyRing]:
    """Returns the stores and the keys of the deployment with the settings at `place`."""
    from muster_coordinator import bootstrap
    from muster_coordinator.settings import Settings

    settings = Settings.from_environment({**os.environ, **_settings(place, make=make)})
    settings.check(None)
    return bootstrap.platform(settings), settings.keys


def _settings(place: Optional[Path], *, make: bool) -> Mapping[str, str]:
    if place is None:
        return {}
    if place.is_file():
        return dict(_assignments(place))
    from muster.local.settings import settings_of
    from muster.private_files import make_folder

    if make and not place.exists():
        make_folder(place)
    elif not (place / "state.db").exists() and not make:
        raise LoadingError(f"{place} is neither a file of settings nor a data folder of `muster up`")
    return settings_of(place)


def _assignments(file: Path) -> Any:
    for number, line in enumerate(file.read_text().splitlines(), 1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals:
            raise LoadingError(f"{file}:{number} is not a setting such as MUSTER_STATE=firestore://project/database")
        yield name.strip(), value.strip().strip("'\"")
