"""Writes what a run measured into docs/benchmarks.md, between its markers, and its plot beside it."""

from __future__ import annotations

import re
from pathlib import Path

import figures as names
from figures import Figure, Results, text_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
PLOT = PAGE.with_suffix(".svg")
_MARKED = "<!-- begin {name} -->\n{text}<!-- end {name} -->"


def tables(results: Results) -> dict[str, str]:
    """The Markdown of each marked part, by its name."""
    made = {
        name: table(results.of(name))
        for name in (names.FOLD, names.CHECKINS, names.MEMORY, names.SCALE, names.DISTANCE)
    }
    made[names.ROUNDS] = _rounds(results)
    made[names.PARTS] = _simple(results.of(names.PARTS), "part of a round of 2 clients", "ms")
    made[names.COLD] = _simple(results.of(names.COLD), "what starts", "seconds", note=True)
    made[names.CALLS] = _calls(results)
    made["conditions"] = conditions(results)
    return made


def write(results: Results) -> None:
    """Rewrites the page and the plot."""
    text = PAGE.read_text()
    for name, made in tables(results).items():
        pattern = re.escape(f"<!-- begin {name} -->") + r"\n.*?" + re.escape(f"<!-- end {name} -->")
        parts = re.split(pattern, text, flags=re.DOTALL)
        if len(parts) != 2:
            raise SystemExit(f"{PAGE} has {len(parts) - 1} parts marked {name!r}; it must have one")
        text = _MARKED.format(name=name, text=made).join(parts)
    PAGE.write_text(text)
    plot(results)


def conditions(results: Results) -> str:
    """In a line what the run was made on."""
    found = results.conditions
    load = ", ".join(
        f"{section} {' to '.join(f'{each:.1f}' for each in loads)}" for section, loads in found.load.items()
    )
    return (
        f"Written by `make bench` on {found.date}: {found.cores} cores, {found.memory_gb:.0f} GB, {found.system}, Python {found.python}; "
        f"load average from the start to the end of each section (the benchmark's own processes included): {load}{' (a quick run)' if found.quick else ''}.\n"
    )


def table(figures: list[Figure]) -> str:
    """A section as Markdown."""
    if not figures:
        return "Not measured in this run.\n"
    against = next((each.against for each in figures if each.against), "yardstick")
    lines = [f"| | median | range | target | beside {against} | |", "|---|---|---|---|---|---|"]
    for each in figures:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f} ×"
        lines.append(
            f"| {each.case} | {text_of(each.value)} {each.unit} | {_range(each)} | {target_of(each)} | {ratio} | {each.note} |"
        )
    return "\n".join(lines) + "\n"


def target_of(each: Figure) -> str:
    """The target and whether it is met."""
    if each.target is None:
        return ""
    return f"{'≤' if each.at_most else '≥'} {text_of(each.target)}: {'met' if each.met else '**missed**'}"


def _range(each: Figure) -> str:
    return f"{text_of(each.low)}–{text_of(each.high)} of {each.samples}" if each.samples > 1 else "one"


def _rounds(results: Results) -> str:
    cpu = {each.case: each for each in results.of(names.CPU)}
    other = {each.case: each for each in results.of(names.FLOWER)}
    memory = {each.case: f"; Flower's server {each.value:,.0f} MB" for each in results.of(names.FLOWER_MEMORY)}
    other_cpu = {each.case: each for each in results.of(names.FLOWER_CPU)}
    lines = [
        "| clients × model | median s | range | target | beside a bare gunicorn | Flower s | Flower beside Muster | CPU ms, Muster | Flower | |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in results.of(names.ROUNDS):
        beside, took = other.get(each.case), other_cpu.get(each.case)
        mine = cpu[each.case]
        lines.append(
            f"| {each.case} | {text_of(each.value)} | {_range(each)} | {target_of(each)} | {each.ratio or 0:.1f} × | "
            f"{text_of(beside.value) if beside else ''} | {f'{beside.value / each.value:.1f} ×' if beside else ''} | "
            f"{text_of(mine.value)}{f' ({target_of(mine)})' if mine.target else ''} | {text_of(took.value) if took else ''} | {each.note}{memory.get(each.case, '')} |"
        )
    return "\n".join(lines) + "\n"


def _simple(figures: list[Figure], head: str, unit: str, *, note: bool = False) -> str:
    lines = [f"| {head} | median {unit} | range |{' |' * note}", f"|---|---|---|{'---|' * note}"]
    lines += [f"| {each.case} | {text_of(each.value)} | {_range(each)} |{f' {each.note} |' * note}" for each in figures]
    return "\n".join(lines) + "\n"


def _calls(results: Results) -> str:
    by_label: dict[str, list[Figure]] = {}
    for each in results.of(names.CALLS):
        by_label.setdefault(each.case.partition("|")[0], []).append(each)
    if not by_label:
        return "Not measured in this run.\n"
    sizes = [each.case.partition("|")[2] for each in next(iter(by_label.values()))]
    lines = ["| for each contribution, in a round of |" + "".join(f" {int(size):,} clients |" for size in sizes)]
    lines.append("|---" * (len(sizes) + 1) + "|")
    for label, figures in by_label.items():
        name = "**dollars for a million contributions, calls alone**" if label == "dollars" else label
        lines.append(f"| {name} |" + "".join(f" {each.value:.2f} |" for each in figures))
    down = {each.case: each for each in results.of(names.BYTES)}
    lines += [
        "",
        "| a client of a round | downloads, bytes | uploads, bytes | egress, dollars for a million |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(case.rpartition(",")[0] for case in down):
        got, sent = down[f"{name}, downloaded"].value, down[f"{name}, uploaded"].value
        lines.append(f"| {name} | {got:,.0f} | {sent:,.0f} | {got * 1e6 / 2**30 * 0.12:,.2f} |")
    return "\n".join(lines) + "\n"


def plot(results: Results) -> None:
    """Round seconds by case, on a logarithmic scale."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "muster"  # the same figures give the same file
    mine = results.of(names.ROUNDS)
    other = {each.case: each.value for each in results.of(names.FLOWER)}
    figure, axes = plt.subplots(figsize=(7, 3.4))
    places, width = range(len(mine)), 0.27
    bars = [
        ("bare gunicorn, same bytes", "#b9c4cf", {each.case: each.yardstick or 0.0 for each in mine}, -width),
        ("Muster", "#1f6feb", {each.case: each.value for each in mine}, 0.0),
        ("Flower", "#d98324", other, width),
    ]
    for label, colour, values, offset in bars:
        shown = [(at + offset, values[each.case]) for at, each in zip(places, mine, strict=True) if each.case in values]
        if shown:
            drawn = axes.bar([at for at, _ in shown], [value for _, value in shown], width, label=label, color=colour)
            axes.bar_label(drawn, fmt=text_of, fontsize=7)
    axes.set_yscale("log")
    axes.set_xticks(list(places), [each.case.replace(" × ", "\n× ") for each in mine])
    axes.set_ylabel("seconds a round (log)")
    axes.set_xlabel("clients × model")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)
