"""Output folder of a simulation."""

from __future__ import annotations

from muster.simulation.record import Record


def test_bytes_are_written_unchanged(tmp_path):
    record = Record(tmp_path / "out")
    record.checkpoint(0, b"state")
    record.result(1, b"result")
    assert (tmp_path / "out/checkpoints/0.safetensors").read_bytes() == b"state"
    assert (tmp_path / "out/results/1.safetensors").read_bytes() == b"result"


def test_column_of_a_later_row_is_added(tmp_path):
    record = Record(tmp_path)
    record.row({"round": 1, "loss": 0.5})
    assert (tmp_path / "metrics.csv").read_text() == "round,loss\n1,0.5\n"
    record.row({"round": 2, "accuracy": 0.25})
    assert (tmp_path / "metrics.csv").read_text() == "round,loss,accuracy\n1,0.5,\n2,,0.25\n"


def test_only_an_earlier_run_is_replaced(tmp_path):
    earlier = Record(tmp_path)
    earlier.checkpoint(9, b"old")
    earlier.row({"round": 9})
    (tmp_path / "checkpoints/mine.safetensors").write_bytes(b"kept")
    Record(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["mine.safetensors"]
    assert not (tmp_path / "metrics.csv").exists()


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = Record(None)
    record.checkpoint(0, b"state")
    record.row({"round": 1})
    assert list(tmp_path.iterdir()) == []
