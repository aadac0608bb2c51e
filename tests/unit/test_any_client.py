"""Client code on Python 3.9 and without POSIX. `make test-matrix` runs it on real systems."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from matrix import environments

ROOT = Path(__file__).parents[2]

# Simulates Windows, and a sandbox without fork.
BARE = """
import os, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "killpg", "setsid", "getuid", "geteuid"):
    if hasattr(os, name):
        delattr(os, name)
"""


@pytest.mark.slow
def test_package_compiles_on_python_3_9(tmp_path):
    python = environments.interpreter("3.9")
    if python is None:
        pytest.skip("Python 3.9 is not installed")
    code = (
        "import sys\nfor path in sys.argv[1:]:\n"
        "    with open(path, 'rb') as file:\n        compile(file.read(), path, 'exec')"
    )
    files = [*(ROOT / "client/muster").rglob("*.py"), *(ROOT / "tests/client").glob("conftest.py")]
    files += [
        ROOT / "tests/support/double.py",
        ROOT / "tests/support/plans.py",
        ROOT / "tests/matrix/cases.py",
        ROOT / "tests/matrix/member.py",
        ROOT / "tests/conftest.py",
    ]
    paths = [str(path) for path in files]
    done = subprocess.run(  # noqa: S603  our own code
        [str(python), "-c", code, *paths], capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["muster.client", "muster.operator", "muster.cli.app", "muster.runtime.stages"])
def test_imports_without_posix(module):
    done = subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", f"{BARE}import {module}"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-1000:]
