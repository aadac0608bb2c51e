"""All benchmarks: `make bench`. Prints each figure beside its target and its yardstick of the same run.

Each section runs in a process of its own. The figures go to dist/bench.json, and with `--write` into docs/benchmarks.md and its plot.
`--quick` takes about three minutes, all of it about fifteen. `--peers flower` measures Flower in the same session; see `flower.py`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import page
from figures import PEERS, SECTIONS, Conditions, Results, text_of
from rich.console import Console
from rich.table import Table

_FILE = Path(__file__).resolve().parents[2] / "dist" / "bench.json"


def run_section(name: str, file: Path, conditions: Conditions) -> None:
    """Measures one section, in this process."""
    import sections  # loads what is measured, which the parent leaves alone

    measure = {**sections.SECTIONS, **sections.PEERS}[name]
    results = Results(conditions)
    for each in measure(quick=conditions.quick):
        results.figures.append(each)
        results.save(file)  # each one, so that a run that is ended early has them


def show(console: Console, name: str, found: Results) -> None:
    """Prints a section."""
    table = Table("", "median", "range", "target", "beside its yardstick", "", title=name, title_justify="left")
    for each in found.figures:
        against = "" if each.ratio is None else f"{each.ratio:.2f} of {text_of(each.yardstick or 0)} ({each.against})"
        low_high = f"{text_of(each.low)}–{text_of(each.high)} of {each.samples}"
        target = page.target_of(each).replace("*", "")
        table.add_row(each.case, f"{text_of(each.value)} {each.unit}", low_high, target, against, each.note)
    console.print(table)


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--peers", default="", choices=["", *PEERS], help="what else to measure in the same session")
    parser.add_argument(
        "--json", type=Path, default=_FILE, help="where the figures go; those of other sections there stay"
    )
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and its plot from the figures")
    parser.add_argument(
        "--only-write", action="store_true", help="write them from a file of figures, and measure nothing"
    )
    parser.add_argument("--section-file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    unknown = [name for name in given.sections if name not in (*SECTIONS, *PEERS)]
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    conditions = Conditions.now(date=datetime.now(UTC).strftime("%d %B %Y").lstrip("0"), quick=given.quick)
    if given.section_file:
        run_section(given.sections[0], given.section_file, conditions)
        return
    console = Console(width=None if sys.stdout.isatty() else 200)
    results = (
        Results.load(given.json)
        if given.json.exists() and (given.sections or given.only_write)
        else Results(conditions)
    )
    if not given.only_write:
        conditions.load.update(results.conditions.load)
        results.conditions = conditions
        names = [*(given.sections or SECTIONS), *([given.peers] if given.peers else [])]
        for name in names:
            before = os.getloadavg()[0]
            _measure(console, name, results, quick=given.quick)
            results.conditions.load[name] = [before, os.getloadavg()[0]]
            results.save(given.json)
    if given.write or given.only_write:
        page.write(results)


def _measure(console: Console, name: str, results: Results, *, quick: bool) -> None:
    started = time.monotonic()
    with TemporaryDirectory(prefix="muster-bench-") as folder, console.status(f"{name} …"):
        file = Path(folder) / "figures.json"
        command = [sys.executable, __file__, name, "--section-file", str(file), *(["--quick"] if quick else [])]
        log = Path(folder) / "log"
        with log.open("wb") as output:  # a pipe would be held open by what TFF leaves behind
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)  # noqa: S603  ourselves
        found = Results.load(file) if file.exists() else Results(results.conditions)
        if done.returncode:
            console.print(f"The section {name} was not finished; its log ends with:\n{log.read_text()[-3000:]}")
    made = {each.section for each in found.figures}
    results.figures = [each for each in results.figures if each.section not in made] + found.figures
    show(console, f"{name} ({time.monotonic() - started:.0f} s)", found)


if __name__ == "__main__":
    main()
