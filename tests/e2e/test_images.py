"""The images: built by buildah, run without a container engine, and used for rounds.

`MUSTER_IMAGE_BASE` names the base image with its digest, or is `debian` for one that is made from
Debian's packages. Without it, every test here is skipped: they take 13 minutes or more, and 15 GB.
With it, a missing tool is a failure.

The tests need Linux, root, buildah and util-linux, and `debian` needs debootstrap. Builds use
buildah's chroot isolation and its `vfs` storage, which need no privileges beyond root's. A
container is a process in its own mount and process namespace, whose root is the image's files,
read-only. It has the network of this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil
import pytest
import requests
from support import direct
from support.containerfile import ROOT, errors
from support.deployed import ProtocolCaller, local_deployment
from support.plans import folded_by_graphs

import muster.smoke
from muster.bundles import build
from muster.wire.plan import Plan
from muster.wire.tensors import decode, encode

BASE = os.environ.get("MUSTER_IMAGE_BASE", "")
pytestmark = [
    pytest.mark.skipif(not BASE, reason="MUSTER_IMAGE_BASE names no base image: run `make test-images` as root"),
    pytest.mark.xdist_group("images"),
    pytest.mark.timeout(3600),  # builds six images, of which three have TensorFlow
]
USER = 65532
PLAN = Plan.load(Path(__file__).resolve().parents[1] / "data" / "client_ids_sum.plan")
CLIENTS = 6
GRACE = 20.0  # seconds from SIGTERM to the end, as in the docs' manifest
START = 180.0  # seconds until an image answers; TensorFlow loads slowly
# Most megabytes that an image may add to its base image
LIMITS = {
    "muster-client-api": 200,
    "muster-operator-api": 200,
    "muster-aggregator": 200,
    "muster-aggregator-tensorflow": 1900,
    "muster-committer": 1900,
    "muster-up": 1900,
}
# Arguments: the image's files, the folder for /data, then the command and its arguments.
CONTAINER = """
set -eu
root=$1 data=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mkdir -p "$root/data"
mount --bind "$data" "$root/data"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero random urandom; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -o remount,bind,ro "$root"
exec chroot --userspec=65532:65532 --groups= "$root" "$@"
"""


@dataclass(frozen=True)
class Image:
    """Built image: its files, and its configuration as engines read it."""

    root: Path
    config: Mapping[str, Any]

    def command(self, settings: Mapping[str, str], command: Sequence[str]) -> list[str]:
        """Returns a command with the image's environment and folder, to be run in the image."""
        own = dict(pair.split("=", 1) for pair in self.config["Env"])
        # The user has no entry in /etc/passwd, for which engines set HOME=/.
        environment = {"HOME": "/", **own, **settings}
        folder = f"--chdir={self.config['WorkingDir'] or '/'}"
        return ["/usr/bin/env", "--ignore-environment", folder, *(f"{k}={v}" for k, v in environment.items()), *command]

    def megabytes(self) -> float:
        """Returns the size of all files."""
        files = (os.lstat(Path(folder) / name) for folder, _, names in os.walk(self.root) for name in names)
        return sum({status.st_ino: status.st_size for status in files}.values()) / 1e6


