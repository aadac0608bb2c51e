"""What the demo leaves to read: the picture and the closing paragraph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.demo.data import Score
from muster.demo.published import tff_is_here
from muster.terminal import size


@dataclass(frozen=True)
class Kill:
    """A kill: of whom (`client-03`, `the coordinator`), in which round."""

    whom: str
    round: int


@dataclass(frozen=True)
class DemoReport:
    """How a demo went.

    Attributes:
      scores: On the held-out digits: of the initial weights, then after each round.
      held_out: How many digits those are.
      kills: In the order of their time.
      attempts: Attempts at rounds in all; more than rounds, if some were abandoned.
      folded: Updates counted in all.
      killed_groups: The coordinator's processes that were killed with it.
      back_seconds: How long the coordinator took to be back.
    """

    clients: int
    rounds: int
    scores: tuple[Score, ...]
    held_out: int
    kills: tuple[Kill, ...]
    attempts: int
    folded: int
    up: int  # bytes
    down: int  # bytes
    killed_groups: int
    back_seconds: float
    training_seconds: float

    @property
    def accuracy(self) -> float:
        """What was reached, from 0 to 1."""
        return self.scores[-1].accuracy


def draw(scores: Sequence[Score], kills: Sequence[Kill], *, to: Path) -> None:
    """Draws accuracy and loss by round as a PNG, with the kills marked."""
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
            f"{kill.whom} killed",
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


def paragraph(story: DemoReport, *, seconds: float, folder: Path) -> str:
    """The closing words. `seconds`: what all of it took."""
    again = story.attempts - story.rounds
    check = (
        "`muster plan check muster.demo.computation:fed_avg --data muster.demo.data:datasets`; "
        if tff_is_here()
        else ""
    )
    survived = " ".join(_survived(kill, story) for kill in story.kills)
    lost = (
        "no round was lost or tried twice"
        if not again
        else f"{again} of {story.attempts} attempts at a round had to be made again"
    )
    return (
        f"{story.rounds} rounds of federated averaging over {story.clients} client processes, none of which showed its digits to "
        f"anybody, took the accuracy on {story.held_out} held-out digits from {story.scores[0].accuracy:.1%} to "
        f"{story.accuracy:.1%} in {seconds:.0f} s, {story.training_seconds:.0f} s of them training. Clients sent {size(story.up)} and fetched "
        f"{size(story.down)}. {survived} {story.folded} updates were counted, and {lost}. In {folder} are metrics.csv, accuracy.png, "
        f"the checkpoints and final_weights.safetensors. To try next: `muster demo --clients 20`; `muster plan show {folder / 'digits.plan'}`; "
        f"{check}then your own model, as the README shows."
    )


def _survived(kill: Kill, story: DemoReport) -> str:
    if kill.whom.startswith("client"):
        return f"{kill.whom} was killed while it worked on round {kill.round}, which closed without it."
    return (
        f"The coordinator, all {story.killed_groups} process groups of it, was killed in the middle of round {kill.round}; "
        f"{story.back_seconds:.1f} s later it was back and went on with that round."
    )
