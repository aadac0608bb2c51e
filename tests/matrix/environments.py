"""The matrix's environments: one for each Python, with the wheel and what its extras resolve to today, made once and kept.

Each is in a folder of `.matrix` that is named by what was asked for, so that other requirements get another one; `--fresh` resolves anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".matrix"
_INSTALLING = 1200  # seconds; TensorFlow is 500 MB to fetch
_TAIL = 2000  # characters of output that an error shows
_TEST_TOOLS = ("ml-dtypes", "pytest", "pytest-timeout", "hypothesis", "werkzeug", "safetensors")
_SHOWN = ("tensorflow", "numpy", "protobuf", "pydantic", "typer", "keras")


class CommandError(RuntimeError):
    """A command failed; the text is its end."""


@dataclass(frozen=True)
class Wanted:
    """One row of the matrix. `extras`: of muster-fl; `pins`: more requirements; `demo`: it runs `muster demo`, and no more."""

    name: str
    python: str
    extras: tuple[str, ...] = ("signing", "tensorflow", "zstd")
    pins: tuple[str, ...] = ()
    demo: bool = False

    @property
    def with_tensorflow(self) -> bool:
        """Whether it can work; else it is there to show what goes without."""
        return "tensorflow" in self.extras


ALL = (
    Wanted("3.9", "3.9"),
    Wanted("3.10", "3.10"),
    Wanted("3.11, oldest TensorFlow", "3.11", pins=("tensorflow==2.14.1",)),
    Wanted("3.11", "3.11"),
    Wanted("3.12", "3.12"),
    Wanted("3.13", "3.13"),
    Wanted("3.13, core only", "3.13", extras=()),
    Wanted("3.13, the demo", "3.13", extras=("demo", "server", "tensorflow"), demo=True),
)


@dataclass(frozen=True)
class Environment:
    """A made one. `versions`: of the packages that matter, by name."""

    python: Path
    versions: dict[str, str]


def interpreter(version: str) -> Path | None:
    """A Python of this minor version that can make environments: on the PATH, of pyenv or of uv; None if there is none."""
    candidates = [shutil.which(f"python{version}"), *sorted(_pyenv().glob(f"versions/{version}.*/bin/python"))]
    if uv := shutil.which("uv"):
        found = subprocess.run([uv, "python", "find", "--system", version], capture_output=True, text=True, check=False)  # noqa: S603
        candidates.append(found.stdout.strip() or None)
    code = f"import sys, venv, ensurepip; sys.exit('.'.join(map(str, sys.version_info[:2])) != {version!r})"
    for candidate in filter(None, candidates):
        if subprocess.run([str(candidate), "-c", code], capture_output=True, check=False).returncode == 0:  # noqa: S603
            return Path(candidate)
    return None


def _pyenv() -> Path:
    return Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))


def build_wheel() -> Path:
    """The checkout as a wheel."""
    folder = KEPT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    return wheel


def make(wanted: Wanted, base: Path, wheel: Path, *, fresh: bool) -> Environment:
    """The environment, with this very wheel in it.

    Args:
      wanted: What it is to hold.
      base: The Python that makes it.
      wheel: What is installed, never the checkout.
      fresh: Make it again even if there is one.

    Raises:
      CommandError: it can't be installed.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [str(base.resolve()), wanted.extras, wanted.pins, _TEST_TOOLS, project["dependencies"]]
    asked += [project["optional-dependencies"][extra] for extra in wanted.extras]
    folder = KEPT / f"{wanted.python}-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    complete = folder / "complete"
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if fresh or not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        run(str(base), "-m", "venv", str(folder))
        extras = f"[{','.join(wanted.extras)}]" if wanted.extras else ""
        run(*pip, f"{wheel}{extras}", *wanted.pins, *_TEST_TOOLS)
        run(str(python), "-m", "pip", "check")
        complete.touch()
    else:
        run(*pip, "--no-deps", "--force-reinstall", str(wheel))
    listed = json.loads(run(str(python), "-m", "pip", "list", "--disable-pip-version-check", "--format", "json"))
    versions = {item["name"]: item["version"] for item in listed}
    return Environment(python, {name: versions[name] for name in _SHOWN if name in versions})


def run(*command: str, timeout: float = _INSTALLING) -> str:
    """Runs a command outside the checkout, with nothing in its environment that leads there; returns its stdout.

    Raises:
      CommandError: it failed, or took too long.
    """
    try:
        done = subprocess.run(  # noqa: S603  our own commands
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            cwd=KEPT,
            env=outside(),
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{command[0]} {' '.join(command[1:4])} … took over {timeout:.0f} s") from error
    if done.returncode:
        raise CommandError(f"{' '.join(command)}\n{done.stdout[-_TAIL:]}{done.stderr[-_TAIL:]}")
    return done.stdout


def outside() -> dict[str, str]:
    """This process's environment variables but those that lead Python to this checkout or its environment."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MUSTER_", "VIRTUAL_ENV", "PYTEST_"))
    }
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
