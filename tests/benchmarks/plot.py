"""Draws the plot of docs/benchmarks.md: rounds beside Flower and a bare server, and scaling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.figures import Figure, Results, text_of

_BARE, _MUSTER, _FLOWER = "#b9c4cf", "#1f6feb", "#d98324"
_LINES = (_MUSTER, "#2b8a3e", "#6f42c1")  # by the number of clients; none is Flower's
_BAR = 0.27


def plot(results: Results, file: Path) -> None:
    """Draws the figures that exist. The same figures yield the same file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "muster"
    mpl.rcParams["font.size"] = 8
    drawn, (rounds, scale) = plt.subplots(1, 2, figsize=(9.6, 3.7), width_ratios=(2.4, 1))
    _draw_rounds(rounds, results)
    _draw_scale(scale, results)
    for axes in (rounds, scale):
        axes.spines[["top", "right"]].set_visible(False)
    drawn.tight_layout()
    drawn.savefig(file, metadata={"Date": None})
    plt.close(drawn)


def _draw_rounds(axes: Any, results: Results) -> None:
    """Draws medians as bars on a logarithmic scale, with ranges as lines."""
    mine = [each for each in results.of(figures.ROUNDS) if "," not in each.case.partition("×")[2]]
    theirs = {each.case: each for each in results.of(figures.FLOWER)}
    if not mine:
        return
    flower = results.conditions(figures.FLOWER)
    together = results.together(figures.ROUNDS, figures.FLOWER)
    name = "Flower" if flower is None or together else f"Flower, {flower.date}"
    _bars(
        axes,
        [(at, each.yardstick or 0, 0.0, 0.0) for at, each in enumerate(mine)],
        -_BAR,
        "bare gunicorn, same bytes",
        _BARE,
    )
    _bars(axes, [_spread(at, each) for at, each in enumerate(mine)], 0.0, "Muster", _MUSTER)
    others = [_spread(at, theirs[each.case]) for at, each in enumerate(mine) if each.case in theirs]
    _bars(axes, others, _BAR, name, _FLOWER)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 1.6)  # room for the numbers
    axes.set_xticks(range(len(mine)), [each.case.replace(" × ", "\n× ") for each in mine])
    axes.set_ylabel("seconds a round, median and range (log)")
    axes.set_xlabel("clients × model")
    axes.legend(frameon=False, loc="upper left")


def _spread(at: int, each: Figure) -> tuple[int, float, float, float]:
    return at, each.value, each.value - each.low, each.high - each.value


def _bars(axes: Any, values: list[tuple[int, float, float, float]], offset: float, label: str, colour: str) -> None:
    if not values:
        return
    places, heights, below, above = zip(*values, strict=True)
    spread = [below, above] if any(below) or any(above) else None
    axes.bar(
        [at + offset for at in places],
        heights,
        _BAR,
        yerr=spread,
        label=label,
        color=colour,
        error_kw={"elinewidth": 0.8, "capsize": 2, "ecolor": "#333333"},
    )
    for at, height, _, more in values:
        axes.annotate(
            text_of(height), (at + offset, height + more), (0, 2), textcoords="offset points", ha="center", fontsize=7
        )


def _draw_scale(axes: Any, results: Results) -> None:
    """Draws milliseconds per client by the number of clients in a round: flat is linear."""
    lines: dict[str, list[tuple[int, Figure]]] = {}
    for each in (*results.of(figures.LINEAR), *results.of(figures.SCALE)):
        clients, _, kind = each.case.partition(" × " if each.table == figures.LINEAR else " clients, ")
        if "CPU" not in kind:
            lines.setdefault(f"model of {kind}" if each.table == figures.LINEAR else f"small model, {kind}", []).append(
                (int(clients.replace(",", "")), each)
            )
    most = 0.0
    for (label, points), colour in zip(lines.items(), _LINES, strict=False):
        places = [clients for clients, _ in points]
        spread = [[each.value - each.low for _, each in points], [each.high - each.value for _, each in points]]
        axes.errorbar(
            places,
            [each.value for _, each in points],
            yerr=spread,
            marker="o",
            ms=3.5,
            lw=1.2,
            capsize=2,
            label=label,
            color=colour,
        )
        most = max(most, *(each.high for _, each in points))
    if not lines:
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(0, 1.5 * most)
    axes.set_xlabel("clients in one round (log)")
    axes.set_ylabel("ms a client, median and range")
    axes.legend(frameon=False, loc="upper right")
