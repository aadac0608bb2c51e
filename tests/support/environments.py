"""Cache of virtual environments that hold the packages of a requirements.txt and nothing else.

They are stored in the test environment, in folders named by a hash of their content.
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

_CACHE = Path(sys.prefix) / "bundle-environments"
_TIMEOUT = 900  # seconds; TensorFlow is a download of 250 MB
_TAIL = 3000  # characters of pip's output in a failure


def environment_of(requirements: Path) -> Path:
    """Returns the environment's folder for a requirements.txt; installs it if not cached.

    Concurrent callers wait for the first one. The file `complete` is written last, so a folder
    without it is installed anew.
    """
    lines = sorted(line for line in requirements.read_text().splitlines() if line and not line.startswith("#"))
    name = hashlib.sha256("\n".join([sys.version, *lines]).encode()).hexdigest()[:16]
    folder = _CACHE / name
    _CACHE.mkdir(exist_ok=True)
    with (_CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, requirements)
            (folder / "complete").touch()
    return folder


def _make(folder: Path, requirements: Path) -> None:
    # The base interpreter, without the packages of the test environment.
    base = getattr(sys, "_base_executable", sys.executable)
    _run(base, "-m", "venv", str(folder))
    pip = (str(folder / "bin" / "python"), "-m", "pip")
    install = ("install", "--disable-pip-version-check", "--require-hashes", "--no-deps", "--quiet")
    _run(*pip, *install, "-r", str(requirements.absolute()))
    # --no-deps installs what the file lists; this checks that nothing is missing
    _run(*pip, "check")


def _run(*command: str) -> None:
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(  # noqa: S603  our own command
            command, check=False, capture_output=True, text=True, timeout=_TIMEOUT, env=outside(), cwd=elsewhere
        )
    assert done.returncode == 0, (command, done.stdout[-_TAIL:], done.stderr[-_TAIL:])


def outside(**variables: str) -> dict[str, str]:
    """Returns `variables` and those of this process that do not lead to this checkout."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MUSTER_", "VIRTUAL_ENV", "COV_", "PYTEST_"))
    }
    return {**inherited, **variables}
