"""Dry run of a plan: the effect of `work` on a device, read from its graph without running it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Optional

from muster.cli.plan.text import (
    describe_folds,
    describe_release,
    describe_signers,
    titled_table,
    type_text,
    uploads_table,
)
from muster.terminal import size
from muster.wire.manifest import FoldKind

if TYPE_CHECKING:
    from rich.console import Console

    from muster.wire.plan import Plan


@dataclass(frozen=True)
class DryRun:
    """Summary of a plan for a device's owner.

    Attributes:
      plan: The plan.
      refused: Reason why a client would refuse the plan's graphs or bindings; None: it would run.
      operations: Number of occurrences of each operation, by kind of operation.
      download_bytes: Size of the device's copy of the plan.
      broadcast_bytes: Least size of the tensors that a device downloads in each round.
      update_bytes: Least size of the tensors that a device uploads.
    """

    plan: Plan
    refused: Optional[str]
    operations: dict[str, dict[str, int]]
    download_bytes: int
    broadcast_bytes: int
    update_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the dry run as JSON-compatible data."""
        manifest = self.plan.manifest.to_dict()
        sums = {item.path for item in self.plan.manifest.clear_sums}
        numbers = {name: value for name, value in asdict(self).items() if name.endswith("_bytes")}
        kinds = {rule.kind for rule in self.plan.manifest.folds}
        release = self.plan.manifest.release
        return {
            "plan": self.plan.sha256,
            "name": manifest["name"],
            "signatures": [item.signer for item in self.plan.signatures],
            "would_run": self.refused is None,
            "refused": self.refused,
            "operations": self.operations,
            "files": [],
            "network": [],
            "reads": manifest["data"],
            "leaves": [{**spec, "sum_in_the_clear": spec["path"] in sums} for spec in manifest["update"]],
            "single_update_readable_by_coordinator": True,
            "waits_alone_until": "the round closes",
            "waits_with_others_seconds": "max_update_age of the task",
            "folds": {rule.path: rule.kind.value for rule in self.plan.manifest.folds},
            "folds_are_sums": kinds <= {FoldKind.SUM},
            "result_shows_single_values": bool(kinds & {FoldKind.MAXIMUM, FoldKind.MINIMUM}),
            "parts_of_single_updates_may_be_kept": FoldKind.TENSORFLOW in kinds,
            "release": None if release is None else release.model_dump(exclude_none=True),
            **numbers,
        }


def dry_run(plan: Plan) -> DryRun:
    """Reads the graphs of this copy of a plan, and runs none.

    Raises:
      ImportError: `protobuf`, which parses graphs, is not installed.
    """
    from muster.client.limits import min_bytes
    from muster.runtime.graph_check import check_plan_graphs
    from muster.runtime.graph_def import parse_graph
    from muster.runtime.ops import count_ops
    from muster.wire.problems import ProblemError

    manifest = plan.manifest
    refused: Optional[str] = None
    counts: dict[str, Counter[str]] = {}
    try:
        counts = count_ops(parse_graph(plan.part(manifest.stages.work.graph), what="work"))
        check_plan_graphs(plan)
    except ProblemError as problem:
        refused = problem.detail
    return DryRun(
        plan=plan,
        refused=refused,
        operations={kind: dict(counts[kind].most_common()) for kind in sorted(counts)},
        download_bytes=len(plan.for_client().encode()),
        broadcast_bytes=min_bytes(manifest.broadcast),
        update_bytes=min_bytes(manifest.update),
    )


def write(summary: DryRun, screen: Console) -> None:
    """Prints the dry run as text."""
    from rich.markup import escape

    plan = summary.plan
    screen.print(f"[bold]{plan.manifest.name}[/] on a device  {plan.sha256}", soft_wrap=True)
    for line in describe_signers(plan):
        screen.print(line, soft_wrap=True)
    if summary.refused is not None:
        screen.print(f"[bold red]A client would refuse this plan.[/] {escape(summary.refused)}", soft_wrap=True)
    else:
        screen.print("Files: none. Network: none. Python: none.", soft_wrap=True)
    operations = titled_table("Operations", "kind", "operations")
    for kind, counts in summary.operations.items():
        operations.add_row(kind, ", ".join(f"{name} ×{count}" for name, count in counts.items()))
    screen.print(operations)
    screen.print(f"Reads of your data: {type_text(plan.manifest.data)}", markup=False, soft_wrap=True)
    screen.print(uploads_table(plan.manifest))
    if plan.manifest.sums_in_the_clear:
        screen.print(
            "[bold red]SUMS IN THE CLEAR[/]: the computation declares secure sums. Muster computes them in the clear.",
            soft_wrap=True,
        )
    for line in (*describe_folds(plan.manifest), *describe_release(plan.manifest)):
        screen.print(line, soft_wrap=True)
    screen.print(
        "The coordinator's functions can read your update until it is folded with others: at most the task's "
        "max_update_age (60 seconds by default) once another update is stored, and alone until the round closes. No "
        "operator can read it through Muster's API.\n"
        f"Downloads: the plan, {size(summary.download_bytes)}, once; {size(summary.broadcast_bytes)} or more a round.",
        soft_wrap=True,
    )
