"""Creates and caches the matrix's environments, one for each Python.

Each holds the wheel and the versions to which its extras resolve today.

An environment is a folder in `.matrix` whose name is a hash of the requirements. `--fresh` resolves
them again.
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
_INSTALL_SECONDS = 1200  # TensorFlow is a download of 500 MB
_MAX_SHOWN_OUTPUT = 2000  # characters, from its end, in an error
_TEST_TOOLS = ("ml-dtypes", "pytest", "pytest-timeout", "hypothesis", "werkzeug", "safetensors")
_SHOWN = ("tensorflow", "numpy", "protobuf", "pydantic", "typer", "keras")


class CommandError(RuntimeError):
    """Error raised when a command fails; its text is the end of the output."""


@dataclass(frozen=True)
class Wanted:
    """Row of the matrix.

    `extras` are those of muster-fl, `pins` are additional requirements, `demo` means that only
    `muster demo` runs.
    """

    name: str
    python: str
    extras: tuple[str, ...] = ("signing", "tensorflow", "zstd")
    pins: tuple[str, ...] = ()
    demo: bool = False

    @property
    def with_tensorflow(self) -> bool:
        """True if clients can work in it; otherwise it shows what runs without TensorFlow."""
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
    """Installed environment. `versions` holds those of the main packages, by name."""

    python: Path
    versions: dict[str, str]


def interpreter(version: str) -> Path | None:
    """Returns a Python of this minor version that can create environments, or None.

    It is searched on the PATH, in pyenv and in uv.
    """
    candidates = [shutil.which(f"python{version}"), *sorted(_pyenv().glob(f"versions/{version}.*/bin/python"))]
    if uv := shutil.which("uv"):
        command = [uv, "python", "find", "--system", version]
        located = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  a located tool
        candidates.append(located.stdout.strip() or None)
    code = f"import sys, venv, ensurepip; sys.exit('.'.join(map(str, sys.version_info[:2])) != {version!r})"
    for candidate in filter(None, candidates):
        if subprocess.run([str(candidate), "-c", code], capture_output=True, check=False).returncode == 0:  # noqa: S603
            return Path(candidate)
    return None


def _pyenv() -> Path:
    return Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))


def build_wheel() -> Path:
    """Builds a wheel of the checkout."""
    folder = KEPT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    return wheel


def make(wanted: Wanted, base: Path, wheel: Path, *, fresh: bool) -> Environment:
    """Returns the environment with this wheel installed.

    Args:
      wanted: The row of the matrix.
      base: The Python that creates the environment.
      wheel: The wheel to install.
      fresh: Create the environment again even if it exists.

    Raises:
      CommandError: The wheel can't be installed.
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


def run(*command: str, timeout: float = _INSTALL_SECONDS) -> str:
    """Runs a command outside the checkout and returns its stdout.

    No environment variable leads to the checkout.

    Raises:
      CommandError: The command failed or took too long.
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
        raise CommandError(f"{' '.join(command)}\n{done.stdout[-_MAX_SHOWN_OUTPUT:]}{done.stderr[-_MAX_SHOWN_OUTPUT:]}")
    return done.stdout


def outside() -> dict[str, str]:
    """Returns this process's environment variables, without those that lead Python here."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MUSTER_", "VIRTUAL_ENV", "PYTEST_"))
    }
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
