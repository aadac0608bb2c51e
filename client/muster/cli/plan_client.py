"""The dry run: what a plan's `work` would do on a device, read from its graph without running it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Optional

from muster.wire.manifest import FoldKind

from .options import size
from .plan_words import in_words, leaving, signers_in_words, titled

if TYPE_CHECKING:
    from rich.console import Console

    from muster.wire.plan import Plan


@dataclass(frozen=True)
class DryRun:
    """What a device's owner may want to know before agreeing.

    Attributes:
      plan: The plan.
      refused: Why a client would refuse the graph of `work`; None: it would run.
      operations: How often each operation stands in it, by kind.
      download_bytes: Of the plan. `broadcast_bytes`: of the tensors that come with each round, at least.
      update_bytes: Of the tensors that leave, at least.
    """

    plan: Plan
    refused: Optional[str]
    operations: dict[str, dict[str, int]]
    download_bytes: int
    broadcast_bytes: int
    update_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        manifest = self.plan.manifest.to_dict()
        sums = {item.path for item in self.plan.manifest.clear_sums}
        numbers = {name: value for name, value in asdict(self).items() if name.endswith("_bytes")}
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
            "folds_are_sums": all(rule.kind is not FoldKind.TENSORFLOW for rule in self.plan.manifest.folds),
            **numbers,
        }


def dry_run(plan: Plan) -> DryRun:
    """Reads a plan's graph of `work` and runs nothing.

    Raises:
      ProblemError: `plan_invalid`, if the graph can't be read at all.
      ImportError: TensorFlow, which knows the graph's format, is not installed.
    """
    from muster.client.limits import least_bytes
    from muster.runtime.graphs import load_graph
    from muster.runtime.ops import check_graph, count_ops
    from muster.wire.problems import ProblemError

    manifest = plan.manifest
    graph = load_graph(plan.part(manifest.stages.work.graph))
    try:
        check_graph(graph, stage="work")
        refused = None
    except ProblemError as problem:
        refused = problem.detail
    counts = count_ops(graph)
    return DryRun(
        plan=plan,
        refused=refused,
        operations={kind: dict(counts[kind].most_common()) for kind in sorted(counts)},
        download_bytes=len(plan.for_client().encode()),
        broadcast_bytes=least_bytes(manifest.broadcast),
        update_bytes=least_bytes(manifest.update),
    )


def write(found: DryRun, screen: Console) -> None:
    """The dry run for people."""
    plan = found.plan
    screen.print(f"[bold]{plan.manifest.name}[/] on a device  {plan.sha256}", soft_wrap=True)
    for line in signers_in_words(plan):
        screen.print(line, soft_wrap=True)
    if found.refused is not None:
        screen.print(f"[bold red]A client would refuse it.[/] {found.refused}", soft_wrap=True)
    else:
        screen.print("Files: none. Network: none. Python: none.", soft_wrap=True)
    operations = titled("What it would run", "kind", "operations")
    for kind, counts in found.operations.items():
        operations.add_row(kind, ", ".join(f"{name} ×{count}" for name, count in counts.items()))
    screen.print(operations)
    screen.print(f"Reads of your data: {in_words(plan.manifest.data)}", markup=False, soft_wrap=True)
    screen.print(leaving(plan.manifest))
    if plan.manifest.sums_in_the_clear:
        screen.print(
            "[bold red]SUMS IN THE CLEAR[/]: the computation wants some of it summed securely; Muster does not do that.",
            soft_wrap=True,
        )
    if any(rule.kind is FoldKind.TENSORFLOW for rule in plan.manifest.folds):
        screen.print(
            "[yellow]The fold is more than sums[/]: parts of a single update may be kept, in what all of them come to.",
            soft_wrap=True,
        )
    screen.print(
        "The coordinator's functions can read your update until it is folded, seconds after it comes; no operator can "
        "through Muster's API.\n"
        f"Downloads: the plan, {size(found.download_bytes)}, once; {size(found.broadcast_bytes)} or more each round.",
        soft_wrap=True,
    )
