"""Memory of the fold by the number of clients: `make bench-fold`.

An aggregator in a separate process folds the updates of a round in chunks, with several requests at
once, and a committer in another merges the partials. Printed is each process's peak beyond its use
before it loaded the model: `resident` is all of it (VmHWM), including pages of mapped files, which
the system can reclaim; `anonymous` is what it can't (RssAnon, sampled every few milliseconds).
Linux only. Client bodies are a few files under many names, so that the disk usage stays small.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from support.harness import Harness
from support.sized import sized_plan, sized_update

from benchmarks.figures import MEGABYTE
from benchmarks.processes import peaks_of
from muster.wire.plan import Plan
from muster.wire.tensors import encode
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.domain import names
from muster_coordinator.state.partial_builder import Part
from muster_coordinator.state.round_ledger import PartContents, RoundLedger

ROLES = ("aggregator", "committer")
_BODIES = 8
_TESTS = Path(__file__).parents[1]  # where `-m` finds this package
_REQUESTS = 8  # concurrent folds
_CHUNK = 32  # updates in a part: the default of a task


class FewBodies(DirectoryBlobs):
    """Blobs whose updates are read from a few files."""

    def read(self, name: str, *, limit: int | None = None, into: memoryview | None = None) -> memoryview:
        """See `Blobs.read`."""
        if "updates/" in name:
            name = body_name(int(name.rpartition("-")[2].rpartition("/")[2], 16) % _BODIES)
        return super().read(name, limit=limit, into=into)


def body_name(at: int) -> str:
    """Returns the name of the file that stands for every eighth update."""
    return f"bodies/{at}"


@dataclass(frozen=True)
class Beyond:
    """Bytes of a process at its peak beyond its base, the anonymous ones of these, and the base."""

    resident: int
    anonymous: int
    base: int


def play(root: Path, clients: int, role: str) -> None:
    """Runs one role's work in this process."""
    blobs = FewBodies(root / "blobs")
    h = Harness(root / "other", durable=True, wrap=lambda platform: replace(platform, blobs=blobs))
    h.plan = Plan.load(root / "plan")
    if role == "aggregator":
        h.begin(goal=clients, shards=1)
    round_ = h.platform.round(h.key())
    assert round_ is not None
    ledger = RoundLedger(h.platform, h.key())
    updates = [names.update_name(h.key(), 0, f"{at:032x}") for at in range(clients)]
    parts = {
        names.shard_part(0, at): tuple(updates[start : start + _CHUNK])
        for at, start in enumerate(range(0, clients, _CHUNK))
    }
    h.restart()  # no plan is known to it yet
    h.plan = None  # type: ignore[assignment]

    def fold_part(name: str) -> None:
        h.app.update_aggregator._fold(Part(round_.value, ledger, name, PartContents(parts[name])))
        h.platform.blobs.delete(parts[name])

    def fold() -> None:
        with ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(fold_part, parts))

    def merge() -> None:
        builder = h.app.update_aggregator.partials
        accumulator = builder.start(round_.value.terms)
        assert builder.merge(accumulator, ledger, list(parts)).folded == clients

    step: Callable[[], None] = fold if role == "aggregator" else merge
    gc.collect()  # the base is what is in use
    with peaks_of(os.getpid()) as peaks:
        step()
    peak = peaks[os.getpid()]
    own = peak.anonymous - peak.anonymous_before
    sys.stdout.write(f"{peak.resident - peak.before} {own} {peak.before}\n")


def measure(clients: int, megabytes: int, *, repeats: int = 1) -> dict[str, list[Beyond]]:
    """Returns both roles' peaks, each time in a new process."""
    size, peaks = megabytes * MEGABYTE, {role: [] for role in ROLES}
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        root = Path(folder)
        sized_plan(size, tensors=1).save(root / "plan")
        blobs = DirectoryBlobs(root / "blobs")
        for at in range(_BODIES):
            blobs.create(body_name(at), [encode(sized_update(size, tensors=1, seed=at))])
        for repeat in range(repeats):
            place = root / str(repeat)
            (place / "other").mkdir(parents=True)
            (place / "plan").hardlink_to(root / "plan")
            shutil.copytree(root / "blobs", place / "blobs", copy_function=os.link)
            for role in ROLES:
                command = [sys.executable, "-m", "benchmarks.memory", "--play", str(place), role, str(clients)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=_TESTS)  # noqa: S603
                peaks[role].append(Beyond(*map(int, done.stdout.split()[-3:])))
            shutil.rmtree(place)
    return peaks


def main() -> None:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--megabytes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1, help="the median of so many is printed")
    parser.add_argument("--play", nargs=3, metavar=("FOLDER", "ROLE", "CLIENTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        folder, role, clients = options.play
        play(Path(folder), int(clients), role)
        return
    table = Table("clients", "model MB", "process", "peak beyond base, MB: resident", "anonymous", "resident / model")
    for clients in options.clients:
        for role, peaks in measure(clients, options.megabytes, repeats=options.repeats).items():
            resident = statistics.median(each.resident for each in peaks) / MEGABYTE
            anonymous = statistics.median(each.anonymous for each in peaks) / MEGABYTE
            row = (f"{resident:.1f}", f"{anonymous:.1f}", f"{resident / options.megabytes:.2f}")
            table.add_row(str(clients), str(options.megabytes), role, *row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
