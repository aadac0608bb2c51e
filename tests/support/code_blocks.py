"""Code blocks of Markdown pages, and a runner that executes the blocks of one page in order.

A comment before a block changes how it is run:

    <!-- not run: the reason -->
    <!-- in the background -->
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_COMMAND_SECONDS = 600  # TFF takes its time on a busy machine
_START_SECONDS = 120  # seconds
_DOCUMENTED_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class CodeBlock:
    """One fenced block of a page. `line` counts from 1; `note` is the comment before the block."""

    page: Path
    line: int
    language: str
    text: str
    note: str

    @property
    def reason_not_run(self) -> str:
        """The reason why the block is not run; empty if it is run."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else ""

    @property
    def in_background(self) -> bool:
        """True if the block's commands run until the end of the page."""
        return self.note == "in the background"

    @property
    def commands(self) -> list[str]:
        """The commands of a console block."""
        return [line.removeprefix("$ ") for line in self.text.splitlines() if line.startswith("$ ")]


def code_blocks(page: Path) -> list[CodeBlock]:
    """Returns the fenced blocks of a page that start at the first column."""
    text = page.read_text("utf-8")
    return [
        CodeBlock(page, text.count("\n", 0, match.start()) + 1, match["language"], match["text"], match["note"] or "")
        for match in _BLOCK.finditer(text)
    ]


@dataclass
class PageRunner:
    """Runs the blocks of one page in `folder`. Ends its background processes with the context.

    `muster up` gets a free port instead of the documented one; later blocks use its address.
    Python blocks of a page share their names, as in one session.
    """

    folder: Path
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _python: list[str] = field(default_factory=list)
    _url: str = _DOCUMENTED_URL

    def __post_init__(self) -> None:
        programs = self.folder / "bin"
        programs.mkdir()
        program = programs / "muster"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m muster.cli "$@"\n')
        program.chmod(0o755)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def run(self, block: CodeBlock) -> None:
        """Runs one block.

        Raises:
          AssertionError: A command of the block fails.
        """
        if block.language == "python":
            self._python.append(block.text.replace(_DOCUMENTED_URL, self._url))
            self._check(block, [sys.executable, "-c", "\n".join(self._python)])
        for command in block.commands if block.language == "console" else ():
            if block.in_background:
                self._start(command)
            else:
                self._check(block, ["bash", "-c", command])

    def _check(self, block: CodeBlock, command: list[str]) -> None:
        done = subprocess.run(  # noqa: S603  the project's own pages
            command,
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        where = f"{block.page.name}:{block.line}"
        assert done.returncode == 0, f"{where}: {command[-1]}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"

    def _start(self, command: str) -> None:
        log = self.folder / f"background-{len(self._processes)}.log"
        if command == "muster up":
            command = "muster up --port 0"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  the project's own pages
                ["bash", "-c", command],  # noqa: S607
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        if command.startswith("muster up"):
            self._url = self._address(process, log)

    def _address(self, process: subprocess.Popen[bytes], log: Path) -> str:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            address = re.search(r"http://[\w.]+:\d+", log.read_text("utf-8"))
            if address:
                return address[0]
            time.sleep(0.1)
        raise AssertionError(f"The coordinator did not start:\n{log.read_text('utf-8')}")

    def _environment(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "MUSTER_URL": self._url, "TF_CPP_MIN_LOG_LEVEL": "3"}