class Container:
    """Process of an image, as its user, with a read-only root. Ends at the end of the `with` block.

    Args:
      image: The image.
      data: The folder that is /data.
      settings: More environment variables.
      log: The file for its output.
      command: The command; None: that of the image.
    """

    def __init__(
        self, image: Image, *, data: Path, settings: Mapping[str, str], log: Path, command: Sequence[str] | None = None
    ) -> None:
        self._image, self._log, self._settings = image, log, settings
        inside = image.command(settings, command or image.config["Cmd"])
        namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
        with log.open("wb") as file:
            self._process = subprocess.Popen(  # noqa: S603
                [*namespaces, "sh", "-c", CONTAINER, "sh", str(image.root), str(data), *inside],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # --kill-child ends the others
        self._process.wait()

    def main(self) -> psutil.Process:
        """Returns the container's first process."""
        (main,) = psutil.Process(self._process.pid).children()
        return main

    def wait(self) -> None:
        """Waits until the image's own health check passes."""
        deadline, pause = time.monotonic() + START, threading.Event()
        while not pause.wait(0.5):
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            if self.health_check() == 0:
                return

    def health_check(self) -> int:
        """Runs the image's health check in the container, and returns its exit code."""
        kind, *command = self._image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        enter = ("nsenter", f"--target={self.main().pid}", "--mount", "--root", f"--setuid={USER}", f"--setgid={USER}")
        done = subprocess.run(  # noqa: S603
            [*enter, *self._image.command(self._settings, command)], capture_output=True, check=False, timeout=START
        )
        return done.returncode

    def log(self) -> str:
        """Returns the output so far."""
        return self._log.read_text(errors="replace")

    def check_restrictions(self) -> None:
        """Asserts that all processes run as the image's user, on a read-only root."""
        main = self.main()
        for process in [main, *main.children(recursive=True)]:
            assert set(process.uids()) == set(process.gids()) == {USER}, process
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "\nCapEff:\t0000000000000000\n" in status
            mounts = [line.split() for line in Path(f"/proc/{process.pid}/mounts").read_text().splitlines()]
            assert [options.split(",")[0] for _, target, _, options, *_ in mounts if target == "/"] == ["ro"]

    def stop(self) -> float:
        """Sends SIGTERM to the first process, and returns the seconds until its end."""
        start = time.monotonic()
        self.main().send_signal(signal.SIGTERM)
        assert self._process.wait(GRACE) == 0, self.log()
        return time.monotonic() - start


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yields the environment for buildah with a separate store, which is deleted at the end."""
    tools = ["buildah", "unshare", "nsenter", *["debootstrap"] * (BASE == "debian")]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing or sys.platform != "linux" or os.geteuid() != 0:
        pytest.fail(f"MUSTER_IMAGE_BASE is set, but these are missing: {missing or 'root on Linux'}", pytrace=False)
    root = tmp_path_factory.mktemp("storage")
    (root / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{root}/images"\nrunroot = "{root}/running"\n'
    )
    yield {**os.environ, "CONTAINERS_STORAGE_CONF": str(root / "storage.conf"), "BUILDAH_ISOLATION": "chroot"}
    shutil.rmtree(root)


def run(*command: str | Path, storage: dict[str, str]) -> str:
    """Runs a command that must succeed, and returns its output."""
    done = subprocess.run(  # noqa: S603
        command, env=storage, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=3600
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, storage: dict[str, str]) -> Iterator[dict[str, Image]]:
    """Builds all images as a release does, and yields them by name; the base image is `base`."""
    context = tmp_path_factory.mktemp("context")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("client", "functions", "requirements", "infra/images"):
        shutil.copytree(ROOT / name, context / name, ignore=ignore)
    for name in ("Containerfile", ".containerignore", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, context)
    build(out=context / "dist/bundles")
    base = BASE
    if base == "debian":
        base = run(context / "infra/images/debian.sh", "localhost/muster-base", storage=storage)
    # The certificates of this machine, during the steps only: a proxy may have its own.
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    options = [f"--volume={certificates}:{certificates}:ro"] if certificates.exists() else []
    script = context / "infra/images/build.sh"
    run(script, base, *options, storage={**storage, "ENGINE": "buildah"})
    yield {name: opened(image, storage) for name, image in {"base": base, **{name: name for name in LIMITS}}.items()}
    run("buildah", "umount", "--all", storage=storage)


def opened(image: str, storage: dict[str, str]) -> Image:
    """Mounts the files of an image."""
    container = run("buildah", "from", "--pull-never", image, storage=storage)
    config = json.loads(run("buildah", "inspect", "--type", "image", image, storage=storage))["Docker"]["config"]
    return Image(Path(run("buildah", "mount", container, storage=storage)), config)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Returns a folder of the images' user, for /data."""
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, USER, USER)
    return folder


def run_task(caller: ProtocolCaller, name: str, plan: Plan) -> None:
    """Runs a task of one round of sums to its end, and checks its exact result."""
    # Several folds. Those with graphs have to wait for each other, which no log calls an error.
    policy = {"rounds": 1, "goal": CLIENTS, "minimum": CLIENTS, "over_selection": 2.0, "chunk": 2}
    caller.make_task(name, plan.encode(), plan.sha256, **policy)
    for client in range(CLIENTS):
        update = encode({"0": np.int64(1 << client), "1": np.int64(1)})
        response = caller.upload(caller.assigned(name, client), update)
        assert response.ok, response.text
    caller.committed(name, 1)
    result = decode(caller.result(name, 1))
    assert {path: int(value) for path, value in result.items()} == {"total": (1 << CLIENTS) - 1, "count": CLIENTS}


