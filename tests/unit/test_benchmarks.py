"""The benchmarks' own code: comparable figures, the page, and measurements of processes."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from benchmarks import figures, fold, memory, page, processes
from benchmarks.counted_session import CountedSession

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
CASE = "100 × 1 MB"
LINE = (
    '{"clients": 100, "model_mb": 1.0, "round_s": [9, 20, 22], "server_cpu_s_per_client_round": 0.2, '
    '"server_peak_rss_mb": 800, "version": "1.41"}'
)


@pytest.fixture
def results():
    """Rounds, and Flower's of the same session."""
    conditions = figures.Conditions("now", "28 November 2026", "a machine", quick=False, finished=True)

    def figure(table, value, case=CASE):
        return figures.figure(table, case, [value, 2 * value, 3 * value], "s")

    rounds = [figure(figures.ROUNDS, 0.5), figure(figures.CPU, 5.0), figure(figures.BYTES, 1000.0, f"{CASE}|down")]
    flower = [figure(figures.FLOWER, 10.0), figure(figures.FLOWER_CPU, 200.0), figure(figures.FLOWER_MEMORY, 800.0)]
    return figures.Results(
        {figures.ROUNDS: figures.Section(conditions, rounds), figures.FLOWER: figures.Section(conditions, flower)}
    )


def test_flower_is_compared_within_one_session_only(results):
    assert "| 20.0 × |" in page.tables(results)["rounds"]
    old = results.sections["flower"]
    results.sections["flower"] = replace(old, conditions=replace(old.conditions, session="then", date="1 May 2020"))
    text = page.tables(results)["rounds"]
    assert "Flower, 1 May 2020" in text
    assert "20 (10–30 of 3)" in text
    assert "20.0 ×" not in text
    assert "| flower | 1 May 2020 |" in page.tables(results)["conditions"]


def test_page_of_an_unfinished_section(results):
    section = results.sections["rounds"]
    for count in range(len(section.figures) + 1):
        results.sections["rounds"] = replace(section, figures=section.figures[:count])
        assert page.tables(results)["rounds"]
    assert page.tables(figures.Results())["conditions"] == "Not measured.\n"


def test_page_has_markers_for_each_table():
    text = PAGE.read_text()
    for name in page.tables(figures.Results()):
        assert text.count(f"<!-- begin {name} -->") == text.count(f"<!-- end {name} -->") == 1, name


def test_saved_figures_are_read_again(results, tmp_path):
    results.save(tmp_path / "figures.json")
    assert figures.Results.load(tmp_path / "figures.json") == results
    (tmp_path / "other.json").write_text('{"figures": []}')
    with pytest.raises(ValueError, match="no figures of this benchmark"):
        figures.Results.load(tmp_path / "other.json")


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 3])
def test_partial_run_leaves_the_page_unchanged(code, tmp_path):
    peer, file = tmp_path / "flower.sh", tmp_path / "figures.json"
    peer.write_text(f"echo '{LINE}'; exit {code}\n")
    before = PAGE.read_bytes()
    done = subprocess.run(  # noqa: S603  ourselves
        [sys.executable, "-m", "benchmarks.suite", "flower", "--write", "--json", str(file)],
        cwd=ROOT / "tests",
        env={**os.environ, "MUSTER_PEER_FLOWER": str(peer)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == bool(code), done.stdout + done.stderr
    assert PAGE.read_bytes() == before
    section = figures.Results.load(file).sections["flower"]
    assert section.conditions.finished == (code == 0)
    assert [each.value for each in section.figures] == [21, 200, 800]


class Echo(BaseHTTPRequestHandler):
    """Answers anything with a thousand zeros, encoded."""

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.compress(bytes(1000))
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Pieces:
    """A body of three pieces, as an update is sent."""

    def __len__(self):
        return 300

    def __iter__(self):
        return iter([memoryview(bytes(100))] * 3)


def test_bytes_are_counted_as_encoded():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with CountedSession() as session:
            url = f"http://127.0.0.1:{server.server_port}/"
            assert session.put(url, data=Pieces(), headers={"Content-Length": "300"}).content == bytes(1000)
            assert session.put(url, data=b"12345").content == bytes(1000)
            assert session.taken() == (2 * len(gzip.compress(bytes(1000))), 305)
            assert session.taken() == (0, 0)
    finally:
        server.shutdown()
        server.server_close()


def test_cpu_time_between_two_times():
    pause = threading.Event()
    with processes.CpuWatch([os.getpid()]) as watch:
        while len(watch._times) < 3:
            pause.wait(0.01)
        spent = processes.cpu_seconds([os.getpid()])
        while processes.cpu_seconds([os.getpid()]) < spent + 0.1:
            pass
        while len(watch._times) < 30:
            pause.wait(0.01)
    assert watch.between(watch._times[0], watch._times[-1]) >= 0.1
    with pytest.raises(ValueError, match="No sample at"):
        watch.between(0.0, watch._times[-1])


@pytest.mark.slow
def test_fold_benchmark_runs_every_step(monkeypatch):
    monkeypatch.setattr(fold, "_LIMIT", 3)
    seconds = fold.measure(fold.Case(megabytes=1, tensors=2), repeats=1, tensorflow=False)
    assert {step: len(values) for step, values in seconds.items()} == {"add": 1, "fold": 1, "checked": 1, "part": 1}


@pytest.mark.slow
def test_memory_benchmark_measures_both_roles():
    peaks = memory.measure(3, 1)
    assert {role: len(values) for role, values in peaks.items()} == {"aggregator": 1, "committer": 1}
    assert all(peak.base > 0 for (peak,) in peaks.values())
