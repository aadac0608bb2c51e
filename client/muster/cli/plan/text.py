"""A plan in words and tables, as several commands show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

from muster.terminal import console, size

if TYPE_CHECKING:
    from rich.table import Table

    from muster.wire.plan import Plan


_MOST_PATHS = 4  # names of tensors in one line


def signers_in_words(plan: Plan) -> list[str]:
    """A line for each signature: whose it is and whether it holds, as far as this installation can tell."""
    from muster.wire.signatures import verifies

    if not plan.signatures:
        return ["[yellow]not signed[/]"]
    try:
        return [
            f"signed by {item.signer}"
            if verifies(item, plan.sha256)
            else f"[bold red]false signature[/] in the name of {item.signer}"
            for item in plan.signatures
        ]
    except ImportError:
        return [f"signed by {item.signer}, not verified: needs muster-fl\\[signing]" for item in plan.signatures]


def leaving(manifest: Any) -> Table:
    """The tensors that leave a device."""
    sums = {item.path for item in manifest.clear_sums}
    table = titled(f"What leaves a device: {_total(manifest.update)}", "tensor", "dtype", "shape", "size", "as")
    for spec in manifest.update:
        kind = "[bold red]secure sum, in the clear[/]" if spec.path in sums else "update"
        table.add_row(spec.path, spec.dtype.value, shape(spec.shape), _total([spec]), kind)
    return table


def warn_of_clear_sums(plan: Plan) -> None:
    """Says so, if tensors that were to be summed securely are not."""
    if plan.manifest.sums_in_the_clear:
        count = len(plan.manifest.clear_sums)
        console().print(
            f"[bold red]SUMS IN THE CLEAR[/]: {count} tensors that the computation wants summed securely are not; "
            "the coordinator's functions see each client's.",
            soft_wrap=True,
        )


def folds_in_words(manifest: Any) -> list[str]:
    """Returns a line for each kind of fold that reveals more of a single update than a sum does."""
    from rich.markup import escape

    from muster.wire.manifest import FoldKind

    lines = []
    for kinds, text in (
        (
            (FoldKind.MAXIMUM, FoldKind.MINIMUM),
            "[bold red]MAXIMA OR MINIMA[/]: each number of these results is some client's own value, unchanged",
        ),
        (
            (FoldKind.TENSORFLOW,),
            "[yellow]The fold is more than sums[/]: parts of a single update may be kept in the result",
        ),
    ):
        paths = [rule.path for rule in manifest.folds if rule.kind in kinds]
        if paths:
            named = escape(", ".join(paths[:_MOST_PATHS]))
            lines.append(f"{text} ({named}{', …' if len(paths) > _MOST_PATHS else ''}).")
    return lines


def release_in_words(manifest: Any) -> list[str]:
    """Returns lines about the floor that the plan's author sets for tasks."""
    release = manifest.release
    if release is None:
        return ["The plan binds no minimum: the task's operator decides how many updates a result is made of."]
    parts = [f"{release.minimum} or more updates in each result"]
    if release.max_rounds is not None:
        parts.append(f"at most {release.max_rounds} rounds for each task")
    if release.separation_seconds is not None:
        parts.append(f"{release.separation_seconds:g} seconds or more between two contributions of a client")
    return [f"The plan binds every task to: {'; '.join(parts)}."]


def titled(title: str, *columns: str) -> Table:
    """An empty table."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def shape(dimensions: Optional[tuple[Optional[int], ...]]) -> str:
    """A tensor's shape for people: `[?, 10]`."""
    if dimensions is None:
        return "any"
    return "[" + ", ".join("?" if each is None else str(each) for each in dimensions) + "]"


def _total(specs: Sequence[Any]) -> str:
    from muster.client.limits import least_bytes

    known = least_bytes(tuple(specs))
    unknown = any(spec.shape is None or None in spec.shape or spec.dtype.value == "string" for spec in specs)
    return f"{size(known)} and more" if unknown and known else "varies" if unknown else size(known)


def in_words(kind: Any) -> str:
    """A type for people: `data set of {x: float32[?, 2], y: int64[]}`."""
    if kind.kind == "tensor":
        return f"{kind.dtype.value}{shape(kind.shape)}"
    if kind.kind == "sequence":
        return f"data set of {in_words(kind.element)}"
    fields = (f"{field.name}: {in_words(field.type)}" if field.name else in_words(field.type) for field in kind.fields)
    return "{" + ", ".join(fields) + "}"