def test_images_are_small_and_complete(images, measured):
    base = images["base"].megabytes()
    measured(f"image {'base':<28} {base:5.0f} MB")
    sizes = {name: images[name].megabytes() - base for name in LIMITS}
    for name, size in sizes.items():
        measured(f"image {name:<28} {base + size:5.0f} MB, of which {size:5.0f} MB are not the base image's")
    for name, size in sizes.items():
        config = images[name].config
        assert size < LIMITS[name], name
        assert (config["User"], config["Healthcheck"]["Test"][0]) == (f"{USER}:{USER}", "CMD"), name
        assert not list(images[name].root.glob("venv/lib/python*/site-packages/pip")), name
        assert list(images[name].root.glob("NOTICE")) + list(images[name].root.glob("function/NOTICE")), name


def test_images_of_functions_run_rounds(images, issuer, tmp_path, data, measured):
    stores = {"MUSTER_STATE": "sqlite:///data/state.db", "MUSTER_BLOBS": "file:///data/blobs"}
    with local_deployment(issuer, stores) as deployment, ExitStack() as stack:

        def start(name: str) -> Container:
            function = name.removesuffix("-tensorflow")
            settings = {key: value for key, value in deployment.settings.items() if key != "MUSTER_SECRET"}
            if function == "client_api":  # only the signing function has the key
                settings["MUSTER_SECRET"] = deployment.settings["MUSTER_SECRET"]
            settings["PORT"] = str(deployment.ports[function])
            image = images[f"muster-{name.replace('_', '-')}"]
            container = Container(image, data=data, settings=settings, log=tmp_path / f"{name}.log")
            return stack.enter_context(container)

        names = ("client_api", "operator_api", "aggregator", "committer")
        containers = {name: start(name) for name in names}
        for name, container in containers.items():
            container.wait()
            assert errors(container.log()) == [], name
        caller = ProtocolCaller(deployment)
        run_task(caller, "sums", PLAN)
        # Plans that fold with graphs need the other aggregator, at the same address.
        containers["aggregator"].stop()
        containers["aggregator-tensorflow"] = start("aggregator-tensorflow")
        containers["aggregator-tensorflow"].wait()
        assert errors(containers["aggregator-tensorflow"].log()) == []
        run_task(caller, "graphs", folded_by_graphs(PLAN))
        del containers["aggregator"]
        for container in containers.values():
            container.check_restrictions()
        ends = [container.stop() for container in containers.values()]
        measured(f"images of functions: the slowest ended {max(ends):.1f} s after SIGTERM")
    for log in tmp_path.glob("*.log"):
        assert errors(log.read_text()) == [], log.name


def test_image_of_muster_up_passes_the_smoke_test(images, tmp_path, data, unused_port, measured):
    image = images["muster-up"]
    port = str(unused_port)
    command = [port if word == "8080" else word for word in image.config["Cmd"]]
    # The health check has the image's port.
    check = [word.replace(":8080/", f":{port}/") for word in image.config["Healthcheck"]["Test"]]
    image = Image(image.root, {**image.config, "Cmd": command, "Healthcheck": {"Test": check}})
    with Container(image, data=data, settings={}, log=tmp_path / "up.log") as container:
        start = time.monotonic()
        container.wait()
        started = time.monotonic() - start
        assert direct.get(f"http://127.0.0.1:{port}/health", timeout=START).status_code == requests.codes.ok
        assert errors(container.log()) == []
        smoke_result = muster.smoke.run(f"http://127.0.0.1:{port}")
        assert smoke_result.passed, smoke_result
        container.check_restrictions()
        measured(f"image of muster up: healthy after {started:.1f} s, ended {container.stop():.1f} s after SIGTERM")
    for log in [tmp_path / "up.log", *data.rglob("*.log")]:
        assert errors(log.read_text()) == [], log
    assert list(data.rglob("*.log"))
