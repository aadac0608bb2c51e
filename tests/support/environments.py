"""Virtual environments that hold what a requirements.txt says and nothing else, made once and kept beside the tests' own.

Each is in a folder named by what is in it, so that a second run finds it, and another version of a file gets another one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_KEPT = Path(sys.prefix) / "bundle-environments"
_INSTALLING = 900  # seconds; TensorFlow is 250 MB to fetch
_TAIL = 3000  # characters of pip's output that a failure shows


def environment_of(requirements: Path) -> Path:
    """The folder of the environment for a requirements.txt; installs it if no earlier run did.

    Another worker that asks meanwhile waits. A folder without its last file, the mark, is one that was not finished.
    """
    lines = sorted(line for line in requirements.read_text().splitlines() if line and not line.startswith("#"))
    name = hashlib.sha256("\n".join([sys.version, *lines]).encode()).hexdigest()[:16]
    folder = _KEPT / name
    _KEPT.mkdir(exist_ok=True)
    with (_KEPT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, requirements)
            (folder / "complete").touch()
    return folder


def _make(folder: Path, requirements: Path) -> None:
    # Of the interpreter itself, not of the tests' environment. Nothing of ours is on its path, and no cache of a user's.
    base = getattr(sys, "_base_executable", sys.executable)
    _run(base, "-m", "venv", str(folder))
    pip = (str(folder / "bin" / "python"), "-m", "pip")
    install = ("install", "--disable-pip-version-check", "--require-hashes", "--no-deps", "--quiet")
    _run(*pip, *install, "-r", str(requirements.absolute()))
    _run(*pip, "check")  # --no-deps took the file at its word; this says whether it is complete


def _run(*command: str) -> None:
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(  # noqa: S603  our own command
            command, check=False, capture_output=True, text=True, timeout=_INSTALLING, env=outside(), cwd=elsewhere
        )
    assert done.returncode == 0, (command, done.stdout[-_TAIL:], done.stderr[-_TAIL:])


def outside(**more: str) -> dict[str, str]:
    """This process's environment variables but those that would lead Python or the coordinator to this checkout."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MUSTER_", "VIRTUAL_ENV", "COV_", "PYTEST_"))
    }
    return {**kept, **more}
