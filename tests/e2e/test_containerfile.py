"""The steps of the Containerfile, run without a container engine in an empty folder.

They build a function's image, which is served, and the package for the image of `muster up`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import requests
from support import direct
from support.containerfile import ROOT, errors, of, variables
from support.environments import outside

from muster.bundles import build

ABSOLUTE = re.compile(r"(?<![\w.])/(build|function|venv)\b")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the steps run in a shell"),
    pytest.mark.xdist_group("containerfile"),
    pytest.mark.timeout(600),  # installs the function's libraries
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs the steps of the build stage in a folder, and returns the folder."""
    root = tmp_path_factory.mktemp("image")
    for arguments in of("function-build", "COPY"):
        assert arguments == "dist/bundles/${BUNDLE}.zip /build/bundle.zip"
        (bundle,) = (bundle for bundle in build(out=root / "bundles") if bundle.name == "client_api")
        (root / "build").mkdir()
        shutil.copy(bundle.path, root / "build/bundle.zip")
    for step in of("function-build", "RUN"):
        run(step, root)
    return root


def run(step: str, root: Path) -> None:
    """Runs a step of a build stage, with absolute paths moved to `root`."""
    moved = ABSOLUTE.sub(lambda match: f"{shlex.quote(str(root))}/{match[1]}", step)
    search = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["sh", "-ec", moved], check=True, env=outside(PATH=search), cwd=root, timeout=600)  # noqa: S603, S607


def test_image_of_muster_up_copies_the_whole_package(tmp_path):
    for arguments in of("up-build", "COPY"):
        *sources, target = arguments.split()
        for source in sources:
            folder = tmp_path / target.removeprefix("/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, folder)
    (step,) = of("up-build", "RUN")
    libraries = "-r /build/requirements/up.txt"
    assert step.count(libraries) == 1
    # TensorFlow is too large for a test. The small, pinned requirements of the build replace it.
    run(step.replace(libraries, "-r /build/requirements/build.txt"), tmp_path)
    (package,) = (tmp_path / "venv/lib").glob("python*/site-packages/muster")
    assert (package.parent / "muster_coordinator/application.py").is_file()
    assert (package / "_functions/client_api/main.py").is_file()
    assert (package / "_requirements/committer.txt").is_file()
    assert (tmp_path / "venv/bin/muster").is_file()


def test_image_holds_a_compiled_function_and_no_pip(root):
    assert (root / "function/main.py").is_file()
    assert list((root / "function").rglob("__pycache__/main.*.pyc"))
    pip = subprocess.run(  # noqa: S603
        [root / "venv/bin/python", "-m", "pip", "--version"], capture_output=True, timeout=300, check=False
    )
    assert pip.returncode != 0


def test_command_serves_the_function_with_only_the_image_s_environment(root, tmp_path, unused_port, request):
    image_variables = variables("function")
    assert image_variables.pop("FUNCTION_TARGET") == "${FUNCTION}"
    settings = {
        "MUSTER_STATE": f"sqlite://{tmp_path}/state.db",
        "MUSTER_BLOBS": f"file://{tmp_path}/blobs",
        "MUSTER_QUEUE": f"local://{tmp_path}/queue.db",
        "MUSTER_SECRET": "5a" * 32,
    }
    # Unless the image sets HOME, an engine sets it to /, where the image's user can't write. The
    # user of this test may write there, hence /dev/null. A socket needs a short path, hence no
    # tmp_path.
    home = tempfile.TemporaryDirectory()
    request.addfinalizer(home.cleanup)
    image_variables = {"HOME": "/dev/null", **image_variables}
    image_variables["HOME"] = image_variables["HOME"].replace("/tmp", home.name)  # noqa: S108
    environment = {**image_variables, **settings, "FUNCTION_TARGET": "client_api", "PORT": str(unused_port)}
    environment["PATH"] = f"{root}{image_variables['PATH']}"
    (command,) = of("function", "CMD")
    folder = ABSOLUTE.sub(lambda match: f"{root}/{match[1]}", of("function", "WORKDIR")[0])
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            json.loads(command), executable=str(root / "venv/bin" / json.loads(command)[0]), cwd=folder,
            env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        assert becomes_healthy(f"http://127.0.0.1:{unused_port}/health", process), (tmp_path / "log").read_text()
        checkin = direct.post(f"http://127.0.0.1:{unused_port}/v1/populations/p:checkin", json={}, timeout=300).json()
        assert checkin["answer"]["reason"] == "no_task"
        (check,) = of("function", "HEALTHCHECK")
        program, *arguments = json.loads(check.partition("CMD ")[2])
        assert program == "python"
        subprocess.run([root / "venv/bin/python", *arguments], check=True, env=environment, timeout=300)  # noqa: S603
        assert errors((tmp_path / "log").read_text()) == []
    finally:
        process.terminate()
        process.wait(120)


@pytest.mark.parametrize("engine", ["podman", "docker", "buildah"])
def test_script_builds_with_the_chosen_engine_and_keeps_the_health_check(tmp_path, engine):
    for name in ("podman", "docker", "buildah"):
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s " "${0##*/}" "$@"\necho\n')
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(  # noqa: S603
        [str(ROOT / "infra/images/build.sh"), "base@sha256:" + "5a" * 32, "--volume=/a:/b:ro"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "ENGINE": engine}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert all(line.startswith(f"{engine} build ") and " --volume=/a:/b:ro " in line for line in lines)
    # docker's only format has health checks; the default of the others has none.
    assert all((" --format docker " in line) == (engine != "docker") for line in lines)


@pytest.mark.parametrize(
    "line",
    [
        "[2026-11-30 10:00:00 +0000] [7] [ERROR] Control server error: [Errno 13] Permission denied: '/.gunicorn'",
        '{"severity": "ERROR", "message": "no"}',
        '{"level":"critical"}',
        "ERROR:muster:no",
        "Traceback (most recent call last):",
        "E0000 00:00:1.0 7 cpu.cc:1] no",
    ],
)
def test_errors_of_a_log_are_found(line):
    log = f'[2026-11-30 10:00:00 +0000] [7] [INFO] started\n{line}\n{{"severity": "INFO", "message": "no error"}}\n'
    assert errors(log) == [line]


def becomes_healthy(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Polls a health check. Returns False if the process ends or does not respond in time."""
    pause = threading.Event()
    for _ in range(300):
        if process.poll() is not None:
            return False
        try:
            return direct.get(url, timeout=300).text == "ok\n"
        except requests.ConnectionError:
            pause.wait(0.1)
    return False
