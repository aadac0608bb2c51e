"""Writes figures between the markers of docs/benchmarks.md, with the plot and the data."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import figures
from benchmarks.figures import Figure, Results, text_of
from benchmarks.plot import plot

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"
PLOT = PAGE.with_suffix(".svg")
FIGURES = PAGE.with_suffix(".json")
_MARKED = "<!-- begin {name} -->\n{text}<!-- end {name} -->"
_NONE = "Not measured.\n"
_SIZED = "{clients:,} × 1 MB"  # the case whose bytes the table of costs has
_USUAL = 100  # clients, where the wanted round was not measured


def tables(results: Results) -> dict[str, str]:
    """Returns the Markdown of each marked section, by name."""
    plain = (
        figures.LINEAR,
        figures.FOLD,
        figures.FOLD_TOGETHER,
        figures.CHECKINS,
        figures.MEMORY,
        figures.SCALE,
        figures.DISTANCE,
        figures.COLD,
    )
    return {
        **{name: table(results.of(name)) for name in plain},
        figures.ROUNDS: _rounds(results),
        figures.PARTS: _crossed(results.of(figures.PARTS), "ms, medians and ranges", _cell),
        figures.BYTES: _bytes(results.of(figures.BYTES)),
        figures.CALLS: _calls(results),
        figures.ENCODINGS: _encodings(results),
        "conditions": conditions(results),
    }


def write(results: Results) -> None:
    """Rewrites the page, the plot, and the figures that both show."""
    text = PAGE.read_text()
    for name, markdown in tables(results).items():
        pattern = re.escape(f"<!-- begin {name} -->") + r"\n.*?" + re.escape(f"<!-- end {name} -->")
        parts = re.split(pattern, text, flags=re.DOTALL)
        if len(parts) != 2:
            raise SystemExit(f"{PAGE} has {len(parts) - 1} parts marked {name!r}; it must have one")
        text = _MARKED.format(name=name, text=markdown).join(parts)
    PAGE.write_text(text)
    plot(results, PLOT)
    results.save(FIGURES)


def conditions(results: Results) -> str:
    """Returns the table of when, where and how each section was measured."""
    conditions_of = {name: each.conditions for name, each in results.sections.items()}
    if not conditions_of:
        return _NONE
    minutes = sum(each.seconds for each in conditions_of.values()) / 60
    sessions = {each.session for each in conditions_of.values()}
    runs = "one session" if len(sessions) == 1 else f"{len(sessions)} sessions"
    machines = "; ".join(dict.fromkeys(each.machine for each in conditions_of.values()))
    lines = [
        f"Measured by `make bench` in {minutes:.0f} minutes, {runs}: {machines}.",
        "",
        "| section | date | seconds | load average at its start and end, its own processes included | |",
        "|---|---|---|---|---|",
    ]
    for name, each in conditions_of.items():
        odd = ", ".join(["a quick run"] * each.quick + ["not finished"] * (not each.finished))
        lines.append(f"| {name} | {each.date} | {each.seconds:.0f} | {each.load[0]:.1f}, {each.load[1]:.1f} | {odd} |")
    return "\n".join(lines) + "\n"


def table(figures_of: list[Figure]) -> str:
    """Returns a table of figures, one per line."""
    if not figures_of:
        return _NONE
    against = next((each.against for each in figures_of if each.against), "yardstick")
    lines = [f"| | median | range | target | beside {against} | |", "|---|---|---|---|---|---|"]
    for each in figures_of:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f} ×"
        lines.append(
            f"| {each.case} | {text_of(each.value)} {each.unit} | {range_of(each)} | {target_of(each)} "
            f"| {ratio} | {each.note} |"
        )
    return "\n".join(lines) + "\n"


def target_of(each: Figure) -> str:
    """Returns the target and whether it is met, as text."""
    if each.target is None:
        return ""
    return f"{'≤' if each.at_most else '≥'} {text_of(each.target)}: {'met' if each.met else '**missed**'}"


def range_of(each: Figure) -> str:
    """Returns the range and the number of samples, as text."""
    return f"{text_of(each.low)}–{text_of(each.high)} of {each.samples}" if each.samples > 1 else "one"


def _cell(each: Figure) -> str:
    return f"{text_of(each.value)} ({text_of(each.low)}–{text_of(each.high)})"


def _crossed(figures_of: list[Figure], head: str, cell: object) -> str:
    """Returns a table of figures whose cases are `row|column`."""
    if not figures_of:
        return _NONE
    assert callable(cell)
    by_name = {each.case: each for each in figures_of}
    rows, columns = (dict.fromkeys(case.split("|")[at] for case in by_name) for at in (0, 1))
    lines = [f"| {head} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = [by_name.get(f"{row}|{column}") for column in columns]
        lines.append(f"| {row} | {' | '.join('' if each is None else cell(each) for each in cells)} |")
    return "\n".join(lines) + "\n"


def _rounds(results: Results) -> str:
    """Returns rounds with their CPU time, beside Flower's from its separate session."""
    mine = results.of(figures.ROUNDS)
    if not mine:
        return _NONE
    cpu, other, other_cpu, memory = (
        {each.case: each for each in results.of(name)}
        for name in (figures.CPU, figures.FLOWER, figures.FLOWER_CPU, figures.FLOWER_MEMORY)
    )
    beside = results.conditions(figures.FLOWER)
    together = results.together(figures.ROUNDS, figures.FLOWER)
    dated = "" if beside is None or together else f", {beside.date}"
    lines = [
        (
            f"| clients × model | median s | range | target | beside a bare gunicorn | Flower{dated}: s "
            f"| Flower beside Muster | CPU ms, Muster | Flower{dated} | |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in mine:
        took, theirs, their_cpu, peak = (table_.get(each.case) for table_ in (cpu, other, other_cpu, memory))
        cells = [
            each.case,
            text_of(each.value),
            range_of(each),
            target_of(each),
            "" if each.ratio is None else f"{each.ratio:.1f} ×",
            "" if theirs is None else f"{text_of(theirs.value)} ({range_of(theirs)})",
            f"{theirs.value / each.value:.1f} ×" if theirs is not None and together else "",
            "" if took is None else f"{_cell(took)}{f', {target_of(took)}' if took.target else ''}",
            "" if their_cpu is None else text_of(their_cpu.value),
            each.note + ("" if peak is None else f"; Flower’s server {peak.value:,.0f} MB"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _bytes(figures_of: list[Figure]) -> str:
    """Returns bytes of a client's round."""

    def cell(each: Figure) -> str:
        return f"{each.value:,.0f} ({each.low:,.0f}–{each.high:,.0f}) | {each.ratio or 0:.1%}"

    text = _crossed(figures_of, "a client of a round", cell)
    return text.replace(
        "| down | up |\n|---|---|---|",
        "| down, bytes | of the model | up, bytes | of the model |\n|---|---|---|---|---|",
    )


def _calls(results: Results) -> str:
    """Returns calls and cost of a round in one table."""
    by_case = {each.case: each.value for each in results.of(figures.CALLS)}
    if not by_case:
        return _NONE
    sizes = list(dict.fromkeys(int(case.partition("|")[2]) for case in by_case))
    labels = [label for label in dict.fromkeys(case.partition("|")[0] for case in by_case) if label != "dollars"]
    calls = {size: [by_case[f"{label}|{size}"] for label in labels] for size in sizes}
    rows = {label: [f"{calls[size][at]:,.0f}" for size in sizes] for at, label in enumerate(labels)}
    rows["**calls of a round**, and for each contribution"] = [
        f"**{sum(calls[size]):,.0f}**, {sum(calls[size]) / size:.2f}" for size in sizes
    ]
    measured = {each.case: each.value for each in results.of(figures.BYTES)}
    sent = {
        way: {size: measured.get(f"{_SIZED.format(clients=size)}|{way}") for size in sizes} for way in ("down", "up")
    }
    usual = {way: measured.get(f"{_SIZED.format(clients=_USUAL)}|{way}") for way in sent}
    for way, name in (("down", "downloads"), ("up", "uploads")):
        rows[f"bytes that a client {name}, model of 1 MB"] = [
            _measured(measured, usual[way]) for measured in sent[way].values()
        ]
    dollars = [by_case[f"dollars|{size}"] for size in sizes]
    rows["**dollars for a million contributions**: calls"] = [f"**{each:.2f}**" for each in dollars]
    egress = [_egress(sent["down"][size] or usual["down"]) for size in sizes]
    rows["downloads of the model of 1 MB"] = ["" if each is None else f"{each:.2f}" for each in egress]
    rows["both"] = ["" if one is None else f"{each + one:.2f}" for each, one in zip(dollars, egress, strict=True)]
    lines = ["| a round of |" + "".join(f" {size:,} clients |" for size in sizes), "|---" * (len(sizes) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())]) + "\n"


def _measured(measured: float | None, usual: float | None) -> str:
    if measured is not None:
        return f"{measured:,.0f}"
    return "" if usual is None else f"({usual:,.0f})"


def _egress(size: float | None) -> float | None:
    from support.costs import egress_dollars  # loads the coordinator, which only this needs

    return None if size is None else egress_dollars(size)


def _encodings(results: Results) -> str:
    """Returns encoded sizes and speeds of each body."""
    encodes, decodes = (
        {each.case: each for each in results.of(name)} for name in (figures.ENCODINGS, figures.DECODINGS)
    )

    def cell(each: Figure) -> str:
        speeds = [measured[each.case].value for measured in (encodes, decodes) if each.case in measured]
        return f"{each.value:.1f} %: {', '.join(f'{speed:,.0f}' for speed in speeds)}"

    return _crossed(results.of(figures.SIZES), "left, %: encoded and decoded, MB/s", cell)
