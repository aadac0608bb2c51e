"""Describes a plan as text and tables, for several commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from muster.terminal import console, size

if TYPE_CHECKING:
    from rich.table import Table

    from muster.wire.plan import Plan


_MAX_PATHS = 4  # tensors named in one line


def describe_signers(plan: Plan) -> list[str]:
    """Returns a line for each signature with its signer and, if verifiable, its validity."""
    from muster.wire.signatures import verifies

    if not plan.signatures:
        return ["[yellow]not signed[/]"]
    try:
        return [
            f"signed by {item.signer}"
            if verifies(item, plan.sha256)
            else f"[bold red]invalid signature[/] of {item.signer}"
            for item in plan.signatures
        ]
    except ImportError:
        return [f"signed by {item.signer}, not verified: needs muster-fl\\[signing]" for item in plan.signatures]


def uploads_table(manifest: Any) -> Table:
    """Returns a table of the tensors that leave a device."""
    sums = {item.path for item in manifest.clear_sums}
    table = titled_table(f"What leaves a device: {_total(manifest.update)}", "tensor", "dtype", "shape", "size", "as")
    for spec in manifest.update:
        kind = "[bold red]secure sum, in the clear[/]" if spec.path in sums else "update"
        table.add_row(spec.path, spec.dtype.value, shape(spec.shape), _total([spec]), kind)
    return table


def warn_of_clear_sums(plan: Plan) -> None:
    """Prints a warning if secure sums of the plan are computed in the clear."""
    if plan.manifest.sums_in_the_clear:
        count = len(plan.manifest.clear_sums)
        console().print(
            f"[bold red]SUMS IN THE CLEAR[/]: {count} tensors that the computation declares as secure are not secure; "
            "the coordinator's functions can read those of each client.",
            soft_wrap=True,
        )


def describe_folds(manifest: Any) -> list[str]:
    """Returns a line for each kind of fold that reveals more of a single update than a sum."""
    from rich.markup import escape

    from muster.wire.manifest import FoldKind

    lines = []
    for kinds, text in (
        (
            (FoldKind.MAXIMUM, FoldKind.MINIMUM),
            "[bold red]MAXIMA OR MINIMA[/]: each number of these results is the unchanged value of some client",
        ),
        (
            (FoldKind.TENSORFLOW,),
            "[yellow]The fold is more than sums[/]: the result may contain parts of a single update",
        ),
    ):
        paths = [rule.path for rule in manifest.folds if rule.kind in kinds]
        if paths:
            names = escape(", ".join(paths[:_MAX_PATHS]))
            lines.append(f"{text} ({names}{', …' if len(paths) > _MAX_PATHS else ''}).")
    return lines


def describe_release(manifest: Any) -> list[str]:
    """Returns a line about the floor that the plan's author sets for tasks."""
    release = manifest.release
    if release is None:
        return ["The plan binds no minimum: the task's operator decides the number of updates in a result."]
    rules = [f"{release.minimum} or more updates in each result"]
    if release.max_rounds is not None:
        rules.append(f"at most {release.max_rounds} rounds for each task")
    if release.separation_seconds is not None:
        rules.append(f"{release.separation_seconds:g} seconds or more between two contributions of a client")
    return [f"The plan binds every task to: {'; '.join(rules)}."]


def titled_table(title: str, *columns: str) -> Table:
    """Returns an empty table."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def shape(dimensions: Optional[tuple[Optional[int], ...]]) -> str:
    """Returns a tensor's shape as text: `[?, 10]`."""
    if dimensions is None:
        return "any"
    return "[" + ", ".join("?" if dimension is None else str(dimension) for dimension in dimensions) + "]"


def _total(specs: Sequence[Any]) -> str:
    from muster.client.limits import min_bytes

    known_bytes = min_bytes(tuple(specs))
    is_open = any(spec.shape is None or None in spec.shape or spec.dtype.value == "string" for spec in specs)
    if not is_open:
        return size(known_bytes)
    return f"{size(known_bytes)} or more" if known_bytes else "varies"


def type_text(kind: Any) -> str:
    """Returns a type as text: `data set of {x: float32[?, 2], y: int64[]}`."""
    if kind.kind == "tensor":
        return f"{kind.dtype.value}{shape(kind.shape)}"
    if kind.kind == "sequence":
        return f"data set of {type_text(kind.element)}"
    fields = (
        f"{field.name}: {type_text(field.type)}" if field.name else type_text(field.type) for field in kind.fields
    )
    return "{" + ", ".join(fields) + "}"
