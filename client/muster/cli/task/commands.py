"""`muster task`: its commands, each in a module of its kind."""

from __future__ import annotations

import typer

from muster.cli.schema_help import documented_by
from muster.cli.task import changing, creating, following, running
from muster.cli.task.policy_options import PART_NAMES

_MODEL = "muster.wire.messages:TaskPolicy"
_POLICY = documented_by(_MODEL)
_CHANGED_POLICY = documented_by(_MODEL, unset="unchanged", others=PART_NAMES)

app = typer.Typer(no_args_is_help=True, help="Create, follow and change tasks.")
app.command("create", cls=_POLICY)(creating.create)
app.command("clone", cls=_CHANGED_POLICY)(creating.clone)
app.command("evaluate", cls=_POLICY)(creating.evaluate)
app.command("list")(following.list_tasks)
app.command("show")(following.show)
app.command("watch")(following.watch)
app.command("best")(following.best)
app.command("run")(running.run)
app.command("complete")(changing.complete)
app.command("pause")(changing.pause)
app.command("resume")(changing.resume)
app.command("rollback")(changing.rollback)
app.command("update", cls=_CHANGED_POLICY)(changing.update)
app.command("tag")(changing.tag)
app.command("untag")(changing.untag)
app.command("cancel")(changing.cancel)
app.command("archive")(changing.archive)
app.command("unarchive")(changing.unarchive)
app.command("delete")(changing.delete)
