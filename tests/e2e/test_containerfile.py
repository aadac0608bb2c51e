"""The Containerfile's steps, done without a container engine in an empty folder: a function's image, which is served, and Muster's own package."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests
from support import direct
from support.containerfile import ROOT, of, variables
from support.environments import outside

from muster.bundles import build

ABSOLUTE = re.compile(r"(?<![\w.])/(build|function|venv)\b")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the steps are a shell's"),
    pytest.mark.xdist_group("containerfile"),
    pytest.mark.timeout(600),  # it installs the function's libraries
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the steps of the building stage were done, with its absolute paths moved there."""
    root = tmp_path_factory.mktemp("image")
    for rest in of("function-build", "COPY"):
        assert rest == "dist/bundles/${BUNDLE}.zip /build/bundle.zip"
        (made,) = (each for each in build(out=root / "bundles") if each.name == "client_api")
        (root / "build").mkdir()
        shutil.copy(made.path, root / "build/bundle.zip")
    for step in of("function-build", "RUN"):
        run(step, root)
    return root


def run(step: str, root: Path) -> None:
    """A step of a building stage, with its absolute paths moved to `root`."""
    moved = ABSOLUTE.sub(lambda found: f"{shlex.quote(str(root))}/{found[1]}", step)
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["sh", "-ec", moved], check=True, env=outside(PATH=search), cwd=root, timeout=600)  # noqa: S603, S607


def test_what_the_image_of_muster_up_is_built_from_makes_the_whole_package(tmp_path):
    for rest in of("up-build", "COPY"):
        *sources, target = rest.split()
        for source in sources:
            place = tmp_path / target.removeprefix("/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    (step,) = of("up-build", "RUN")
    libraries = "-r /build/requirements/up.txt"
    assert step.count(libraries) == 1
    # TensorFlow is too large for a test: what builds the wheel, which is small and pinned likewise, takes its place.
    run(step.replace(libraries, "-r /build/requirements/build.txt"), tmp_path)
    (package,) = (tmp_path / "venv/lib").glob("python*/site-packages/muster")
    assert (package / "_functions/client_api/main.py").is_file()
    assert (package / "_requirements/committer.txt").is_file()
    assert (tmp_path / "venv/bin/muster").is_file()


def test_the_steps_leave_a_compiled_function_and_no_pip(root):
    assert (root / "function/main.py").is_file()
    assert list((root / "function").rglob("__pycache__/main.*.pyc"))
    found = subprocess.run(  # noqa: S603
        [root / "venv/bin/python", "-m", "pip", "--version"], capture_output=True, timeout=300, check=False
    )
    assert found.returncode != 0


def test_the_command_serves_the_function_with_the_image_s_environment_and_nothing_else(root, tmp_path, nobodys_port):
    given = variables("function")
    assert given.pop("FUNCTION_TARGET") == "${FUNCTION}"
    settings = {
        "MUSTER_STATE": f"sqlite://{tmp_path}/state.db",
        "MUSTER_BLOBS": f"file://{tmp_path}/blobs",
        "MUSTER_QUEUE": f"local://{tmp_path}/queue.db",
        "MUSTER_SECRET": "5a" * 32,
    }
    environment = {**given, **settings, "FUNCTION_TARGET": "client_api", "PORT": str(nobodys_port)}
    environment["PATH"] = f"{root}{given['PATH']}"
    (command,) = of("function", "CMD")
    where = ABSOLUTE.sub(lambda found: f"{root}/{found[1]}", of("function", "WORKDIR")[0])
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            json.loads(command), executable=str(root / "venv/bin" / json.loads(command)[0]), cwd=where,
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        assert answered(f"http://127.0.0.1:{nobodys_port}/health", process), (tmp_path / "log").read_text()
        waiting = direct.post(f"http://127.0.0.1:{nobodys_port}/v1/populations/p:checkin", json={}, timeout=300).json()
        assert waiting["answer"]["reason"] == "no_task"
        (check,) = of("function", "HEALTHCHECK")
        program, *arguments = json.loads(check.partition("CMD ")[2])
        assert program == "python"
        subprocess.run([root / "venv/bin/python", *arguments], check=True, env=environment, timeout=300)  # noqa: S603
    finally:
        process.terminate()
        process.wait(120)


def answered(url: str, process: subprocess.Popen[bytes]) -> bool:
    pause = threading.Event()
    for _ in range(300):
        if process.poll() is not None:
            return False
        try:
            return direct.get(url, timeout=300).text == "ok\n"
        except requests.ConnectionError:
            pause.wait(0.1)
    return False
