"""Yardsticks without Muster: a file copied, and gunicorn with a bare application.

`python -m benchmarks.yardsticks HOST:PORT …` serves that application, with the same gunicorn worker
and threads as `muster up`. It responds to a GET with bytes from memory and discards what is PUT.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.crowd import SPAWN, processes_of
from benchmarks.figures import MEGABYTE
from muster.local.reserved_port import ReservedPort

_CHUNK = 1 << 18  # bytes
_TIMEOUT = 30.0  # seconds for a start


def copy_seconds(folder: Path, *, files: int, megabytes: float, repeats: int = 5) -> float:
    """Returns the median seconds of copying files one after another, from the page cache."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(bytes(max(1, round(megabytes * MEGABYTE))))
    target.mkdir()

    def once() -> None:
        for at in range(files):
            shutil.copyfile(source, target / str(at))

    try:
        return _median(once, repeats, before=lambda: [each.unlink() for each in target.iterdir()])
    finally:
        shutil.rmtree(target)
        source.unlink()


def http_seconds(folder: Path, *, clients: int, megabytes: float, repeats: int = 5) -> float:
    """Returns the median seconds in which clients each GET and PUT megabytes at the bare server.

    Two small requests stand for the check-in and the next one. Sessions, threads, processes and
    bodies are those of a round.
    """
    size = max(1, round(megabytes * MEGABYTE))
    processes = processes_of(clients)
    with bare_server(folder, size=size) as bare:
        lines, members = [], []
        for first in range(processes):
            mine, theirs = SPAWN.Pipe()
            share = len(range(first, clients, processes))
            members.append(SPAWN.Process(target=_members, args=(bare.url, share, size, theirs), daemon=True))
            lines.append(mine)
        for member in members:
            member.start()

        def once() -> None:
            for line in lines:
                line.send("go")
            for line in lines:
                line.recv()

        try:
            once()
            return _median(once, repeats)
        finally:
            for member in members:
                member.kill()
                member.join()


def _members(url: str, clients: int, size: int, line: Any) -> None:
    body = bytes(size)
    sessions = [requests.Session() for _ in range(clients)]

    def client(session: requests.Session) -> None:
        session.get(f"{url}/small").raise_for_status()
        with session.get(f"{url}/bytes", stream=True) as answer:
            got = bytearray()
            for piece in answer.iter_content(_CHUNK):
                got += piece
        session.put(f"{url}/bytes", data=body).raise_for_status()
        session.get(f"{url}/small").raise_for_status()

    with ThreadPoolExecutor(clients) as pool:
        while line.recv():
            list(pool.map(client, sessions))
            line.send("done")


@dataclass(frozen=True)
class Bare:
    """A bare server: its URL and its parent process."""

    url: str
    pid: int


@contextmanager
def bare_server(folder: Path, *, size: int, workers: int = 2, threads: int = 16) -> Iterator[Bare]:
    """Serves the bare application in separate processes."""
    with ReservedPort() as port, (folder / "bare.log").open("wb") as log:
        address = f"127.0.0.1:{port.number}"
        command = [sys.executable, "-m", "benchmarks.yardsticks", address, str(size), str(workers), str(threads)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # noqa: S603  ourselves
        try:
            _wait_for(f"http://{address}/small", process)
            yield Bare(f"http://{address}", process.pid)
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until, pause = time.monotonic() + _TIMEOUT, threading.Event()
    while process.poll() is None and time.monotonic() < until:
        try:
            requests.get(url, timeout=5).raise_for_status()
        except requests.ConnectionError:
            pause.wait(0.05)
        else:
            return
    raise SystemExit(f"The bare server did not start (code {process.poll()})")


def _median(once: Callable[[], object], repeats: int, *, before: Callable[[], object] = lambda: None) -> float:
    seconds = []
    for _ in range(repeats):
        before()
        started = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def bare_application(size: int) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """Responds to `/bytes` with `size` bytes, and to others with two; discards PUT bodies."""
    body = bytes(size)

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        big = environ["PATH_INFO"] == "/bytes"
        if environ["REQUEST_METHOD"] == "PUT":
            while environ["wsgi.input"].read(_CHUNK):
                pass
            big = False
        start_response("200 OK", [("Content-Length", str(size if big else 2))])
        return (body[at : at + _CHUNK] for at in range(0, size, _CHUNK)) if big else [b"ok"]

    return serve


def main() -> None:
    """Serves the application."""
    from muster.local.serving import serve

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("size", type=int, help="bytes that a GET gives")
    parser.add_argument("workers", type=int)
    parser.add_argument("threads", type=int)
    options = parser.parse_args()
    serve(
        lambda: bare_application(options.size),
        addresses=[options.address],
        workers=options.workers,
        threads=options.threads,
    )


if __name__ == "__main__":
    main()
