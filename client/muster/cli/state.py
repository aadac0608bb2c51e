"""`muster state`: a task's state out of one deployment and into another."""

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
    help="Move a task with all its state from one deployment to another, say from `muster up` to a cloud.",
)
T = TypeVar("T")
_SETTINGS = "A folder of `muster up`, or a file with a line for each setting, `MUSTER_STATE=…` and so on; else the environment's."


@app.command("export")
def export_task(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    file: Annotated[Path, typer.Argument(help="The file to write; it must not be there.", dir_okay=False)],
    *,
    source: Annotated[Optional[Path], typer.Option("--from", metavar="SETTINGS", help=_SETTINGS)] = None,
    pause: Annotated[bool, typer.Option("--pause", help="Pause the task first.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a paused task's state to a file: checkpoints, results, and the open round with all that has come in.

    Reads the stores themselves, so the coordinator need not run, and had better not: what it accepts afterwards stays behind.
    The file may hold single updates; keep it as you would keep them, and delete it once it is imported.
    """
    if file.exists():
        raise LoadingError(f"{file} is there already; it is not overwritten")
    platform, secret = _deployment(source, make=False)
    from muster_coordinator.domain import tasks
    from muster_coordinator.task_export.transfer import export_state

    if pause:
        _record(platform, "task.pause", task, lambda: platform.change_task(task, tasks.pause))
    # Complete or not at all, and from its first byte on for its owner's eyes alone.
    handle, staged = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "wb") as out:
            moved = export_state(platform, task, out, secret=secret)
        os.link(staged, file)
    except FileExistsError:
        raise LoadingError(f"{file} is there already; it is not overwritten") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(staged).unlink()
    _show("exported", moved, as_json=as_json)
    if not as_json:
        console().print(f"Next: muster state import {file} --to SETTINGS", markup=False, soft_wrap=True)


@app.command("import")
def import_task(
    file: Annotated[Path, typer.Argument(help="What `muster state export` wrote.", exists=True, dir_okay=False)],
    *,
    target: Annotated[Optional[Path], typer.Option("--to", metavar="SETTINGS", help=_SETTINGS)] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a task out of such a file. Nothing that is there is overwritten; a paused task stays paused until it is resumed."""
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
    """Does `change`, with an entry in the audit log: whoever reaches the stores is an operator, and no key says which."""
    from muster_coordinator.domain.operators import Principal, Role
    from muster_coordinator.use_cases.audit_log import AuditLog, task_state

    who = Principal(f"{_account()} (muster state)", Role.OPERATOR)
    return AuditLog(platform).record(who, action, task, change=change, look=lambda: task_state(platform, task))


def _account() -> str:
    """The name of the account that runs this; a container's may have none."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "an account without a name"


def _show(what: str, moved: TransferSummary, *, as_json: bool) -> None:
    if as_json:
        write_json({"event": what, **asdict(moved)})
        return
    text = f"Task {moved.task} {what}: {moved.status}, checkpoint {moved.checkpoint}, {moved.blobs} blobs, {size(moved.size)}."
    if moved.round is not None:
        text += f" Round {moved.round} is open"
        text += f", with {moved.updates} updates that are not folded yet." if moved.updates else "."
    console().print(text, markup=False, soft_wrap=True)


def _deployment(place: Optional[Path], *, make: bool) -> tuple[Platform, KeyRing]:
    """The stores that the settings at `place` name, and the keys."""
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
        raise LoadingError(f"{place} is neither a file of settings nor a folder of `muster up`")
    return settings_of(place)


def _assignments(file: Path) -> Any:
    for number, line in enumerate(file.read_text().splitlines(), 1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals:
            raise LoadingError(f"{file}:{number} is no setting such as MUSTER_STATE=firestore://project/database")
        yield name.strip(), value.strip().strip("'\"")
