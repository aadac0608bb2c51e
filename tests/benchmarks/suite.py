"""Runs all benchmarks: `make bench`. Prints each figure beside its target and its yardstick.

Each section runs in a separate process. The figures are written to dist/bench.json, where those of
sections that were not measured remain, each with its date; `--quick` uses a separate file. A whole
run with `--write` also rewrites docs/benchmarks.md, its plot and the figures behind both
(docs/benchmarks.json); a partial, quick or failed run does not, `--only-write` always does.
`--peers flower` measures Flower in the same session; see `flower.py`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks import page
from benchmarks.figures import PEERS, SECTIONS, Conditions, Results, Section, machine, text_of

_DIST = Path(__file__).resolve().parents[2] / "dist"


def run_section(name: str, file: Path, conditions: Conditions) -> None:
    """Measures one section in this process."""
    from benchmarks import sections  # loads what is measured, which the parent leaves alone

    measure = {**sections.SECTIONS, **sections.PEERS}[name]
    section = Section(conditions)
    for each in measure(quick=conditions.quick):
        section.figures.append(each)
        Results({name: section}).save(file)  # each one, so that a section that is ended early has them


def show(console: Console, name: str, section: Section) -> None:
    """Prints a section."""
    title = f"{name} ({section.conditions.seconds:.0f} s)"
    table = Table("", "median", "range", "target", "beside its yardstick", "", title=title, title_justify="left")
    for each in section.figures:
        against = "" if each.ratio is None else f"{each.ratio:.2f} of {text_of(each.yardstick or 0)} ({each.against})"
        target = page.target_of(each).replace("*", "")
        case = each.case.replace("|", ", ")
        table.add_row(case, f"{text_of(each.value)} {each.unit}", page.range_of(each), target, against, each.note)
    console.print(table)


def main() -> None:
    """Measures the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sections", nargs="*", help=f"of {', '.join((*SECTIONS, *PEERS))}; all but the last, if none is named"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--peers", default="", choices=["", *PEERS], help="what else to measure in the same session")
    parser.add_argument("--json", type=Path, help="where the figures go; those of other sections there stay")
    parser.add_argument("--write", action="store_true", help="write the page after a whole run, if no section failed")
    parser.add_argument(
        "--only-write", action="store_true", help="write the page from the figures that there are; measure nothing"
    )
    parser.add_argument("--section-file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    unknown = [name for name in options.sections if name not in (*SECTIONS, *PEERS)]
    if unknown:
        parser.error(f"there is no section {', '.join(unknown)}; there are {', '.join((*SECTIONS, *PEERS))}")
    now = datetime.now(UTC)
    conditions = Conditions(now.isoformat(), now.strftime("%d %B %Y").lstrip("0"), machine(), options.quick)
    if options.section_file:
        run_section(options.sections[0], options.section_file, conditions)
        return
    file = options.json or _DIST / ("bench-quick.json" if options.quick else "bench.json")
    results = _earlier(file, quick=options.quick)
    if options.only_write:
        page.write(results)
        return
    console = Console(width=None if sys.stdout.isatty() else 200)
    failed = []
    for name in dict.fromkeys([*(options.sections or SECTIONS), *([options.peers] if options.peers else [])]):
        section = _measure(console, name, conditions)
        failed += [] if section.conditions.finished else [name]
        before = results.sections.get(name)
        if section.conditions.finished or before is None or not before.conditions.finished:
            results.sections[name] = section
            results.save(file)
    measured = [section.conditions for section in results.sections.values()]
    seconds = sum(each.seconds for each in measured if each.session == conditions.session)
    console.print(f"{seconds / 60:.0f} minutes; the figures are in {file}")
    if failed:
        console.print(f"Not finished: {', '.join(failed)}. The page is left as it is")
        raise SystemExit(1)
    if options.write and (options.sections or options.quick):
        console.print("The page is left as it is: this was not the whole of it. --only-write writes it nonetheless")
    elif options.write:
        page.write(results)


def _earlier(file: Path, *, quick: bool) -> Results:
    """Returns earlier results: of the file, or of the page."""
    for place in (file,) if quick else (file, page.FIGURES):
        if place.exists():
            try:
                return Results.load(place)
            except ValueError as error:
                raise SystemExit(f"{error} Delete it, or name another one with --json") from error
    return Results()


def _measure(console: Console, name: str, conditions: Conditions) -> Section:
    started, before = time.monotonic(), os.getloadavg()[0]
    with TemporaryDirectory(prefix="muster-bench-") as folder, console.status(f"{name} …"):
        file = Path(folder) / "figures.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.suite",
            name,
            "--section-file",
            str(file),
            *(["--quick"] if conditions.quick else []),
        ]
        log = Path(folder) / "log"
        with log.open("wb") as output:  # a pipe would be held open by what TFF leaves behind
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)  # noqa: S603  ourselves
        figures = Results.load(file).sections[name].figures if file.exists() else []
        if done.returncode:
            console.print(
                f"The section {name} was not finished; its log ends with:\n{log.read_text(errors='replace')[-3000:]}"
            )
    conditions = replace(
        conditions,
        load=(before, os.getloadavg()[0]),
        seconds=time.monotonic() - started,
        finished=done.returncode == 0,
    )
    section = Section(conditions, figures)
    show(console, name, section)
    return section


if __name__ == "__main__":
    main()
