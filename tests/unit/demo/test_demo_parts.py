"""Folder, display, summary and policy of the demo."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from muster.demo.data import Score
from muster.demo.folder import Folder, ForeignFolderError
from muster.demo.progress import ProgressDisplay, TrainingProgress
from muster.demo.report import DemoReport, Kill, draw, paragraph
from muster.wire.messages import TaskPolicy
from muster.wire.tensors import decode

REPORT = DemoReport(
    clients=10,
    rounds=2,
    scores=(Score(2.3, 0.1), Score(1.0, 0.7), Score(0.3, 0.925)),
    held_out=359,
    kills=(Kill("client-03", 1), Kill("the coordinator", 2)),
    attempts=2,
    folded=16,
    up=169_000,
    down=1_300_000,
    killed_groups=3,
    back_seconds=3.21,
    training_seconds=9.0,
)


def test_folder_is_created_and_cleared(tmp_path):
    folder = Folder(tmp_path / "new" / "demo")
    folder.prepare()
    folder.picture.write_bytes(b"old")
    (folder.coordinator / "blobs").mkdir(parents=True)
    folder.prepare()
    assert [path.name for path in folder.root.iterdir()] == ["made-by-muster-demo.txt"]


@pytest.mark.parametrize("name", ["thesis.tex", "metrics.csv"])
def test_foreign_folder_is_refused_and_unchanged(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(ForeignFolderError, match="give another --out"):
        Folder(tmp_path).prepare()
    assert (tmp_path / name).read_text() == "years of work"


def test_foreign_file_in_a_demo_folder_is_refused_and_unchanged(tmp_path):
    Folder(tmp_path).prepare()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ForeignFolderError, match=r"notes\.txt"):
        Folder(tmp_path).prepare()
    assert (tmp_path / "notes.txt").exists()


def test_weights_file_holds_only_the_model(tmp_path):
    folder = Folder(tmp_path)
    folder.save_weights({"global_model_weights/trainable/0": [1.0], "finalizer/momentum": [2.0]})
    assert list(decode(folder.weights.read_bytes())) == ["0"]


def test_display_without_a_terminal_writes_plain_lines():
    stream = io.StringIO()
    with ProgressDisplay(Console(file=stream, soft_wrap=True)) as display:
        display.status("compiling")
        display.update(TrainingProgress(1, 3))
        display.round_done(
            TrainingProgress(1, 3, clients_in=8, goal=8, alive=9, loss=0.5, accuracy=0.75, up=84_500, down=2_000_000)
        )
        display.line("SIGKILL", style="bold red")
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "round 1 of 3: 8 clients in (goal 8), loss 0.500, accuracy 75.0%, 84.5 kB up, 2.0 MB down\n" in text
    assert text.count("\n") == 3


def test_display_in_a_terminal_shows_a_bar():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with ProgressDisplay(console) as display:
        display.update(TrainingProgress(2, 3, clients_in=4, goal=8, alive=9, loss=0.5, accuracy=0.75))
        display.line("an event")
        console.print(display)
    assert "round 2 of 3" in stream.getvalue()
    assert "an event" in stream.getvalue()


def test_summary_states_the_figures(tmp_path):
    text = paragraph(REPORT, seconds=40.4, folder=tmp_path)
    for expected in ("92.5%", "40 s", "169.0 kB", "1.3 MB", "client-03", "3.2 s", "no round was lost", str(tmp_path)):
        assert expected in text


@pytest.mark.slow
def test_picture_is_a_png(tmp_path):
    draw(REPORT.scores, REPORT.kills, to=tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("clients", [2, 3, 10, 20, 49, 500])
def test_policy_has_a_slot_for_each_client_and_a_lower_goal(tmp_path, clients):
    from muster.demo.run import Options, policy

    task_policy: TaskPolicy = policy(Options(clients=clients, rounds=2, out=tmp_path, seed=0))
    assert clients <= task_policy.cap <= clients + 1
    assert 1 <= task_policy.goal < clients
