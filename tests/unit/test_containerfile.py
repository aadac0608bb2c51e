"""The Containerfile without a container engine: what it says, and its steps for a function done in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import requests

ROOT = Path(__file__).parents[2]
FUNCTIONS = ("client_api", "operator_api", "aggregator", "committer")
ABSOLUTE = re.compile(r"(?<![\w.])/(build|function|venv)\b")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the steps are a shell's")


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, with those before the first under ''."""
    lines = [line for line in (ROOT / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    found: dict[str, list[tuple[str, str]]] = {"": []}
    stage = ""
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.partition(" AS ")[2]
            found[stage] = []
        if word:
            found[stage].append((word, rest))
    return found


def of(stage: str, word: str) -> list[str]:
    return [rest for found, rest in stages()[stage] if found == word]


def variables(stage: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in of(stage, "ENV") for pair in shlex.split(rest))


def test_a_function_is_the_last_stage_so_that_it_is_built_where_none_is_named():
    assert list(stages())[-1] == "function"


@pytest.mark.parametrize("stage", ["function", "up"])
def test_images_run_as_nobody_without_build_tools_or_the_source(stage):
    instructions = stages()[stage]
    assert of(stage, "USER") == ["65532:65532"]
    words = [word for word, _ in instructions]
    assert words.index("USER") < words.index("CMD")
    assert all(rest.startswith(f"--from={stage}-build ") for rest in of(stage, "COPY"))
    assert not any("pip" in rest or "apt-get" in rest for rest in of(stage, "RUN"))
    assert "pip uninstall" in of(f"{stage}-build", "RUN")[-1]
    assert not any("SECRET" in name for name in variables(stage))
    (check,) = of(stage, "HEALTHCHECK")
    assert "/health'" in check


def test_everything_that_is_copied_is_there_and_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for name in stages()
        for rest in of(name, "COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }
    assert copied == {"dist/bundles/${BUNDLE}.zip"} | (allowed - {"dist/bundles/*.zip"})
    assert all((ROOT / name).exists() for name in copied if "$" not in name)


def test_the_image_of_up_starts_a_command_that_there_is():
    from typer.testing import CliRunner

    from muster.cli.app import app

    (command,) = of("up", "CMD")
    program, *arguments = json.loads(command)
    assert program == "muster"
    assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0


def bundle(path: Path, function: str) -> None:
    """A bundle as `muster bundle` writes it, whose requirements this environment has already."""
    folders = {ROOT / "functions/coordinator": "coordinator", ROOT / "client/muster": "muster"}
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as file:
        file.write(ROOT / "functions" / function / "main.py", "main.py")
        file.writestr("requirements.txt", "# nothing more\n")
        for folder, name in folders.items():
            for source in sorted(folder.rglob("*.py")):
                file.write(source, Path(name) / source.relative_to(folder))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the steps of the building stage were done, with its absolute paths moved there."""
    root = tmp_path_factory.mktemp("image")
    for rest in of("function-build", "COPY"):
        assert rest == "dist/bundles/${BUNDLE}.zip /build/bundle.zip"
        bundle(root / "build/bundle.zip", "client_api")
    for step in of("function-build", "RUN"):
        moved = ABSOLUTE.sub(lambda found: f"{shlex.quote(str(root))}/{found[1]}", step)
        search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(["sh", "-ec", moved], check=True, env={"PATH": search}, cwd=root, timeout=120)  # noqa: S603, S607
    return root


def test_the_steps_leave_a_compiled_function_and_no_pip(root):
    assert (root / "function/main.py").is_file()
    assert list((root / "function").rglob("__pycache__/main.*.pyc"))
    found = subprocess.run(  # noqa: S603
        [root / "venv/bin/python", "-m", "pip", "--version"], capture_output=True, timeout=60, check=False
    )
    assert found.returncode != 0


def test_the_command_serves_the_function_with_the_image_s_environment_and_nothing_else(root, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = variables("function")
    assert given.pop("FUNCTION_TARGET") == "${FUNCTION}"
    settings = {
        "MUSTER_STATE": f"sqlite://{tmp_path}/state.db",
        "MUSTER_BLOBS": f"file://{tmp_path}/blobs",
        "MUSTER_QUEUE": f"local://{tmp_path}/queue.db",
        "MUSTER_SECRET": "5a" * 32,
    }
    environment = {**given, **settings, "FUNCTION_TARGET": "client_api", "PORT": str(port)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{given['PATH']}"
    (command,) = of("function", "CMD")
    where = ABSOLUTE.sub(lambda found: f"{root}/{found[1]}", of("function", "WORKDIR")[0])
    # The libraries are this environment's, which has a checkout on its path; the sources must be the bundle's.
    environment["PYTHONPATH"] = where
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            json.loads(command), executable=str(Path(sys.executable).parent / json.loads(command)[0]), cwd=where,
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        assert answered(f"http://127.0.0.1:{port}/health", process), (tmp_path / "log").read_text()
        waiting = requests.post(f"http://127.0.0.1:{port}/v1/populations/p:checkin", json={}, timeout=10).json()
        assert waiting["answer"]["reason"] == "no_task"
        (check,) = of("function", "HEALTHCHECK")
        program, *arguments = json.loads(check.partition("CMD ")[2])
        assert program == "python"
        subprocess.run([sys.executable, *arguments], check=True, env=environment, timeout=30)  # noqa: S603
    finally:
        process.terminate()
        process.wait(20)


def answered(url: str, process: subprocess.Popen[bytes]) -> bool:
    pause = threading.Event()
    for _ in range(300):
        if process.poll() is not None:
            return False
        try:
            return requests.get(url, timeout=5).text == "ok\n"
        except requests.ConnectionError:
            pause.wait(0.1)
    return False
