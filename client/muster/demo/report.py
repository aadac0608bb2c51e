"""Results of the demo: a plot and a summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.demo.data import Score
from muster.demo.published import tff_is_here
from muster.terminal import size


@dataclass(frozen=True)
class Kill:
    """Kill of a client (`client-03`) or of `the coordinator`, in a round."""

    target: str
    round: int


@dataclass(frozen=True)
class DemoReport:
    """Figures of a finished demo.

    Attributes:
      clients: Client processes.
      rounds: Committed rounds.
      scores: Scores on held-out digits: of the initial weights, then after each round.
      held_out: Held-out digits.
      kills: The kills, in order.
      attempts: Attempts of all rounds; more than `rounds`, if some were abandoned.
      folded: Counted updates of all rounds.
      up: Bytes uploaded by clients.
      down: Bytes downloaded by clients.
      killed_groups: Processes of the coordinator that were killed.
      back_seconds: Seconds from the kill of the coordinator until it answered again.
      training_seconds: Seconds of training.
    """

    clients: int
    rounds: int
    scores: tuple[Score, ...]
    held_out: int
    kills: tuple[Kill, ...]
    attempts: int
    folded: int
    up: int
    down: int
    killed_groups: int
    back_seconds: float
    training_seconds: float

    @property
    def accuracy(self) -> float:
        """Returns the final accuracy, from 0 to 1."""
        return self.scores[-1].accuracy


def draw(scores: Sequence[Score], kills: Sequence[Kill], *, to: Path) -> None:
    """Writes a PNG of accuracy and loss by round, with the kills marked."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    rounds = range(len(scores))
    accuracy = axes.plot(rounds, [100 * score.accuracy for score in scores], "o-", color="tab:blue", label="accuracy")
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on held-out digits, %")
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    right = axes.twinx()
    loss = right.plot(rounds, [score.loss for score in scores], "s--", color="tab:orange", label="loss", markersize=4)
    right.set_ylabel("loss on held-out digits")
    right.set_ylim(bottom=0)
    for kill in kills:
        # In the middle of round n: between the checkpoints n - 1 and n.
        axes.axvline(kill.round - 0.5, color="tab:red", linestyle=":")
        axes.annotate(
            f"{kill.target} killed",
            (kill.round - 0.5, 25),
            xytext=(3, 0),
            textcoords="offset points",
            rotation=90,
            color="tab:red",
            fontsize=8,
            va="bottom",
        )
    axes.legend(handles=[*accuracy, *loss], loc="center right")
    axes.set_title("Federated averaging over client processes")
    figure.savefig(to)
    plt.close(figure)


def paragraph(report: DemoReport, *, seconds: float, folder: Path) -> str:
    """Returns the summary for the user, one idea per line. `seconds`: the duration of the demo."""
    first, last = report.scores[0].accuracy, report.accuracy
    retries = report.attempts - report.rounds
    lost = (
        "no round was lost or tried twice" if not retries else f"{retries} of {report.attempts} attempts were retried"
    )
    lines = [
        f"{report.rounds} rounds of federated averaging over {report.clients} client processes are done.",
        f"They took {seconds:.0f} s, of which {report.training_seconds:.0f} s were training.",
        f"The accuracy on {report.held_out} held-out digits rose from {first:.1%} to {last:.1%}.",
        f"Clients kept their digits. They uploaded {size(report.up)} and downloaded {size(report.down)}.",
        *(_survived(kill, report) for kill in report.kills),
        f"{report.folded} updates were counted, and {lost}.",
        "",
        f"Results are in {folder}: metrics.csv, accuracy.png, checkpoints/ and final_weights.safetensors.",
        "Next steps:",
        "  muster demo --clients 20",
        f"  muster plan show {folder / 'digits.plan'}",
        "  your own model: docs/tutorial/own-model.md",
    ]
    if tff_is_here():
        lines.insert(-1, "  muster plan check muster.demo.computation:fed_avg --data muster.demo.data:datasets")
    return "\n".join(lines)


def _survived(kill: Kill, report: DemoReport) -> str:
    if kill.target.startswith("client"):
        return f"{kill.target} was killed while it worked on round {kill.round}. The round closed without it."
    return (
        f"The coordinator ({report.killed_groups} process groups) was killed during round {kill.round}. "
        f"It was back after {report.back_seconds:.1f} s and resumed the round."
    )
